"""What a query says about a person, in the terms of the labels."""

from typing import NamedTuple

import torch
from torch import Tensor

from hmrkit.body.smpl import SMPL
from hmrkit.geometry.cameras import project
from hmrkit.geometry.rotations import rot6d_interleaved_to_rotmat
from hmrkit.models.sathmr.labels import JOINT_SET, PELVIS
from hmrkit.types import Body

_MIN_SCALE = 1e-6


class Estimates(NamedTuple):
    """N people as queries see them."""

    rotmats: Tensor  # (N, 24, 3, 3)
    betas: Tensor  # (N, 10)
    box: Tensor  # (N, 4) centre, size in shares of the longest side
    points: Tensor  # (N, 45, 3) metres, camera axes
    points_px: Tensor  # (N, 45, 2) px of the input
    depth_per_px: Tensor  # (N,) of the pelvis over the focal length, metres per px

    def pick(self, index: Tensor) -> "Estimates":
        """Some of them."""
        return Estimates(*(values[index] for values in self))


def estimate(
    body: Body,
    transl: Tensor,
    box: Tensor,
    intrinsics_crop: Tensor,
    size: Tensor,
    body_model: SMPL,
    with_detached_joints: bool = False,
) -> Estimates:
    """Joints in metres and pixels of N people.

    Args:
        body: N bodies at the origin.
        transl: (N, 3) metres, to the camera.
        box: (N, 4).
        intrinsics_crop: (N, 3, 3) camera metres to crop units.
        size: (N, 2) height and width of their valid images, px.
        body_model: makes joints.
        with_detached_joints: gradients of pixels reach the translation alone.
    """
    joints = body_model.joints(body, JOINT_SET)
    points = joints + transl[:, None]
    projected = joints.detach() + transl[:, None] if with_detached_joints else points
    size_px = size.flip(-1).float()  # width, height
    focal_px = intrinsics_crop[:, 0, 0] * size_px[:, 0] / 2
    return Estimates(
        rotmats=torch.cat([body.global_orient[:, None], body.body_pose], dim=1),
        betas=body.betas,
        box=box,
        points=points,
        points_px=(project(projected, intrinsics_crop) + 1) / 2 * size_px[:, None],
        depth_per_px=points[:, PELVIS, 2] / focal_px,
    )


def to_body(pose6d: Tensor, betas: Tensor) -> Body:
    """Bodies at the origin from 24 interleaved 6D rotations (P, 144) and betas (P, 10)."""
    rotmat = rot6d_interleaved_to_rotmat(pose6d.unflatten(1, (24, 6)))  # (P, 24, 3, 3)
    return Body(rotmat[:, 0], rotmat[:, 1:], betas, betas.new_zeros(len(betas), 3))


def cam_to_transl(cam: Tensor, focal_px: float, long_side_px: float) -> Tensor:
    """Translations (..., 3), metres, from shift and scale (..., 3) of a weak-perspective camera.

    The scale is at most 2: nobody is nearer than the focal length over the longest side, in metres.
    """
    scale = 2 * cam[..., 2:].sigmoid() + _MIN_SCALE
    return torch.cat([cam[..., :2] / scale, 2 * focal_px / (scale * long_side_px)], dim=-1)
