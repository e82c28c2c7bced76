"""What is measured on a person, and by which protocol."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from torch import Tensor

from hmrkit import metrics
from hmrkit.body import joints
from hmrkit.body.smpl import SMPL
from hmrkit.types import Batch, Mesh, Prediction


def build_protocol(node: "Mapping[str, Any] | Protocol") -> "Protocol":
    """The protocol of a source's node: ``Protocol``, or the class its ``_target_`` names.

    With the datamodule, Hydra builds what has a ``_target_``: that is returned as it is.

    Raises:
        ValueError: if the node has an option that cannot be.
    """
    if isinstance(node, Protocol):
        return node
    try:
        if "_target_" in node:
            return instantiate(dict(node), _convert_="all")
        return Protocol(**node)
    except TypeError as error:
        raise ValueError(str(error)) from error


@dataclass(frozen=True)
class Protocol:
    """How a test source is scored; the report prints ``name`` beside every number.

    A protocol of another kind derives from this one and replaces ``measure`` or ``summary``.

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

    def measure(self, prediction: Prediction, batch: Batch, body_model: SMPL) -> dict[str, Tensor]:
        """Score a batch: R rows of each column, R = P unless ``row_person`` says otherwise.

        Args:
            prediction: with its mesh.
            batch: labels and filler.
            body_model: the run's.

        Returns:
            ``<metric>``, ``baseline_<metric>`` (of the mean pose) and ``stage<i>_<metric>``, each
            (R,) in the metric's unit: NaN where a row has none, infinite where the prediction
            failed. If rows are not the labelled persons: ``row_person`` (R,) int64, a person of the
            batch or -1. ``_<name>`` (R, ...) are kept for ``summary`` and are no metrics.
        """
        labels = label_mesh(batch, body_model)
        return {
            prefix + metric: value
            for prefix, mesh in scored_meshes(prediction, batch, body_model).items()
            for metric, value in person_metrics(mesh, labels, batch, body_model, self).items()
        }

    def shown(self, prediction: Prediction) -> Prediction:
        """What the report draws of a prediction: all of it."""
        return prediction

    def summary(self, columns: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Numbers of a whole test set that are no means of its rows, by metric; none here.

        Args:
            columns: every row of the set, see ``hmrkit.report``.
        """
        return {}


def scored_meshes(prediction: Prediction, batch: Batch, body_model: SMPL) -> dict[str, Mesh]:
    """What is scored of P persons, by prefix of its columns: the result "", mean pose, stages."""
    assert prediction.mesh is not None
    meshes = {"": prediction.mesh}
    meshes["baseline_"] = mean_pose_mesh(len(batch["has_pose"]), body_model)
    for i, stage in enumerate(prediction.stages):
        meshes[f"stage{i}_"] = stage.mesh or body_model(stage.body)
    return meshes


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
