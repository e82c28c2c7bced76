"""A small convolutional way from pixels to tokens, for encoders that learn in minutes.

A transformer that begins without DINOv2's weights does not learn in that time. The stem's own begin
as the quick start's convolutions, which have learned what people look like. It looks beyond its
patch, but never beyond the image: what a batch adds to an image for the sake of larger ones is zero
before every convolution, as the border of an image is.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from hmrkit.models.sathmr.tokens import Cells

PATCH_PX = 14
_STRIDE = 16  # of the convolutions: 14 px are stretched to as many


class ConvStem(nn.Module):
    """In place of ``encoder.PatchEmbed``: two convolutions per stage, as ``convnet.ConvNet`` has.

    Args:
        dim: width D of a token.
        width: channels of the first of the four stages; they double.
        is_frozen: the convolutions stay as they are.
    """

    def __init__(self, dim: int, width: int = 16, is_frozen: bool = False) -> None:
        super().__init__()
        channels = [3, *(width * 2**stage for stage in range(4) for _ in range(2))]
        self.blocks = nn.ModuleList(
            _block(channels[i], channels[i + 1], kernel=5 if i == 0 else 3, stride=2 - i % 2)
            for i in range(8)
        )
        self.proj = nn.Conv2d(channels[-1], dim, kernel_size=1)
        self.is_frozen = is_frozen
        if is_frozen:
            self.blocks.requires_grad_(False)

    def forward(self, image: Tensor, places: Cells, is_own: Tensor | None) -> Tensor:
        """Tokens (N, D) of an image (I, 3, H, W), normalised, at N places of 14 px.

        Args:
            image: of which the largest fills the batch.
            places: N of them.
            is_own: (I, 1, rows, columns), see ``encoder.own_area``; of any resolution. None: all.
        """
        size = [side // PATCH_PX * _STRIDE for side in image.shape[-2:]]
        hidden = F.interpolate(image, size=size, mode="bilinear", align_corners=False)
        for block in self.blocks:
            hidden = block(hidden if is_own is None else _masked(hidden, is_own))
        return places.of(self.proj(hidden).permute(0, 2, 3, 1))

    def train(self, mode: bool = True) -> "ConvStem":
        """Frozen norms do not follow the batches."""
        super().train(mode)
        self.blocks.train(mode and not self.is_frozen)
        return self


def _masked(hidden: Tensor, is_own: Tensor) -> Tensor:
    return hidden * F.interpolate(is_own, size=hidden.shape[-2:], mode="nearest")


def _block(in_channels: int, out_channels: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
