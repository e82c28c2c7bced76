"""HRNet (Sun et al. 2019; Wang et al. 2020): branches of several resolutions, fused repeatedly.

    image -> two 3x3 convolutions of stride 2 -> layer1 -> strides 4 and 8        (stage2)
          -> strides 4, 8, 16 (stage3) -> strides 4, 8, 16, 32 (stage4) -> head -> feature

Two heads make two networks. ``PoseHRNet`` halves the maps of each branch down to stride 32 and
concatenates them (CLIFF in Meta-HMR, 720 channels at width 48); ``ClassificationHRNet`` widens the
branches and adds them up on the way down (CLIFF, 2048). Names and shapes of the state dicts are
those of the authors' code; the classification network's are timm's too.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hmrkit.layers.normed import activated
from hmrkit.layers.resnet import Bottleneck

_STEM = 64
_LAYER1 = 256
_HEAD_WIDTHS = (32, 64, 128, 256)  # of the bottlenecks that widen the branches fourfold
_NUM_FEATURES = 2048


class HRNet(nn.Module):
    """The trunk: image to four maps at strides 4, 8, 16 and 32.

    Args:
        width: channels C of the finest branch; the others have 2 C, 4 C and 8 C.
        num_modules: exchanges between the branches in each of the three stages.
        num_blocks: residual blocks of a branch between two exchanges, and of ``layer1``.
    """

    def __init__(
        self, width: int = 48, num_modules: Sequence[int] = (1, 4, 3), num_blocks: int = 4
    ) -> None:
        super().__init__()
        self.widths = [width * 2**branch for branch in range(4)]
        self.conv1 = nn.Conv2d(3, _STEM, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        self.conv2 = nn.Conv2d(_STEM, _STEM, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(_STEM)
        rest = [Bottleneck(_LAYER1, _STEM, 1) for _ in range(num_blocks - 1)]
        self.layer1 = nn.Sequential(Bottleneck(_STEM, _STEM, 1), *rest)
        one, two, three, four = (self.widths[:count] for count in (1, 2, 3, 4))
        self.transition1 = nn.ModuleList(
            [_conv_norm(_LAYER1, one[0]), nn.Sequential(_conv_norm(_LAYER1, two[1], stride=2))]
        )
        self.stage2 = _stage(two, num_modules[0], num_blocks)
        self.transition2 = _new_branch(two)
        self.stage3 = _stage(three, num_modules[1], num_blocks)
        self.transition3 = _new_branch(three)
        self.stage4 = _stage(four, num_modules[2], num_blocks)

    def maps(self, image: Tensor) -> list[Tensor]:
        """Image (B, 3, H, W), normalised, to maps (B, C 2^i, H / 4 / 2^i, W / 4 / 2^i)."""
        x = activated(self.conv1, self.bn1, image)
        x = self.layer1(activated(self.conv2, self.bn2, x))
        maps = self.stage2([transition(x) for transition in self.transition1])
        maps = self.stage3([*maps, self.transition2[-1](maps[-1])])
        return self.stage4([*maps, self.transition3[-1](maps[-1])])


class PoseHRNet(HRNet):
    """Image to one feature vector: the branches side by side at stride 32.

    Args:
        width: see ``HRNet``.
        num_modules: see ``HRNet``.
        num_blocks: see ``HRNet``.
    """

    def __init__(
        self, width: int = 48, num_modules: Sequence[int] = (1, 4, 3), num_blocks: int = 4
    ) -> None:
        super().__init__(width, num_modules, num_blocks)
        self.downsample_stage_1 = _halvings(self.widths[0], 3)
        self.downsample_stage_2 = _halvings(self.widths[1], 2)
        self.downsample_stage_3 = _halvings(self.widths[2], 1)
        self.num_features = sum(self.widths)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.001)

    def forward(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W), normalised, to the mean of the last map (B, 15 C)."""
        fine, middle, coarse, coarsest = self.maps(image)
        maps = [
            self.downsample_stage_1(fine),
            self.downsample_stage_2(middle),
            self.downsample_stage_3(coarse),
            coarsest,
        ]
        return torch.cat([one.mean(dim=(2, 3)) for one in maps], dim=1)


