"""A body as animation software wants it: mesh at rest, skeleton, weights, joint matrices."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hmrkit.body import joints
from hmrkit.body.smpl import SMPL
from hmrkit.types import Body


@dataclass(frozen=True)
class Rig:
    """One person's mesh and skeleton at rest; J joints, V vertices, metres.

    Attributes:
        vertices: (V, 3).
        joints: (J, 3).
        weights: (V, J).
        parents: of each joint; the root's is -1.
        names: of the joints.
    """

    vertices: Tensor
    joints: Tensor
    weights: Tensor
    parents: tuple[int, ...]
    names: tuple[str, ...]


@torch.no_grad()
def rig_and_bones(body_model: SMPL, body: Body) -> tuple[Rig, Tensor]:
    """Take a moving person apart into what stays and what moves.

    The mesh at rest has the person's shape and the mean of the pose correctives over all frames, so
    that one frame is reproduced exactly; in many, vertices are off by how far a frame's correctives
    are from that mean: nothing at most joints, up to a centimetre or two where a limb bends much.

    Args:
        body_model: the body.
        body: T >= 1 frames of one person, who has the mean of their shapes.

    Returns:
        The rig, and (T, J, 3, 4) transforms of its bones: what takes a point at rest to where it
        is, ``vertex = sum_j weight_j (bone_j @ [vertex at rest, 1])``.
    """
    betas = body.betas.mean(dim=0, keepdim=True).expand_as(body.betas)
    one_shape = Body(body.global_orient, body.body_pose, betas, body.transl)
    features, transforms, posed_joints = body_model._pose(one_shape)
    rest = torch.addmm(body_model._template, features.mean(dim=0, keepdim=True), body_model._blend)
    rest_joints = body_model._joint_template + (betas[0] @ body_model._joint_dirs).view(-1, 3)
    bones = transforms.permute(0, 3, 1, 2)  # (T, J + 1, 3, 4), the last one is the translation
    bones = torch.cat([bones[:, :-1, :, :3], bones[:, :-1, :, 3:] + bones[:, -1:, :, 3:]], dim=-1)
    weights = body_model._weights[:-1].T
    rig = Rig(
        vertices=rest.view(3, -1).T,
        joints=rest_joints,
        weights=weights / weights.sum(dim=1, keepdim=True),
        parents=(-1, *body_model._parents[1:].tolist()),
        names=joints.names("smpl24")[: posed_joints.shape[1]],
    )
    return rig, bones
