"""PoseResNet: a ResNet and three deconvolutions, from a crop to heatmaps a quarter of its size.

Simple baselines (Xiao et al. 2018) as AdaFuse trained it. Names of the state dict are upstream's.
"""

import torch
from torch import Tensor, nn

from hmrkit.layers.normed import activated, normed
from hmrkit.layers.resnet import Bottleneck

# Channels of upstream's weights that show Human3.6M's joints, in the order in which HeatFormer
# numbers its joints; the first 16 channels are MPII's.
CHANNELS = {
    "h36m_pelvis": 6, "h36m_right_hip": 2, "h36m_right_knee": 1, "h36m_right_ankle": 0,
    "h36m_left_hip": 3, "h36m_left_knee": 4, "h36m_left_ankle": 5, "h36m_spine": 7, "h36m_neck": 8,
    "h36m_jaw": 16, "h36m_head_top": 9, "h36m_left_shoulder": 13, "h36m_left_elbow": 14,
    "h36m_left_wrist": 15, "h36m_right_shoulder": 12, "h36m_right_elbow": 11,
    "h36m_right_wrist": 10,
}  # fmt: skip
JOINTS = tuple(CHANNELS)
SCALE = 4  # crop px per heatmap px
_NUM_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
_NUM_BLOCKS[152] = (3, 8, 36, 3)
_DEEP = 50  # layers from which blocks are bottlenecks


class PoseResNet(nn.Module):
    """Crops to heatmaps.

    Args:
        num_layers: 18, 34, 50, 101 or 152.
        num_maps: channels of the last layer.
        width: channels of the deconvolutions.
    """

    def __init__(self, num_layers: int = 152, num_maps: int = 33, width: int = 256) -> None:
        super().__init__()
        if num_layers not in _NUM_BLOCKS:
            raise ValueError(f"num_layers={num_layers}: choose one of {sorted(_NUM_BLOCKS)}")
        block = Bottleneck if num_layers >= _DEEP else BasicBlock
        expansion = 4 if num_layers >= _DEEP else 1
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        num_in = 64
        for stage, count in enumerate(_NUM_BLOCKS[num_layers]):
            planes = 64 * 2**stage
            blocks = [block(num_in, planes, 1 if stage == 0 else 2)]
            num_in = planes * expansion
            blocks += [block(num_in, planes, 1) for _ in range(count - 1)]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.deconv_layers = nn.Sequential(
            *(
                layer
                for channels in (num_in, width, width)
                for layer in (
                    nn.ConvTranspose2d(channels, width, 4, stride=2, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                )
            )
        )
        self.final_layer = nn.Conv2d(width, num_maps, 1)
        channels = torch.tensor(list(CHANNELS.values()))
        self.register_buffer("channels", channels, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, 3, H, W), normalised, to maps (B, 33, H / 4, W / 4)."""
        x = self.maxpool(activated(self.conv1, self.bn1, image))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        for first in range(0, len(self.deconv_layers), 3):
            x = activated(self.deconv_layers[first], self.deconv_layers[first + 1], x)
        return self.final_layer(x)

    def joint_maps(self, image: Tensor) -> Tensor:
        """Images (B, 3, H, W), normalised, to the maps (B, 17, H / 4, W / 4) of ``JOINTS``."""
        return self(image).index_select(1, self.channels)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: (B, C, H, W) to (B, width, H', W')."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, width, 1, stride=stride, bias=False),
                nn.BatchNorm2d(width),
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, width, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else normed(*self.downsample, x)
        x = activated(self.conv1, self.bn1, x)
        return activated(self.conv2, self.bn2, x, shortcut)
