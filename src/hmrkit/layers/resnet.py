"""ResNet with bottleneck blocks (He et al. 2016), the stride on the 3x3 convolution ("v1.5").

Names and shapes of the state dict are torchvision's, without the classifier, so the published
ImageNet weights and the backbones inside HMR's, CLIFF's and PyMAF's checkpoints load as they are.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from hmrkit.layers.normed import Pointwise, activated, normed

_EXPANSION = 4  # output channels of a block per channel of its 3x3 convolution


class ResNet(nn.Module):
    """Image to one feature vector.

    Args:
        layers: number of blocks in each of the four stages; ResNet-50 is [3, 4, 6, 3].
    """

    def __init__(self, layers: Sequence[int] = (3, 4, 6, 3)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(64, 64, layers[0], stride=1)
        self.layer2 = _stage(256, 128, layers[1], stride=2)
        self.layer3 = _stage(512, 256, layers[2], stride=2)
        self.layer4 = _stage(1024, 512, layers[3], stride=2)
        self.num_features = 512 * _EXPANSION
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W), normalised, to the last feature map (B, 2048, H / 32, W / 32)."""
        x = self.maxpool(activated(self.conv1, self.bn1, image))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def forward(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W), normalised, to the mean of the last feature map (B, 2048)."""
        return self.features(image).mean(dim=(2, 3))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut: (B, C, H, W) to (B, 4 width, H', W')."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = width * _EXPANSION
        self.conv1 = Pointwise(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = Pointwise(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 4 width, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else normed(*self.downsample, x)
        x = activated(self.conv1, self.bn1, x)
        x = activated(self.conv2, self.bn2, x)
        return activated(self.conv3, self.bn3, x, shortcut)


def _stage(in_channels: int, width: int, num_blocks: int, stride: int) -> nn.Sequential:
    first = Bottleneck(in_channels, width, stride)
    rest = [Bottleneck(width * _EXPANSION, width, 1) for _ in range(num_blocks - 1)]
    return nn.Sequential(first, *rest)
