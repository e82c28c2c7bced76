"""A small convolutional way from pixels to tokens, for encoders that learn from nothing in minutes.

A transformer that begins without DINOv2's weights does not learn in that time. The stem looks
beyond its patch, but never beyond the image: what a batch adds to an image for the sake of larger
ones is zero before every convolution, as the border of an image is.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from hmrkit.models.sathmr.tokens import Cells

PATCH_PX = 14
_STRIDE = 16  # of the convolutions: 14 px are stretched to as many


class ConvStem(nn.Module):
    """In place of ``encoder.PatchEmbed``.

    Args:
        dim: width D of a token.
        width: channels of the first stage; they double in each of the three.
        depth: convolutions after those that shrink; each sees 14 px more in all directions.
    """

    def __init__(self, dim: int, width: int = 32, depth: int = 1) -> None:
        super().__init__()
        narrow, middle, wide = width, 2 * width, 4 * width
        self.blocks = nn.ModuleList(
            [
                _block(3, narrow, kernel=7, stride=4),
                _block(narrow, middle, kernel=3, stride=2),
                _block(middle, wide, kernel=3, stride=2),
                *(_block(wide, wide, kernel=3, stride=1) for _ in range(depth)),
            ]
        )
        self.proj = nn.Conv2d(wide, dim, kernel_size=1)

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


def _masked(hidden: Tensor, is_own: Tensor) -> Tensor:
    return hidden * F.interpolate(is_own, size=hidden.shape[-2:], mode="nearest")


def _block(in_channels: int, out_channels: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
