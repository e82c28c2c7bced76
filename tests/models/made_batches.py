"""Batches of crops with every label, for tests of methods."""

import torch

from hmrkit.body.smpl import SMPL
from hmrkit.geometry.cameras import project
from hmrkit.geometry.rotations import axis_angle_to_rotmat
from hmrkit.types import Batch, Body


def labelled_crops(body_model: SMPL, size: tuple[int, int], num: int = 4) -> Batch:
    """Random people in the middle of random pictures, all labels exact."""
    generator = torch.Generator().manual_seed(1)
    rotmat = axis_angle_to_rotmat(0.3 * torch.randn(num, 24, 3, generator=generator))
    betas = torch.randn(num, 10, generator=generator)
    label = Body(rotmat[:, 0], rotmat[:, 1:], betas, torch.tensor([[0.0, 0.0, 4.0]] * num))
    points = body_model.joints(label, "all")
    intrinsics = torch.tensor([[3.0, 0, 0], [0, 3.0, 0], [0, 0, 1]]).expand(num, 3, 3)
    one = torch.ones_like(points[..., :1])
    yes = torch.ones(num, dtype=torch.bool)
    return {
        "image": torch.randn(num, 3, *size, generator=generator),
        "keypoints_crop": torch.cat([project(points, intrinsics), one], dim=-1),
        "keypoints_world": torch.cat([points, one], dim=-1),
        "body": label,
        "prior": Body(rotmat[:, 0].flip(0), rotmat[:, 1:].flip(0), betas.flip(0), label.transl),
        "has_pose": yes,
        "has_betas": yes,
        "has_exact_labels": torch.arange(num) % 2 == 0,
    }
