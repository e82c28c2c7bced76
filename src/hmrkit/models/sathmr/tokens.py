"""Scale-adaptive tokens: which parts of an image are looked at how closely.

An image is a grid of cells of 28 px. A scale map says of each cell whether somebody is in it
(confidence) and how large that person is (scale: the diagonal of the box over the longest side).
Cells of small people become four tokens of 14 px (level 0), cells of large people stay (level 1),
aligned blocks of 2 x 2 cells without anybody become one token of 56 px (level 2), and so on.

Cells are listed image by image in Morton order, in which the cells of an aligned block are
neighbours: (0, 0), (0, 1), (1, 0), (1, 1) as row and column. Nothing here loops over images.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

CELL_PX = 28
BLOCK_PX = 2 * CELL_PX  # images are padded to multiples of it, so that all blocks are complete
_NUM_BITS = 8  # of a row or column
PERSON, SMALL = 0.3, 0.5  # thresholds of confidence and scale (authors)


class Cells(NamedTuple):
    """N places on the grids of several images."""

    image: Tensor  # (N,) int64
    row: Tensor  # (N,) int64
    column: Tensor  # (N,) int64

    def pick(self, index: Tensor) -> "Cells":
        """Some of them."""
        return Cells(self.image[index], self.row[index], self.column[index])

    def parents(self) -> "Cells":
        """The places on the grid of half the resolution in which they lie."""
        return Cells(self.image, self.row >> 1, self.column >> 1)

    def of(self, grid: Tensor) -> Tensor:
        """Values (N, ...) of a grid (I, rows, columns, ...) at the places."""
        return grid[self.image, self.row, self.column]


class Tokens(NamedTuple):
    """N tokens of one level; their cells have a side of 14, 28, 56 ... px."""

    values: Tensor  # (N, D)
    cells: Cells
    level: int  # 0, 1, 2 ...


class Selection(NamedTuple):
    """What becomes of N cells of 28 px and their N / 4 blocks, by their numbers."""

    fine: Tensor  # cells that become four tokens of 14 px
    kept: Tensor  # cells that become one token
    background: Tensor  # blocks to be pooled


def cells_of(input_size: Tensor, cell_px: int, divisor_px: int, grid_hw: tuple[int, int]) -> Cells:
    """All cells of the images, those of their own padding included, in Morton order.

    Args:
        input_size: (I, 2) height and width of the valid images, px.
        cell_px: side of a cell.
        divisor_px: the images' own padding goes up to multiples of it.
        grid_hw: rows and columns of the largest image.
    """
    device = input_size.device
    axes = (torch.arange(length, device=device) for length in grid_hw)
    row, column = (axis.flatten() for axis in torch.meshgrid(*axes, indexing="ij"))
    order = morton_code(row, column).argsort()
    row, column = row[order], column[order]
    own_hw = -(-input_size // divisor_px) * (divisor_px // cell_px)  # (I, 2) cells
    is_inside = (row < own_hw[:, :1]) & (column < own_hw[:, 1:])  # (I, cells of the largest)
    image, place = is_inside.nonzero(as_tuple=True)
    return Cells(image, row[place], column[place])


def morton_code(row: Tensor, column: Tensor) -> Tensor:
    """Place on the Z-shaped curve: bits of the column at even places, of the row at odd ones."""
    code = torch.zeros_like(row)
    for bit in range(_NUM_BITS):
        code |= (column >> bit & 1) << (2 * bit) | (row >> bit & 1) << (2 * bit + 1)
    return code


def select(
    scale_map: Tensor,
    with_pooling: bool = True,
    conf_threshold: float = PERSON,
    scale_threshold: float = SMALL,
) -> Selection:
    """Which cells are looked at closely, kept or pooled; both thresholds are strict.

    Background beside a person, in the same block, is kept.

    Args:
        scale_map: (N, 2) confidence and scale of all cells.
        with_pooling: of blocks without a person; else their cells are kept.
        conf_threshold: above it somebody is in the cell.
        scale_threshold: below it that person is small.
    """
    is_person = scale_map[:, 0] > conf_threshold
    is_fine = is_person & (scale_map[:, 1] < scale_threshold)
    has_person = is_person.view(-1, 4).any(dim=1)
    if not with_pooling:
        has_person = torch.ones_like(has_person)
    is_kept = has_person.repeat_interleave(4) & ~is_fine
    return Selection(*(mask.nonzero()[:, 0] for mask in (is_fine, is_kept, ~has_person)))


def pool(values: Tensor, cells: Cells, background: Tensor, num_levels: int) -> Iterator[Tokens]:
    """Background tokens of levels 2, 3, ...: of four tokens the maximum in every channel.

    From level 3 on, tokens are pooled again where all four of an aligned block are background;
    blocks that the border cuts are not.

    Args:
        values: (N, D) tokens of all cells of 28 px.
        cells: N cells, all aligned blocks complete.
        background: numbers of the blocks to be pooled.
        num_levels: of all tokens, at least 3.
    """
    values, cells = _pool_blocks(values, cells, background)
    for level in range(2, num_levels - 1):
        image, row, column = cells.parents()
        block = (image << 2 * _NUM_BITS) + (row << _NUM_BITS) + column
        _, place, size = torch.unique_consecutive(block, return_inverse=True, return_counts=True)
        is_pooled = (size == 4)[place]
        yield Tokens(values[~is_pooled], cells.pick(~is_pooled), level)
        values, cells = values[is_pooled], cells.pick(is_pooled)
        every = torch.arange(len(values) // 4, device=values.device)
        values, cells = _pool_blocks(values, cells, every)
    yield Tokens(values, cells, num_levels - 1)


def _pool_blocks(values: Tensor, cells: Cells, chosen: Tensor) -> tuple[Tensor, Cells]:
    """Maxima of the chosen blocks of four neighbours, and where they lie on the coarser grid."""
    blocks = values.view(-1, 4, values.shape[1])[chosen]
    return blocks.amax(dim=1), cells.pick(4 * chosen).parents()


def children(cells: Cells) -> Cells:
    """The four places of twice the resolution in each of N cells: 4 N, cell by cell."""
    corner = torch.arange(4, device=cells.row.device)
    row = (2 * cells.row[:, None] + (corner >> 1)).flatten()
    column = (2 * cells.column[:, None] + (corner & 1)).flatten()
    return Cells(cells.image.repeat_interleave(4), row, column)


def scale_map(
    points_px: Tensor,
    is_seen: Tensor,
    people: "People",
    input_size: Tensor,
    cells: Cells,
    grid_hw: tuple[int, int],
) -> Tensor:
    """The scale map (N, 2) of labelled people: 1 and the scale of the nearest person in a cell.

    Points outside an image count for its border, so that somebody who is cut off has a cell.

    Args:
        points_px: (P, V, 2) projected surfaces, px of the input.
        is_seen: (P, V) bool, points to be counted: those in front of the camera.
        people: P of them.
        input_size: (I, 2) height and width of the valid images, px.
        cells: N cells of 28 px, all of every image.
        grid_hw: rows and columns of the largest image.
    """
    rows, columns = grid_hw
    num_people = len(people.scale)
    last = -(-input_size // CELL_PX) - 1  # (I, 2) the last cells that hold valid pixels
    place = torch.where(is_seen[..., None], points_px.flip(-1) / CELL_PX, 0.0).floor()
    place = place.clamp(min=0).minimum(last[people.image, None].to(place.dtype)).long()
    flat = (people.image[:, None] * rows + place[..., 0]) * columns + place[..., 1]  # (P, V)
    order = people.depth.argsort(stable=True)
    rank = torch.where(is_seen, order.argsort()[:, None], num_people)  # of the nearest 0
    nearest = rank.new_full((len(input_size) * rows * columns,), num_people)
    nearest = nearest.scatter_reduce(0, flat.flatten(), rank.flatten(), "amin")
    nearest = cells.of(nearest.view(-1, rows, columns))  # (N,)
    scales = torch.cat([people.scale[order], people.scale.new_zeros(1)])[nearest]
    return torch.stack([(nearest < num_people).to(scales.dtype), scales], dim=1)


class People(NamedTuple):
    """What a scale map tells of P people."""

    image: Tensor  # (P,) int64
    scale: Tensor  # (P,) in [0, 1]
    depth: Tensor  # (P,) the least is the nearest; any unit


def mesh_edges(faces: Tensor) -> Tensor:
    """The edges (E, 2) of a mesh with faces (F, 3), each once."""
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    return edges.sort(dim=1).values.unique(dim=0)


def surface_points(vertices: Tensor, edges: Tensor) -> Tensor:
    """Vertices (P, V, 3) and the middles of edges (E, 2): (P, V + E, 3)."""
    first, second = (vertices.index_select(1, end) for end in edges.unbind(dim=1))
    return torch.cat([vertices, (first + second) / 2], dim=1)
