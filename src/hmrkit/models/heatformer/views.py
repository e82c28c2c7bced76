"""Which views belong to which person, and what each view's camera makes of the world.

People may be seen by different numbers of cameras. What is said per view, O rows, becomes a table
of P rows and as many columns as the most seen person has views; a mask says which cells are empty.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hmrkit.geometry.cameras import project
from hmrkit.types import Batch


class ViewTable(NamedTuple):
    """Views by person, in the order in which they come."""

    counts: list[int]  # (P,) views of each person, at least 1
    person: Tensor  # (O,) int64
    slot: Tensor  # (O,) int64, cell of the table: person * columns + place among the person's views
    pairs: Tensor  # (E, 2) int64, view and another view of the same person
    mask: Tensor | None  # (P, columns) bool, which cells are filled; None where all are

    @property
    def num_columns(self) -> int:
        """Views of the person with the most."""
        return max(self.counts)

    def fill(self, values: Tensor) -> Tensor:
        """Values of views (O, ...) in the table, (P, columns, ...); empty cells are 0."""
        shape = (len(self.counts), self.num_columns)
        table = values.new_zeros(shape[0] * shape[1], *values.shape[1:])
        return table.index_copy(0, self.slot, values).unflatten(0, shape)

    def read(self, table: Tensor) -> Tensor:
        """Values of views (O, ...) out of a table (P, columns, ...)."""
        return table.flatten(0, 1).index_select(0, self.slot)

    def mean(self, values: Tensor) -> Tensor:
        """Means (P, ...) over each person's views of values (O, ...)."""
        total = values.new_zeros(len(self.counts), *values.shape[1:])
        counts = values.new_tensor(self.counts).view(-1, *[1] * (values.dim() - 1))
        return total.index_add(0, self.person, values) / counts


def tabulate(person_of_view: Tensor) -> ViewTable:
    """The table of views of ``person_of_view`` (O,).

    Raises:
        ValueError: if a person has no view.
    """
    owner = person_of_view.cpu().numpy()
    counts = np.bincount(owner)
    if not counts.all():
        raise ValueError(f"person {int(counts.argmin())} of the batch has no view; leave it out")
    order = np.argsort(owner, kind="stable")
    place = np.empty_like(owner)
    place[order] = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    is_pair = (owner[:, None] == owner) & ~np.eye(len(owner), dtype=bool)
    is_filled = np.arange(counts.max()) < counts[:, None]
    arrays = (owner, owner * counts.max() + place, np.argwhere(is_pair), is_filled)
    person, slot, pairs, mask = (torch.from_numpy(a).to(person_of_view.device) for a in arrays)
    return ViewTable(counts.tolist(), person, slot, pairs, None if is_filled.all() else mask)


class Rig(NamedTuple):
    """The calibrated cameras of O views and their two crops.

    Of mirrored views see ``proper_cameras``; ``intrinsics_crop`` belongs to the batch's own camera.
    """

    intrinsics: Tensor  # (O, 3, 3) px of the source image
    rotation: Tensor  # (O, 3, 3) world to camera
    transl: Tensor  # (O, 3) m: x_cam = rotation @ x_world + transl
    img_to_crop_px: Tensor  # (O, 2, 3) source image px to px of the image network's crop
    img_to_map_px: Tensor  # (O, 3, 3) source image px to px of the keypoint network's heatmaps
    intrinsics_crop: Tensor  # (O, 3, 3) m to units of the image network's crop

    def to_camera(self, points_world: Tensor) -> Tensor:
        """Points (O, K, 3) of the world, m, in the cameras' axes."""
        turned = (self.rotation[:, None] * points_world[..., None, :]).sum(dim=-1)
        return turned + self.transl[:, None]

    def to_world(self, points_cam: Tensor) -> Tensor:
        """Points (O, 3), m, one of each camera, in the world."""
        return (self.rotation * (points_cam - self.transl)[..., None]).sum(dim=1)

    def to_crop_px(self, points_cam: Tensor) -> Tensor:
        """Points (O, K, 3), m, in px (O, K, 2) of the image network's crop."""
        points_img = project(points_cam / points_cam[..., 2:], self.intrinsics)
        return map_affine(self.img_to_crop_px, points_img)


def read_rig(batch: Batch, crop_hw: tuple[int, int], map_hw: tuple[int, int]) -> Rig:
    """The cameras of a batch of rigs.

    Args:
        batch: as ``data=heatformer`` cuts it.
        crop_hw: height and width of the image network's crop.
        map_hw: height and width of the keypoint network's heatmaps.
    """
    intrinsics = batch.get("intrinsics_of_view")
    if intrinsics is None:
        intrinsics = batch["intrinsics"][batch["image_of_view"]]
    world_to_camera, side = proper_cameras(batch)
    to_units = torch.linalg.inv(square_affine(batch["crop_to_img"].double()))
    return Rig(
        intrinsics.float() * side[:, None],
        world_to_camera[:, :3, :3],
        world_to_camera[:, :3, 3],
        invert_crop(batch["crop_to_img"], crop_hw)[:, :2],
        invert_crop(batch["keypoint_crop_to_img"], map_hw),
        (to_units @ intrinsics.double()).float(),
    )


def proper_cameras(batch: Batch) -> tuple[Tensor, Tensor]:
    """World-to-camera matrices (O, 4, 4) of the views, none of which mirrors the world.

    Where augmentation mirrored world and crops, a camera looks at the mirrored world and its image
    is mirrored back: its matrix turns and mirrors. Here the mirror moves into the image.

    Returns:
        The matrices, and the signs (O, 3) that the columns of the intrinsics get.
    """
    matrix = batch["world_to_camera"][batch["image_of_view"]].float()
    turn = matrix[:, :3, :3]
    volume = (torch.linalg.cross(turn[:, 0], turn[:, 1], dim=-1) * turn[:, 2]).sum(dim=-1)
    side = torch.ones_like(matrix[:, 0])  # (O, 4)
    side[:, 0] = torch.where(volume < 0, -1.0, 1.0)
    return side[:, :, None] * matrix, side[:, :3]


def invert_crop(crop_to_img: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Maps (O, 3, 3) from source image px to px of an input, of maps (O, 2, 3) from crop units.

    Computed in double: a heatmap's peak is rounded to whole pixels.
    """
    height, width = size_hw
    units_to_px = [[width / 2, 0, width / 2], [0, height / 2, height / 2], [0, 0, 1]]
    img_to_units = torch.linalg.inv(square_affine(crop_to_img.double()))
    return (img_to_units.new_tensor(units_to_px) @ img_to_units).float()


def square_affine(matrix: Tensor) -> Tensor:
    """Affine maps (O, 2, 3) with their third row, (O, 3, 3)."""
    last = matrix.new_tensor([0.0, 0.0, 1.0]).expand(len(matrix), 1, 3)
    return torch.cat([matrix, last], dim=1)


def map_affine(matrix: Tensor, points: Tensor) -> Tensor:
    """Affine maps (O, 2, 3) of points (O, K, 2)."""
    return (matrix[:, None, :, :2] * points[..., None, :]).sum(dim=-1) + matrix[:, None, :, 2]
