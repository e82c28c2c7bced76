"""What SAT-HMR reads of a batch's labels, one row per labelled person in an image."""

from typing import NamedTuple

import torch
from torch import Tensor

from hmrkit.body import joints
from hmrkit.models.sathmr import tokens
from hmrkit.models.sathmr.tokens import Cells
from hmrkit.types import Batch

JOINT_SET = "smpl45"
ROWS = joints.index(joints.names(JOINT_SET), "all")
PELVIS = joints.index("pelvis", JOINT_SET)
NUM_BODY_JOINTS = 22  # SMPL's without the hands: they decide who is matched to whom
_BOX_MARGIN = 1.2
_MIN_CORNER = 1e-6


class SceneLabels(NamedTuple):
    """M labelled people, sorted by image. Absent labels are finite filler.

    People of whom no joint of the body is labelled in the image cannot be found there and are not
    among them.
    """

    image: Tensor  # (M,) int64
    person: Tensor  # (M,) int64, row of Batch's people
    camera_crop: Tensor  # (M, 3, 3) metres to crop units
    box: Tensor  # (M, 4) centre, size in shares of the longest side; within the image
    rotmats: Tensor  # (M, 24, 3, 3)
    betas: Tensor  # (M, 10)
    points: Tensor  # (M, 45, 3) metres, camera axes
    has_points: Tensor  # (M, 45) bool
    points_px: Tensor  # (M, 45, 2) px of the input
    has_points_px: Tensor  # (M, 45) bool
    depth: Tensor  # (M,) of the pelvis, metres
    focal_px: Tensor  # (M,) of the camera, px of the input
    has_body: Tensor  # (M,) bool: pose, betas, translation and camera are known, if not exactly
    has_pose: Tensor  # (M,) bool, exact
    has_betas: Tensor  # (M,) bool, exact
    has_joints: Tensor  # (M,) bool: 3D joints are exact
    has_depth: Tensor  # (M,) bool: depth and camera are exact
    has_all_bodies: Tensor  # (I,) bool: images of which everybody's body is known

    def pick(self, index: Tensor) -> "SceneLabels":
        """Some of the people."""
        return SceneLabels(*(values[index] for values in self[:-1]), self[-1])


def scene_labels(batch: Batch, long_side_px: int) -> SceneLabels:
    """The labels of a batch of scenes.

    Args:
        batch: reads everything but the images. Its world is the axes of the augmented camera.
        long_side_px: unit of boxes.
    """
    order = batch["image_of_view"].argsort(stable=True)
    has_body, cameras = _has_body(batch), _cameras_crop(batch)
    lacks_body = batch["image_of_view"][~has_body]
    is_found = (batch["keypoints_crop"][:, ROWS[:NUM_BODY_JOINTS], 2] > 0).any(dim=1)
    order = order[is_found[order]]
    image, person = batch["image_of_view"][order], batch["person_of_view"][order]
    size_px = batch["input_size"][image].flip(-1).float()  # (M, 2) width, height
    points_crop = batch["keypoints_crop"][order][:, ROWS]
    points_px = (points_crop[..., :2] + 1) / 2 * size_px[:, None]
    points = batch["keypoints_world"][person][:, ROWS]
    body = batch["body"]
    is_exact = batch["has_exact_labels"][person]
    has_joints = (points[:, PELVIS, 3] > 0) & is_exact
    camera = cameras[order]
    rotmats = torch.cat([body.global_orient[:, None], body.body_pose], dim=1)
    return SceneLabels(
        image=image,
        person=person,
        camera_crop=camera.nan_to_num(),
        box=box_around(points_px, points_crop[..., 2] > 0, size_px, long_side_px),
        rotmats=rotmats[person],
        betas=body.betas[person],
        points=points[..., :3],
        has_points=points[..., 3] > 0,
        points_px=points_px,
        has_points_px=points_crop[..., 2] > 0,
        depth=points[:, PELVIS, 2],
        focal_px=camera[:, 0, 0].nan_to_num() * size_px[:, 0] / 2,
        has_body=has_body[order],
        has_pose=batch["has_pose"][person] & is_exact,
        has_betas=batch["has_betas"][person] & is_exact,
        has_joints=has_joints,
        has_depth=has_joints & camera.isfinite().all(dim=(-1, -2)),
        has_all_bodies=torch.ones_like(batch["input_size"][:, 0], dtype=torch.bool).index_fill(
            0, lacks_body, False
        ),
    )


