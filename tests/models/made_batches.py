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


def placed_in_images(batch: Batch) -> Batch:
    """The same crops, each somewhere in an image of 800 x 600 px of unknown focal length."""
    num = len(batch["image"])
    generator = torch.Generator().manual_seed(2)
    width_height = torch.tensor([800.0, 600.0])
    crop_to_img = torch.zeros(num, 2, 3)
    half = 100 + 50 * torch.rand(num, generator=generator)
    crop_to_img[:, 0, 0] = half * batch["image"].shape[3] / batch["image"].shape[2]
    crop_to_img[:, 1, 1] = half
    crop_to_img[:, :, 2] = width_height * torch.rand(num, 2, generator=generator)
    number = torch.arange(num)
    return {
        **batch,
        "crop_to_img": crop_to_img,
        "full_size": torch.tensor([[600, 800]]).expand(num, 2),
        "intrinsics_of_view": torch.full((num, 3, 3), torch.nan),
        "image_of_view": number,
        "person_of_view": number,
    }