class ClassificationHRNet(HRNet):
    """Image to one feature vector: the branches, widened, are added up from fine to coarse.

    Args:
        width: see ``HRNet``.
        num_modules: see ``HRNet``.
        num_blocks: see ``HRNet``.
    """

    def __init__(
        self, width: int = 48, num_modules: Sequence[int] = (1, 4, 3), num_blocks: int = 4
    ) -> None:
        super().__init__(width, num_modules, num_blocks)
        self.incre_modules = nn.ModuleList(
            nn.Sequential(Bottleneck(channels, width, 1))
            for channels, width in zip(self.widths, _HEAD_WIDTHS, strict=True)
        )
        wide = [4 * width for width in _HEAD_WIDTHS]
        self.downsamp_modules = nn.ModuleList(
            _conv_norm(wide[i], wide[i + 1], stride=2, bias=True) for i in range(3)
        )
        self.final_layer = _conv_norm(wide[-1], _NUM_FEATURES, kernel=1, bias=True)
        self.num_features = _NUM_FEATURES
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W), normalised, to the mean of the last map (B, 2048)."""
        wide = [widen(one) for widen, one in zip(self.incre_modules, self.maps(image), strict=True)]
        x = wide[0]
        for down, one in zip(self.downsamp_modules, wide[1:], strict=True):
            x = one + down(x)
        return self.final_layer(x).mean(dim=(2, 3))


class _Module(nn.Module):
    """Residual blocks in every branch, then an exchange: each branch becomes a sum of all."""

    def __init__(self, widths: Sequence[int], num_blocks: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(width) for _ in range(num_blocks))) for width in widths
        )
        numbers = range(len(widths))
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_bridge(widths, source, target) for source in numbers)
            for target in numbers
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps from fine to coarse, same shapes out as in."""
        maps = [branch(one) for branch, one in zip(self.branches, maps, strict=True)]
        fused = []
        for bridges in self.fuse_layers:
            parts = [bridge(one) for bridge, one in zip(bridges, maps, strict=True)]
            total = parts[0] + parts[1]
            for part in parts[2:]:
                total += part
            fused.append(self.relu(total))
        return fused


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: (B, C, H, W) to the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        return activated(self.conv2, self.bn2, activated(self.conv1, self.bn1, x), x)


def _stage(widths: Sequence[int], num_modules: int, num_blocks: int) -> nn.Sequential:
    """Modules in a row; takes and gives a list of maps."""
    return nn.Sequential(*(_Module(widths, num_blocks) for _ in range(num_modules)))


def _new_branch(widths: Sequence[int]) -> nn.ModuleList:
    """The branches go on as they are; one of half the resolution starts from the last."""
    new = nn.Sequential(_conv_norm(widths[-1], 2 * widths[-1], stride=2))
    return nn.ModuleList([*(nn.Identity() for _ in widths), new])


def _bridge(widths: Sequence[int], source: int, target: int) -> nn.Module:
    """What takes the map of one branch to the resolution and width of another."""
    if source == target:
        return nn.Identity()
    if source > target:
        up = nn.Upsample(scale_factor=2 ** (source - target), mode="nearest")
        conv, norm = _conv_norm(widths[source], widths[target], kernel=1, with_relu=False)
        return nn.Sequential(conv, norm, up)
    steps = [
        _conv_norm(widths[source], widths[source], stride=2) for _ in range(source, target - 1)
    ]
    last = _conv_norm(widths[source], widths[target], stride=2, with_relu=False)
    return nn.Sequential(*steps, last)


def _halvings(channels: int, num: int) -> nn.Sequential:
    """Convolutions of stride 2 that keep the width; one flat list of layers."""
    return nn.Sequential(
        *(layer for _ in range(num) for layer in _conv_norm(channels, channels, stride=2))
    )


def _conv_norm(
    in_channels: int,
    out_channels: int,
    kernel: int = 3,
    stride: int = 1,
    bias: bool = False,
    with_relu: bool = True,
) -> nn.Sequential:
    conv = nn.Conv2d(
        in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=bias
    )
    relu = [nn.ReLU(inplace=True)] if with_relu else []
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), *relu)
