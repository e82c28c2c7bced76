"""What is measured on a person, and by which protocol."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hmrkit import metrics
from hmrkit.body import joints
from hmrkit.body.smpl import SMPL
from hmrkit.types import Batch, Mesh


@dataclass(frozen=True)
class Protocol:
    """How a test source is scored; the report prints ``name`` beside every number.

    Attributes:
        name: what people call it.
        joint_set: the joints of MPJPE and PA-MPJPE, a name of ``body/joints.py``.
        root: names of the joints whose mean is the origin of MPJPE and PVE; they need not be in
            ``joint_set`` (Human3.6M's 14 joints are scored about a pelvis that is none of them).
    """

    name: str
    joint_set: str
    root: Sequence[str]

    def __post_init__(self) -> None:
        if self.joint_set not in joints.JOINT_SETS:
            raise ValueError(
                f"protocol {self.name!r}: unknown joint set {self.joint_set!r}; "
                f"known: {', '.join(sorted(joints.JOINT_SETS))}"
            )
        joints.index(list(self.root), self.measured_set)

    @property
    def measured_set(self) -> str:
        """The joint set that holds the scored joints and the root."""
        is_inside = set(self.root) <= set(joints.names(self.joint_set))
        return self.joint_set if is_inside else "all"


def label_mesh(batch: Batch, body_model: SMPL) -> Mesh:
    """The labelled bodies as meshes, in the world frame; rows without a label mean nothing."""
    return body_model(batch["body"])


def person_metrics(
    mesh: Mesh, labels: Mesh, batch: Batch, body_model: SMPL, protocol: Protocol
) -> dict[str, Tensor]:
    """MPJPE, PA-MPJPE and PVE of P persons, millimetres; NaN where a label is missing.

    Joints come from the labelled mesh where there is one, else from the 3D keypoints. MPJPE and PVE
    are taken after both roots are moved to the origin.

    Args:
        mesh: the prediction, (P, V, 3), any translation.
        labels: ``label_mesh(batch, body_model)``.
        batch: gives ``has_pose``, ``has_betas`` and ``keypoints_world``.
        body_model: regresses the joints of ``protocol.joint_set``.
        protocol: joints and root.

    Returns:
        ``{"mpjpe": (P,), "pa_mpjpe": (P,), "pve": (P,)}``.
    """
    measured = protocol.measured_set
    scored = joints.index(list(joints.names(protocol.joint_set)), measured)
    root = joints.index(list(protocol.root), measured)
    has_mesh = batch["has_pose"] & batch["has_betas"]
    predicted = body_model.joints_from_mesh(mesh, measured)  # (P, K, 3)
    posed = body_model.joints_from_mesh(labels, measured)
    posed = torch.cat([posed, torch.ones_like(posed[..., :1])], dim=-1)  # (P, K, 4)
    given = batch["keypoints_world"][:, joints.index(list(joints.names(measured)), "all")]
    target = torch.where(has_mesh[:, None, None], posed, given)
    predicted_root = predicted[:, root].mean(dim=1, keepdim=True)
    label_root = posed[:, root, :3].mean(dim=1, keepdim=True)
    pve = metrics.pve_mm(mesh.vertices - predicted_root, labels.vertices - label_root)
    return {
        "mpjpe": metrics.mpjpe_mm(predicted, target, root, scored),
        "pa_mpjpe": metrics.pa_mpjpe_mm(predicted, target, scored),
        "pve": torch.where(has_mesh, pve, torch.nan),
    }


def mean_pose_mesh(num_persons: int, body_model: SMPL) -> Mesh:
    """The baseline every report prints: the body's mean pose and shape for everybody."""
    mean = body_model(body_model.mean_body(1))
    return Mesh(mean.vertices.expand(num_persons, -1, -1), mean.joints.expand(num_persons, -1, -1))
