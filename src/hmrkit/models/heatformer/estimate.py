"""What the network believes about every view, where it begins, what it comes to in the world."""

from typing import NamedTuple

import roma
import torch
from torch import Tensor, nn

from hmrkit.body import joints
from hmrkit.body.smpl import SMPL
from hmrkit.geometry.rotations import (
    rot6d_interleaved_to_rotmat,
    rot6d_stacked_to_rotmat,
    rotmat_to_rot6d_interleaved,
    rotmat_to_rot6d_stacked,
)
from hmrkit.models.heatformer.views import Rig, ViewTable, map_affine
from hmrkit.types import Body, Prediction

_MEAN_CAM = (0.9, 0.0, 0.0)  # a standing person about fills the crop (SPIN's mean parameters)
_MIN_SCALE = 0.1  # of a weak camera that a distance is read from: a crop as wide as 20 m
_SMPL_PELVIS = joints.index("pelvis", "smpl24")


class Estimate(NamedTuple):
    """Bodies of O views, in the axes of their cameras."""

    root6d: Tensor  # (O, 6) stacked
    body6d: Tensor  # (O, 138), 23 times interleaved
    betas: Tensor  # (O, 10)
    cam: Tensor  # (O, 3) weak camera of the keypoint crop: scale and shift

    def rotmat(self) -> Tensor:
        """All rotations (O, 24, 3, 3)."""
        root = rot6d_stacked_to_rotmat(self.root6d)
        body = rot6d_interleaved_to_rotmat(self.body6d.unflatten(1, (23, 6)))
        return torch.cat([root[:, None], body], dim=1)

    def bodies(self) -> Body:
        """The bodies at the origin."""
        rotmat = self.rotmat()
        return Body(rotmat[:, 0], rotmat[:, 1:], self.betas, torch.zeros_like(self.cam))


class InitialEstimate(nn.Module):
    """Image tokens to a root rotation and a weak camera; the rest begins at the mean.

    Args:
        decoder: tokens to a feature (O, ``decoder.num_features``).
        body_model: gives the mean.
        with_interleaved_root: see ``HeatFormer``.
    """

    def __init__(self, decoder: nn.Module, body_model: SMPL, with_interleaved_root: bool) -> None:
        super().__init__()
        self.decoder = decoder
        self.decroot = nn.Linear(decoder.num_features, 6)
        self.deccam = nn.Linear(decoder.num_features, 3)
        mean = torch.as_tensor(body_model.mean_pose).float()
        pose6d = rotmat_to_rot6d_interleaved(mean)
        if not with_interleaved_root:
            pose6d = torch.cat([rotmat_to_rot6d_stacked(mean[:1]), pose6d[1:]])
        self.register_buffer("init_pose", pose6d)  # (24, 6)
        self.register_buffer("init_betas", torch.as_tensor(body_model.mean_betas).float()[None])
        self.register_buffer("init_cam", torch.tensor([_MEAN_CAM]))

    def forward(self, tokens: Tensor) -> Estimate:
        """Tokens (O, N, C) to the start, in float32."""
        feature = self.decoder(tokens)
        num = len(feature)
        return Estimate(
            self.decroot(feature).float() + self.init_pose[0],
            self.init_pose[1:].reshape(1, -1).expand(num, -1),
            self.init_betas.expand(num, -1),
            self.deccam(feature).float() + self.init_cam,
        )


def anchor_of_camera(
    cam: Tensor, pelvis: Tensor, intrinsics: Tensor, crop_to_img: Tensor
) -> Tensor:
    """Where a weak camera puts the pelvis in front of the real one: (O, 3) m, camera axes.

    Args:
        cam: (O, 3) scale and shift: crop units = scale * (x + shift).
        pelvis: (O, 3) m, of the body at the origin.
        intrinsics: (O, 3, 3) px of the source image.
        crop_to_img: (O, 2, 3) of the crop that the weak camera belongs to.
    """
    scale = cam[:, :1].clamp(min=_MIN_SCALE)
    units = scale * (pelvis[:, :2] + cam[:, 1:])
    pixel = map_affine(crop_to_img, units[:, None])[:, 0]
    px_per_unit = torch.linalg.det(crop_to_img[:, :, :2]).abs().sqrt()[:, None]
    depth = intrinsics[:, 0, :1].abs() / (scale * px_per_unit)
    pixel = torch.cat([pixel, torch.ones_like(depth)], dim=1)
    return depth * (torch.linalg.inv(intrinsics) * pixel[:, None]).sum(dim=-1)


def view_bodies(prediction: Prediction) -> Body:
    """The bodies of O views, each in the axes of its camera, the pelvis at its anchor."""
    said = prediction.extra
    return Body(said["rotmat"][:, 0], said["rotmat"][:, 1:], said["betas"], said["transl_view"])


@torch.no_grad()
def world_bodies(views: Body, table: ViewTable, rig: Rig, body_model: SMPL) -> Body:
    """One body per person in the world: the mean over the person's views.

    Rotations are averaged as matrices and made rotations again.

    Args:
        views: O bodies in the axes of their cameras.
        table: whose views they are.
        rig: the cameras.
        body_model: of the bodies.
    """
    root = (rig.rotation[..., None] * views.global_orient[:, :, None]).sum(dim=1)
    rotmat = torch.cat([root[:, None], views.body_pose], dim=1)
    rotmat = roma.special_procrustes(table.mean(rotmat))
    # A body turns about its first joint, which is not at the origin: the world's axes move both
    # it and the body's translation.
    pivot_cam = body_model.joints(views)[:, _SMPL_PELVIS]  # (O, 3)
    pivot_world = rig.to_world(pivot_cam)
    transl = table.mean(pivot_world - (pivot_cam - views.transl))
    return Body(rotmat[:, 0], rotmat[:, 1:], table.mean(views.betas), transl)
