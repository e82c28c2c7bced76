"""What the keypoint network sees in all views: joints, and where the pelvis is in the world."""

from typing import NamedTuple

import torch
from torch import Tensor

from hmrkit.body import joints
from hmrkit.models.heatformer.estimate import anchor_of_camera
from hmrkit.models.heatformer.fusion import fuse_heatmaps, soft_argmax, triangulate
from hmrkit.models.heatformer.heatmapper import JOINTS
from hmrkit.models.heatformer.views import Rig, ViewTable, invert_crop, map_affine
from hmrkit.types import Batch

PELVIS = JOINTS.index("h36m_pelvis")
_IN_BATCH = joints.index(JOINTS, "all")
_PELVIS_LABELS = joints.index(["h36m_pelvis", "openpose_pelvis"], "all")  # the best first


class Observed(NamedTuple):
    """Joints found in O views."""

    points_img: Tensor  # (O, 17, 2) px of the source images
    points_px: Tensor  # (O, 17, 2) px of the image network's crop
    peak: Tensor  # (O, 17) of the heatmaps before they were fused


@torch.no_grad()
def observe(maps: Tensor, table: ViewTable, rig: Rig, with_fusion: bool) -> Observed:
    """Joints in the heatmaps (O, 17, h, w) of all views, which help each other."""
    with torch.autocast(maps.device.type, enabled=False):
        _, peak = soft_argmax(maps)
        points, _ = soft_argmax(fuse_heatmaps(maps, table.pairs, rig) if with_fusion else maps)
        points_img = map_affine(torch.linalg.inv(rig.img_to_map_px)[:, :2], points)
        return Observed(points_img, map_affine(rig.img_to_crop_px, points_img), peak)


def visible_joints(batch: Batch, keypoint_size: tuple[int, int]) -> Tensor:
    """Which joints (O, 17) may be looked for: those that are not labelled outside the crop.

    Args:
        batch: rigs.
        keypoint_size: height and width of the keypoint network's crop.
    """
    labels = batch["keypoints_crop"][:, _IN_BATCH]  # (O, 17, 3)
    points_img = map_affine(batch["crop_to_img"], labels[..., :2])
    to_px = invert_crop(batch["keypoint_crop_to_img"], keypoint_size)
    points_px = map_affine(to_px[:, :2], points_img)
    limit = points_px.new_tensor(keypoint_size).flip(0)  # x, y
    is_inside = ((points_px >= 0) & (points_px < limit)).all(dim=-1)
    return is_inside | (labels[..., 2] == 0)


@torch.no_grad()
def find_anchor(
    observed: Observed,
    table: ViewTable,
    rig: Rig,
    cam: Tensor,
    pelvis_cam: Tensor,
    crop_to_img: Tensor,
    unit_per_metre: float,
) -> Tensor:
    """Where the pelvises are, (P, 3) m in the world.

    Triangulated; a person with one view stands where the initial camera says.

    Args:
        observed: the joints.
        table: the views.
        rig: the cameras.
        cam: (O, 3) initial weak cameras.
        pelvis_cam: (O, 3) m, of the initial bodies at the origin.
        crop_to_img: (O, 2, 3) of the keypoint network's crops.
        unit_per_metre: see ``triangulate``.
    """
    points_img = observed.points_img[:, PELVIS, None]
    anchor = triangulate(points_img, table, rig, unit_per_metre=unit_per_metre)[:, 0]
    if 1 in table.counts:
        seen = rig.to_world(anchor_of_camera(cam, pelvis_cam, rig.intrinsics, crop_to_img))
        is_alone = anchor.new_tensor(table.counts) == 1
        anchor = torch.where(is_alone[:, None], table.mean(seen), anchor)
    return anchor


def labelled_anchor(batch: Batch, anchor: Tensor) -> Tensor:
    """The labelled pelvises (P, 3), m in the world; ``anchor`` (P, 3) where there is no label."""
    for row in reversed(_PELVIS_LABELS):
        label = batch["keypoints_world"][:, row]  # (P, 4)
        anchor = torch.where(label[:, 3:] > 0, label[:, :3], anchor)
    return anchor
