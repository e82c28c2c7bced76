"""SPIN's evaluation of Human3.6M and MPI-INF-3DHP: joints as annotated."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hmrkit import metrics
from hmrkit.body import joints
from hmrkit.body.smpl import SMPL
from hmrkit.evaluation import Protocol, joint_metrics, label_mesh, prefixed, scored_meshes
from hmrkit.types import Batch, Prediction


@dataclass(frozen=True)
class StoredJoints(Protocol):
    """Joints against the annotated ones, also of people whose body is labelled.

    The annotated joints are taken as they are stored, about the origin of the annotation, which is
    the root in the authors' files; the predicted ones about their root. The error of the vertices
    is that of the bodies in their own frame, without any alignment.

    Attributes:
        name: see ``Protocol``.
        joint_set: see ``Protocol``.
        root: see ``Protocol``.
    """

    def measure(self, prediction: Prediction, batch: Batch, body_model: SMPL) -> dict[str, Tensor]:
        """See ``Protocol.measure``."""
        measured = self.measured_set
        scored = joints.index(list(joints.names(self.joint_set)), measured)
        root = joints.index(list(self.root), measured)
        target = self.annotated_joints(batch)
        has_body = batch["has_pose"] & batch["has_betas"]
        label = label_mesh(batch, body_model).vertices - batch["body"].transl[:, None]
        rows: dict[str, Tensor] = {}
        for prefix, mesh in scored_meshes(prediction, batch, body_model).items():
            predicted = body_model.joints_from_mesh(mesh, measured)
            predicted = predicted - predicted[:, root].mean(dim=1, keepdim=True)
            predicted = predicted.expand(len(target), -1, -1)
            values = joint_metrics(predicted, target, None, scored, self)
            pve = metrics.pve_mm(mesh.vertices, label)
            values["pve"] = torch.where(has_body, pve, torch.nan)
            rows |= prefixed(prefix, values)
        return rows

    def labels_in_words(self) -> str:
        """See ``Protocol.labels_in_words``."""
        return (
            "labels: the annotated joints as they are stored, about the origin of the annotation; "
            "PVE between the bodies in their own frames, of people with a labelled body"
        )
