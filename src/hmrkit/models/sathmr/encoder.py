"""Image to tokens: DINOv2's transformer, on scale-adaptive tokens or on all of one size.

    image -> cells of 28 px, shrunk to 14 x 14 -> low-resolution tokens -> first blocks -> scale map
    cells of small people -> four tokens of 14 px each -> first blocks
    both, background pooled -> the other blocks -> norm -> tokens (N, D) of all images

Tokens of all images are rows of one tensor, image by image.
"""

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hmrkit.layers.vit import MLP
from hmrkit.models.sathmr import tokens
from hmrkit.models.sathmr.attention import attend
from hmrkit.models.sathmr.tokens import BLOCK_PX, CELL_PX, Cells, Tokens

PATCH_PX = 14
_EPSILON = 1e-6  # of the norms


class Encoded(NamedTuple):
    """N tokens of I images, image by image."""

    features: Tensor  # (N, D)
    counts: list[int]  # tokens of each image
    cells: Cells  # N places, each on the grid of its level
    level: Tensor  # (N,) int64
    cell_px: Tensor  # (N,) side of the token's cell
    scale_map: Tensor | None  # (C, 2) of all C cells of 28 px, in Morton order


class AdaptiveEncoder(nn.Module):
    """The scale-adaptive encoder.

    Args:
        long_side_px: of the square of which the position table is made; a multiple of 56.
        dim: width D of a token.
        depth: number of blocks.
        num_heads: of the attention.
        map_depth: blocks below the scale map, and of the closely seen tokens.
        num_levels: of tokens: 2 does not pool, 3 pools background to 56 px, 4 to 112 px.
        with_own_map_blocks: the low-resolution stage has blocks of its own.
        conf_threshold: somebody is where the scale map's confidence is above it.
        scale_threshold: somebody is small, and looked at closely, below it.
        embed: makes, for a width D, what turns patches of 14 px into tokens, such as
            ``stem.ConvStem``; None for DINOv2's ``PatchEmbed``.
    """

    cell_px, divisor_px = CELL_PX, BLOCK_PX

    def __init__(
        self,
        long_side_px: int = 1288,
        dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        map_depth: int = 3,
        num_levels: int = 3,
        with_own_map_blocks: bool = True,
        conf_threshold: float = tokens.PERSON,
        scale_threshold: float = tokens.SMALL,
        embed: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if long_side_px % BLOCK_PX or num_levels < 2:
            raise ValueError(
                f"long_side_px={long_side_px} must be a multiple of {BLOCK_PX} and "
                f"num_levels={num_levels} at least 2"
            )
        self.dim, self.num_levels, self.map_depth = dim, num_levels, map_depth
        self.thresholds = (conf_threshold, scale_threshold)
        side = long_side_px // PATCH_PX
        self.positions = nn.Parameter(0.02 * torch.randn(side, side, dim))
        self.class_token = nn.Parameter(0.02 * torch.randn(1, dim))
        self.patch_fine, self.patch_coarse = ((embed or PatchEmbed)(dim) for _ in range(2))
        self.blocks = nn.ModuleList(Block(dim, num_heads) for _ in range(depth))
        num_own = map_depth if with_own_map_blocks else 0
        self.map_blocks = nn.ModuleList(Block(dim, num_heads) for _ in range(num_own))
        self.norm = nn.LayerNorm(dim, eps=_EPSILON)
        _initialize(self)

    def forward(
        self,
        image: Tensor,
        cells: Cells,
        see: Callable[[Tensor], tuple[Tensor, Tensor]],
    ) -> Encoded:
        """Image to tokens.

        Args:
            image: (I, 3, H, W) normalised.
            cells: C cells of 28 px: all of every image, in Morton order.
            see: low-resolution tokens (C, D) to their scale map (C, 2) and to that by which the
                tokens are chosen.
        """
        is_own = own_area(image, cells)
        class_tokens, coarse = self._coarse(image, cells, is_own)
        predicted, chosen = see(coarse)
        selection = tokens.select(chosen, self.num_levels > 2, *self.thresholds)
        parts = [
            self._fine(image, cells.pick(selection.fine), is_own),
            Tokens(coarse[selection.kept], cells.pick(selection.kept), 1),
        ]
        if self.num_levels > 2:
            parts += tokens.pool(coarse, cells, selection.background, self.num_levels)
        values, places, level = _merge(parts)
        run = run_blocks(self.blocks[self.map_depth :], class_tokens, values, places.image)
        cell_px = PATCH_PX * 2.0**level
        return Encoded(self.norm(run.tokens), run.counts, places, level, cell_px, predicted)

    def _coarse(self, image: Tensor, cells: Cells, is_own: Tensor | None) -> tuple[Tensor, Tensor]:
        """Class tokens (I, D) and low-resolution tokens (C, D)."""
        table = halve_positions(self.positions)
        values = self.patch_coarse(F.avg_pool2d(image, CELL_PX // PATCH_PX), cells, is_own)
        values = values + table[cells.row, cells.column]
        blocks = self.map_blocks if len(self.map_blocks) else self.blocks[: self.map_depth]
        run = run_blocks(blocks, self.class_token.expand(len(image), -1), values, cells.image)
        return run.class_tokens, run.tokens

    def _fine(self, image: Tensor, cells: Cells, is_own: Tensor | None) -> Tokens:
        """Four tokens for each of some cells; they see those of their image and a class token.

        The class token goes in even where an image has no such cell, so that gradients (of 0)
        reach the blocks.
        """
        places = tokens.children(cells)
        values = self.patch_fine(image, places, is_own)
        values = values + self.positions[places.row, places.column]
        class_tokens = self.class_token.expand(len(image), -1)
        run = run_blocks(self.blocks[: self.map_depth], class_tokens, values, places.image)
        return Tokens(run.tokens, places, 0)


class PlainEncoder(nn.Module):
    """The baseline: every patch of 14 px is a token.

    Args:
        long_side_px: of the square of which the position table is made; a multiple of 14.
        dim: width D of a token.
        depth: number of blocks.
        num_heads: of the attention.
    """

    cell_px, divisor_px = PATCH_PX, PATCH_PX
    num_levels = 1

    def __init__(
        self, long_side_px: int = 1288, dim: int = 768, depth: int = 12, num_heads: int = 12
    ) -> None:
        super().__init__()
        self.dim = dim
        side = long_side_px // PATCH_PX
        self.positions = nn.Parameter(0.02 * torch.randn(side, side, dim))
        self.class_token = nn.Parameter(0.02 * torch.randn(1, dim))
        self.patch_fine = PatchEmbed(dim)
        self.blocks = nn.ModuleList(Block(dim, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=_EPSILON)
        _initialize(self)

    def forward(
        self,
        image: Tensor,
        cells: Cells,
        see: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
    ) -> Encoded:
        """Image (I, 3, H, W), normalised, to tokens, one for each of its cells of 14 px.

        ``see`` is not used: there is no scale map.
        """
        values = self.patch_fine(image, cells)
        values = values + self.positions[cells.row, cells.column]
        class_tokens = self.class_token.expand(len(image), -1)
        run = run_blocks(self.blocks, class_tokens, values, cells.image)
        level = torch.zeros_like(cells.row)
        cell_px = torch.full_like(cells.row, PATCH_PX)
        return Encoded(self.norm(run.tokens), run.counts, cells, level, cell_px, None)


class ScaleHead(nn.Module):
    """Low-resolution tokens to the scale map: confidence and scale in (0, 1)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=_EPSILON)
        self.mlp = ReLUMLP(dim, dim, 2, 4)

    def forward(self, coarse: Tensor) -> Tensor:
        """(C, D) to (C, 2)."""
        return self.mlp(self.norm(coarse)).float().sigmoid()


class ReLUMLP(nn.Module):
    """Linear layers with ReLUs between them."""

    def __init__(self, dim: int, num_hidden: int, dim_out: int, num_layers: int) -> None:
        super().__init__()
        widths = [dim, *[num_hidden] * (num_layers - 1), dim_out]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., dim) to (..., dim_out)."""
        for layer in self.layers[:-1]:
            hidden = F.relu(layer(hidden))
        return self.layers[-1](hidden)


class PatchEmbed(nn.Module):
    """Patches of 14 x 14 px to tokens; the weight has the layout of a convolution's."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, PATCH_PX, stride=PATCH_PX)

    def forward(self, image: Tensor, places: Cells, is_own: Tensor | None = None) -> Tensor:
        """Patches of an image (I, 3, H, W), normalised, at N places of 14 px: (N, D).

        ``is_own`` is not used: a patch does not reach beyond an image.
        """
        patches = places.of(patches_of(image))
        return F.linear(patches.flatten(1), self.proj.weight.flatten(1), self.proj.bias)


def halve_positions(table: Tensor) -> Tensor:
    """The position table (n, n, D) for tokens of twice the size, bicubic: (n / 2, n / 2, D)."""
    side = len(table)
    identity = torch.eye(side, device=table.device)[None, None]
    halve = F.interpolate(identity, size=(side // 2, side), mode="bicubic")[0, 0]  # (n / 2, n)
    with torch.autocast(table.device.type, enabled=False):
        rows = (halve @ table.flatten(1)).unflatten(1, (side, -1))  # (n / 2, n, D)
        return halve @ rows


def own_area(image: Tensor, cells: Cells) -> Tensor | None:
    """Which of the largest image's cells belong to each image (I, 3, H, W): (I, 1, rows, columns).

    None stands for all, where the images are of one size.

    Args:
        image: of which the largest fills the batch.
        cells: all cells of every image.
    """
    rows, columns = (side // CELL_PX for side in image.shape[-2:])
    if len(cells.image) == len(image) * rows * columns:
        return None
    is_own = image.new_zeros(len(image), 1, rows, columns)
    is_own[cells.image, 0, cells.row, cells.column] = 1
    return is_own


def patches_of(image: Tensor) -> Tensor:
    """Image (I, 3, 14 h, 14 w) as patches (I, h, w, 3, 14, 14), a view."""
    patches = image.unflatten(3, (-1, PATCH_PX)).unflatten(2, (-1, PATCH_PX))
    return patches.permute(0, 2, 4, 1, 3, 5)


def _merge(parts: Iterable[Tokens]) -> tuple[Tensor, Cells, Tensor]:
    """All tokens (N, D), image by image and level by level, their places and levels (N,)."""
    values, cells, levels = zip(*parts, strict=True)
    level = torch.cat([torch.full_like(c.row, n) for c, n in zip(cells, levels, strict=True)])
    every = Cells(*(torch.cat(column) for column in zip(*cells, strict=True)))
    order = every.image.argsort(stable=True)
    return torch.cat(values)[order], every.pick(order), level[order]


class Run(NamedTuple):
    """What blocks make of N tokens and I class tokens."""

    class_tokens: Tensor  # (I, D)
    tokens: Tensor  # (N, D)
    counts: list[int]  # tokens of each image


def run_blocks(
    blocks: Iterable[nn.Module], class_tokens: Tensor, values: Tensor, image: Tensor
) -> Run:
    """Send every image's class token and tokens through blocks.

    The rows of an image become neighbours, the class token first.

    Args:
        blocks: rows (I + N, D) and the rows of each image to such rows.
        class_tokens: (I, D).
        values: (N, D).
        image: (N,) ascending, the image of each token.
    """
    num_images = len(class_tokens)
    owner = torch.cat([torch.arange(num_images, device=image.device), image])
    order = owner.argsort(stable=True)
    counts: list[int] = owner.bincount(minlength=num_images).tolist()
    rows = torch.cat([class_tokens, values])[order]
    for block in blocks:
        rows = block(rows, counts)
    class_tokens, values = rows[order.argsort()].split([num_images, len(values)])
    return Run(class_tokens, values, [count - 1 for count in counts])


class Block(nn.Module):
    """Pre-norm attention and MLP, each scaled per channel and added to its input."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=_EPSILON)
        self.attn = Attention(dim, num_heads)
        self.ls1 = LayerScale(dim)
        self.norm2 = nn.LayerNorm(dim, eps=_EPSILON)
        self.mlp = MLP(dim, 4 * dim)
        self.ls2 = LayerScale(dim)

    def forward(self, rows: Tensor, counts: list[int]) -> Tensor:
        """Rows (N, D) of images with so many rows each to the same."""
        rows = self.ls1(self.attn(self.norm1(rows), counts), rows)
        return self.ls2(self.mlp(self.norm2(rows)), rows)


class LayerScale(nn.Module):
    """One factor per channel of what is added."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, change: Tensor, rows: Tensor) -> Tensor:
        """Change and rows (N, D) to their sum (N, D), the change scaled."""
        return torch.addcmul(rows, change, self.gamma)


class Attention(nn.Module):
    """Multi-head self-attention within images."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, rows: Tensor, counts: list[int]) -> Tensor:
        """Rows (N, D) of images with so many rows each to the same."""
        query, key, value = self.qkv(rows).unflatten(-1, (3, self.num_heads, -1)).unbind(1)
        return self.proj(attend(query, key, value, counts, counts))


def _initialize(encoder: nn.Module) -> None:
    """DINOv2's own initialisation, for encoders that begin without its weights."""
    for part in encoder.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            nn.init.zeros_(part.bias)
