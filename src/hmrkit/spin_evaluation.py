"""SPIN's evaluation of Human3.6M and MPI-INF-3DHP: joints as annotated, numbers by action."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hmrkit import metrics
from hmrkit.body import joints
from hmrkit.body.smpl import SMPL
from hmrkit.evaluation import Protocol, label_mesh, scored_meshes
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
        action: regular expression whose first group is the action in a record's name; "" for none.
            The summary then has the mean of PA-MPJPE of every action.
    """

    action: str = ""

    def measure(self, prediction: Prediction, batch: Batch, body_model: SMPL) -> dict[str, Tensor]:
        """See ``Protocol.measure``."""
        measured = self.measured_set
        scored = joints.index(list(joints.names(self.joint_set)), measured)
        root = joints.index(list(self.root), measured)
        target = batch["keypoints_world"][:, joints.index(list(joints.names(measured)), "all")]
        has_body = batch["has_pose"] & batch["has_betas"]
        label = label_mesh(batch, body_model).vertices - batch["body"].transl[:, None]
        rows = {}
        for prefix, mesh in scored_meshes(prediction, batch, body_model).items():
            predicted = body_model.joints_from_mesh(mesh, measured)
            predicted = predicted - predicted[:, root].mean(dim=1, keepdim=True)
            pve = metrics.pve_mm(mesh.vertices, label)
            rows[f"{prefix}mpjpe"] = metrics.mpjpe_mm(predicted, target, None, scored)
            rows[f"{prefix}pa_mpjpe"] = metrics.pa_mpjpe_mm(predicted, target, scored)
            rows[f"{prefix}pve"] = torch.where(has_body, pve, torch.nan)
        return rows

    def summary(self, columns: Mapping[str, np.ndarray]) -> dict[str, float]:
        """``pa_mpjpe_<action>``, mm, with the baseline's."""
        if not self.action:
            return {}
        found = [re.search(self.action, str(key)) for key in columns["key"]]
        actions = np.array([match[1].lower() if match else "" for match in found])
        return {
            f"{prefix}pa_mpjpe_{action}": float(np.nanmean(columns[column][actions == action]))
            for action in sorted(set(actions) - {""})
            for prefix, column in (("", "pa_mpjpe"), ("baseline_", "baseline_pa_mpjpe"))
            if not np.isnan(columns[column][actions == action]).all()
        }
