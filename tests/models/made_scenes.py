"""Batches of scenes with every label, for tests of methods that take whole images."""

from collections.abc import Sequence

import torch

from hmrkit.body import joints
from hmrkit.body.smpl import SMPL
from hmrkit.geometry.cameras import project
from hmrkit.geometry.rotations import axis_angle_to_rotmat
from hmrkit.types import Batch, Body


def labelled_scenes(
    body_model: SMPL,
    sizes_hw: Sequence[tuple[int, int]],
    num_people: Sequence[int],
    seed: int = 1,
    padded_hw: tuple[int, int] | None = None,
) -> Batch:
    """People near and far before one camera per image; all labels exact.

    Args:
        body_model: of the labels.
        sizes_hw: valid height and width of every image, px.
        num_people: in every image.
        seed: of everything.
        padded_hw: of the batch; the largest image, in multiples of 56, if not given.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    size = torch.tensor(sizes_hw)
    padded_hw = padded_hw or tuple((-(-size.amax(dim=0) // 56) * 56).tolist())
    images, of_images = torch.zeros(len(size), 3, *padded_hw), []
    for place, (height, width) in zip(images, sizes_hw, strict=True):
        place[:, :height, :width] = normal(3, height, width)
    for num in num_people:
        depth = 3 + 12 * torch.rand(num, 1, generator=generator)
        of_images.append(torch.cat([0.3 * depth * normal(num, 2).clamp(-1, 1), depth], dim=1))
    people = sum(num_people)
    image = torch.arange(len(size)).repeat_interleave(torch.tensor(num_people))
    rotmat = axis_angle_to_rotmat(0.2 * normal(people, 24, 3))
    label = Body(rotmat[:, 0], rotmat[:, 1:], 0.5 * normal(people, 10), torch.cat(of_images))
    points = body_model.joints(label, "all")
    size_px = size[image].flip(-1).float()
    intrinsics = torch.eye(3).repeat(people, 1, 1)
    intrinsics[:, [0, 1], [0, 1]] = size_px.amax(dim=1, keepdim=True)
    intrinsics[:, :2, 2] = size_px / 2
    points_crop = 2 * project(points, intrinsics) / size_px[:, None] - 1
    one = torch.ones(people, len(joints.names("all")), 1)
    yes = torch.ones(people, dtype=torch.bool)
    return {
        "image": images,
        "input_size": size,
        "image_of_view": image,
        "person_of_view": torch.arange(people),
        "crop_to_img": torch.cat([torch.diag_embed(size_px / 2), size_px[..., None] / 2], dim=-1),
        "intrinsics_of_view": intrinsics,
        "world_to_camera": torch.eye(4).repeat(len(size), 1, 1),
        "keypoints_crop": torch.cat([points_crop, one], dim=-1),
        "keypoints_world": torch.cat([points, one], dim=-1),
        "body": label,
        "has_pose": yes,
        "has_betas": yes,
        "has_transl": yes,
        "has_exact_labels": yes,
    }
