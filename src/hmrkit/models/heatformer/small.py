"""A small convolutional keypoint network in place of the pose ResNet, for minutes on a CPU."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from hmrkit.models.heatformer.heatmapper import JOINTS
from hmrkit.weight_files import read_halves


class ConvHeatmapper(nn.Module):
    """Crops to heatmaps of a quarter of their size: down to a 16th, and up with shortcuts.

    Args:
        width: channels of the first of four stages; they double.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        channels = [3, *(width * 2**stage for stage in range(4))]
        self.stages = _stages(channels)
        self.up = nn.ModuleList(
            nn.Conv2d(channels[i], channels[i - 1], 1) for i in (4, 3)
        )  # from a 16th to an 8th, to a quarter
        self.mix = nn.ModuleList(_block(channels[i], channels[i], 1) for i in (3, 2))
        self.final_layer = nn.Conv2d(channels[2], len(JOINTS), 1)

    def joint_maps(self, image: Tensor) -> Tensor:
        """Images (B, 3, H, W), normalised, to the maps (B, 17, H / 4, W / 4) of ``JOINTS``."""
        maps = []
        for stage in self.stages:
            image = stage(image)
            maps.append(image)
        for up, mix, finer in zip(self.up, self.mix, (maps[2], maps[1]), strict=True):
            image = mix(F.interpolate(up(image), scale_factor=2.0) + finer)
        return self.final_layer(image)


def read_heatmapper(path: str | Path | None = None) -> dict[str, Tensor]:
    """Weights of ``ConvHeatmapper`` of width 16; for ``initial_weights``.

    Args:
        path: what ``tools/make_tiny_heatmapper.py`` made; None for the one that comes with hmrkit,
            which learned on made-up rigs.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    return read_halves(path or Path(__file__).with_name("tiny_heatmapper.safetensors"))


def _stages(channels: Sequence[int]) -> nn.ModuleList:
    """Two convolutions per stage, the first of which halves the map."""
    return nn.ModuleList(
        nn.Sequential(
            _block(num_in, num_out, 2, kernel=5 if num_in == 3 else 3), _block(num_out, num_out, 1)
        )
        for num_in, num_out in pairwise(channels)
    )


def _block(in_channels: int, out_channels: int, stride: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
