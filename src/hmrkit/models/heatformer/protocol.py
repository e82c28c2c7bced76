"""How HeatFormer is scored: every view of a person is a row, in the axes of its camera.

Columns ``stage<i>_...`` are the iterations before the last. Beside the authors' numbers stand those
of the one body per person that hmrkit makes of the views, the same in the rows of all of them:
``person_pa_mpjpe``, and ``world_mpjpe``, whose joints are not moved at all.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from hmrkit import metrics
from hmrkit.body import joints
from hmrkit.body.smpl import SMPL
from hmrkit.evaluation import Protocol
from hmrkit.models.heatformer import scores
from hmrkit.models.heatformer.estimate import view_bodies
from hmrkit.models.heatformer.views import proper_cameras
from hmrkit.types import Batch, Body, Mesh, Prediction

_PERCENT = 100.0


@dataclass(frozen=True)
class ViewProtocol(Protocol):
    """MPJPE, PA-MPJPE and PVE of every view, against the labelled joints.

    PVE is taken after both first vertices are put together, as the authors do with their MPVPE.

    Attributes:
        with_pck: also the shares of joints below 150 mm and over the thresholds 1, 6, ... 146 mm,
            both after Procrustes alignment, in percent (MPI-INF-3DHP).
        with_person: also the one body per person in the world.
    """

    extras: ClassVar[tuple[str, ...]] = ("rotmat", "betas", "transl_view")

    with_pck: bool = False
    with_person: bool = True

    def measure(self, prediction: Prediction, batch: Batch, body_model: SMPL) -> dict[str, Tensor]:
        """Score a batch of rigs: O rows, a view each; see ``Protocol.measure``."""
        person = batch["person_of_view"]
        turn = proper_cameras(batch)[0][:, :3, :3]
        names = list(joints.names(self.measured_set))
        world = batch["keypoints_world"][:, joints.index(names, "all")]  # (P, K, 4)
        points = world[person, :, :3] @ turn.transpose(1, 2)  # the cameras' axes, any place
        target = torch.cat([points, world[person, :, 3:]], dim=-1)
        has_mesh = (batch["has_pose"] & batch["has_betas"])[person]
        labels = _at_origin(batch["body"], person, turn)
        label_vertices = body_model(labels).vertices  # (O, V, 3)
        stages = {f"stage{i}_": stage for i, stage in enumerate(prediction.stages)}
        bodies = {
            prefix: _bodies(stage, person, turn)
            for prefix, stage in {"": prediction, **stages}.items()
        }
        bodies["baseline_"] = body_model.mean_body(len(person))
        columns = {"row_person": person}
        for prefix, body in bodies.items():
            mesh = body_model(body)
            scored = self._joint_scores(self._joints(mesh, body_model), target)
            pve = scores.first_vertex_pve_mm(mesh.vertices, label_vertices)
            scored["pve"] = _scored(pve, has_mesh)
            columns |= {prefix + name: value for name, value in scored.items()}
        if self.with_person:
            for prefix, stage in {"": prediction, **stages}.items():
                mesh = stage.mesh or body_model(stage.body)
                scored = self._person_scores(self._joints(mesh, body_model), world)
                columns |= {prefix + name: value[person] for name, value in scored.items()}
        return columns

    def labels_in_words(self) -> str:
        """See ``Protocol.labels_in_words``."""
        pck = "; PA-PCK below 150 mm and PA-AUC over 1, 6, ... 146 mm" if self.with_pck else ""
        person = "; and of the one body that all views make of a person" if self.with_person else ""
        return (
            "labels: the annotated joints; every view of a person is a sample, in its camera's "
            f"axes; PVE about the first vertex{pck}{person}"
        )

    def _joints(self, mesh: Mesh, body_model: SMPL) -> Tensor:
        """Joints (N, K, 3) of ``measured_set``."""
        return body_model.joints_from_mesh(mesh, self.measured_set)

    def _rows(self) -> tuple[list[int], list[int]]:
        """Positions in ``measured_set`` of the joints that are scored, and of the root."""
        measured = self.measured_set
        names = joints.names(self.joint_set)
        return joints.index(list(names), measured), joints.index(list(self.root), measured)

    def _joint_scores(self, predicted: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Scores (O,) of joints (O, K, 3) against labels (O, K, 4), camera axes."""
        rows, root = self._rows()
        values = {
            "mpjpe": metrics.mpjpe_mm(predicted, target, root, rows),
            "pa_mpjpe": metrics.pa_mpjpe_mm(predicted, target, rows),
        }
        if self.with_pck:
            errors = scores.aligned_errors_mm(predicted[:, rows], target[:, rows, :3])
            has_all = (target[:, rows, 3] > 0).all(dim=1)
            for name, share in (("pa_pck", scores.pck(errors)), ("pa_auc", scores.auc(errors))):
                is_failed = errors.isnan().any(dim=1)
                share = torch.where(is_failed, torch.inf, _PERCENT * share)
                values[name] = torch.where(has_all, share, torch.nan)
        return values

    def _person_scores(self, predicted: Tensor, world: Tensor) -> dict[str, Tensor]:
        """Scores (P,) of the people's joints (P, K, 3) in the world."""
        rows, _ = self._rows()
        return {
            "person_pa_mpjpe": metrics.pa_mpjpe_mm(predicted, world, rows),
            "world_mpjpe": metrics.mpjpe_mm(predicted, world, None, rows),
        }