def _has_body(batch: Batch) -> Tensor:
    """Views (O,) of people whose pose, betas, translation and camera are known."""
    has_all = batch["has_pose"] & batch["has_betas"] & batch["has_transl"]
    return has_all[batch["person_of_view"]] & batch["intrinsics_of_view"].isfinite().all(
        dim=(-1, -2)
    )


def _cameras_crop(batch: Batch) -> Tensor:
    """Cameras (O, 3, 3) from the labels' frame to crop units; NaN where unknown."""
    turn = batch["world_to_camera"][batch["image_of_view"], :3, :3]
    to_img = batch["crop_to_img"]
    last = to_img.new_tensor([0.0, 0.0, 1.0]).expand(len(to_img), 1, 3)
    to_crop, _ = torch.linalg.inv_ex(torch.cat([to_img, last], dim=1))
    with torch.autocast(turn.device.type, enabled=False):  # three digits are too few for pixels
        return to_crop @ batch["intrinsics_of_view"] @ turn


def box_around(
    points_px: Tensor, is_labelled: Tensor, size_px: Tensor, long_side_px: int
) -> Tensor:
    """Boxes (M, 4) around joints, enlarged by 1.2 and cut to the image: centre and size.

    Args:
        points_px: (M, K, 2).
        is_labelled: (M, K) joints that count; without any the box is empty.
        size_px: (M, 2) width and height of the valid image.
        long_side_px: unit of the result.
    """
    counts = is_labelled[..., None]
    low = torch.where(counts, points_px, torch.inf).amin(dim=1)
    high = torch.where(counts, points_px, -torch.inf).amax(dim=1)
    center, half = (low + high) / 2, (high - low) / 2 * _BOX_MARGIN
    center, half = center.nan_to_num(nan=0.0), half.clamp(min=0)  # infinities of no joints
    corners = torch.stack([center - half, center + half]) / long_side_px
    corners = corners.clamp(min=_MIN_CORNER).minimum((size_px - 1) / long_side_px)
    return torch.cat([corners.mean(dim=0), corners[1] - corners[0]], dim=-1)


def label_map(
    points_cam: Tensor,
    labels: SceneLabels,
    input_size: Tensor,
    cells: Cells,
    grid_hw: tuple[int, int],
) -> Tensor:
    """The scale map (C, 2) of labelled people.

    Args:
        points_cam: (M, V, 3) their surfaces, metres.
        labels: M people.
        input_size: (I, 2) height and width of the valid images, px.
        cells: C cells of 28 px, all of every image.
        grid_hw: rows and columns of the largest image.
    """
    half_px = input_size[labels.image].flip(-1)[..., None] / 2  # (M, 2, 1) width, height
    camera = labels.camera_crop
    to_px = torch.cat([half_px * (camera[:, :2] + camera[:, 2:]), camera[:, 2:]], dim=1)
    with torch.autocast(points_cam.device.type, enabled=False):  # not project(): 28 000 points each
        rays = points_cam @ to_px.transpose(1, 2)
    points_px = rays[..., :2] / rays[..., 2:]
    is_seen = (points_cam[..., 2] > 0) & labels.has_body[:, None]
    scale = labels.box[:, 2:].norm(dim=1).clamp(max=1)
    people = tokens.People(labels.image, scale, labels.depth / labels.focal_px)
    return tokens.scale_map(points_px, is_seen, people, input_size, cells, grid_hw)