@dataclass(frozen=True)
class MaskedViewProtocol(ViewProtocol):
    """The same for labels of which only sure ones count: BEHAVE's OpenPose joints.

    Joints that do not count are errors of 0 and stay in the mean's denominator, and Procrustes
    alignment uses them all, as the authors do. There are no labelled bodies, so no PVE.

    Attributes:
        num_joints: the first so many joints of ``joint_set`` are scored.
        min_confidence: of a label that counts.
        regressor: file of a joint regressor (K, V) for ``joint_set`` (``J_regressor_body25.npy``);
            None for the body's own joints.
    """

    num_joints: int = 15
    min_confidence: float = 0.3
    regressor: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.regressor is not None and not Path(self.regressor).is_file():
            raise ValueError(
                f"protocol {self.name!r}: no joint regressor at {self.regressor}; put HeatFormer's "
                "J_regressor_body25.npy there, or set regressor=null for the body's own joints"
            )
        if len(list(self.root)) != 1 or self._rows()[1][0] not in self._rows()[0]:
            raise ValueError(f"protocol {self.name!r}: the root is one of the scored joints")

    def labels_in_words(self) -> str:
        """See ``Protocol.labels_in_words``."""
        regressor = "the body's own" if self.regressor is None else self.regressor
        return (
            f"labels: the first {self.num_joints} annotated joints of confidence "
            f"{self.min_confidence} or more, the others count as errors of 0; predicted joints by "
            f"{regressor} regressor; every view of a person is a sample, in its camera's axes"
        )

    def _rows(self) -> tuple[list[int], list[int]]:
        rows, root = super()._rows()
        return rows[: self.num_joints], root

    def _joints(self, mesh: Mesh, body_model: SMPL) -> Tensor:
        if self.regressor is None:
            return super()._joints(mesh, body_model)
        regressor = _read_regressor(self.regressor).to(mesh.vertices)
        shape = (len(joints.names(self.joint_set)), mesh.vertices.shape[1])
        if regressor.shape != shape:
            raise ValueError(
                f"{self.regressor} is {tuple(regressor.shape)}, {self.joint_set} of this body "
                f"needs {shape}"
            )
        return regressor @ mesh.vertices

    def _joint_scores(self, predicted: Tensor, target: Tensor) -> dict[str, Tensor]:
        rows, root = self._rows()
        is_sure = target[:, rows, 3] >= self.min_confidence
        values = scores.masked_errors_mm(
            predicted[:, rows], target[:, rows, :3], is_sure, rows.index(root[0])
        )
        return {name: _scored(value, is_sure.any(dim=1)) for name, value in values.items()}

    def _person_scores(self, predicted: Tensor, world: Tensor) -> dict[str, Tensor]:
        confidence = world[..., 3:] * (world[..., 3:] >= self.min_confidence)
        return super()._person_scores(predicted, torch.cat([world[..., :3], confidence], dim=-1))


def _bodies(prediction: Prediction, person: Tensor, turn: Tensor) -> Body:
    """Predicted bodies of O views; of a method that has one per person, that one in every view."""
    if "rotmat" in prediction.extra:
        return view_bodies(prediction)
    return _at_origin(prediction.body, person, turn)


def _at_origin(body: Body, person: Tensor, turn: Tensor) -> Body:
    """Bodies of O views in the axes of their cameras, at the origin."""
    root = turn @ body.global_orient[person]
    return Body(root, body.body_pose[person], body.betas[person], 0 * body.transl[person])


def _scored(value: Tensor, has_label: Tensor) -> Tensor:
    """Values (O,), infinite where the prediction failed, NaN without a label."""
    return torch.where(has_label, torch.where(value.isfinite(), value, torch.inf), torch.nan)


@lru_cache(maxsize=4)
def _read_regressor(path: str) -> Tensor:
    return torch.from_numpy(np.load(path, allow_pickle=False).astype(np.float32))
