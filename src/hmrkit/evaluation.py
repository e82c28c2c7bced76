"""What is measured on a person, and by which protocol."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from hydra.utils import instantiate
from torch import Tensor

from hmrkit import metrics
from hmrkit.body import joints
from hmrkit.body.smpl import SMPL
from hmrkit.motion_metrics import motion_columns
from hmrkit.types import Batch, Mesh, Prediction

_PCK_M = 0.15  # MPI-INF-3DHP's threshold


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

    A protocol of another kind derives from this one and replaces ``measure``, ``summary`` or parts.

    Attributes:
        name: what people call it.
        joint_set: the joints of MPJPE and PA-MPJPE, a name of ``body/joints.py``.
        root: names of the joints whose mean is the origin of MPJPE and PVE; they need not be in
            ``joint_set`` (Human3.6M's 14 joints are scored about a pelvis that is none of them).
        with_pck: also MPI-INF-3DHP's shares of joints nearer than 150 mm, and over the thresholds
            0, 5, ... 150 mm, in percent, about the root.
        frames: regular expression that a record's name must hold to count; "" for all records.
        action: regular expression whose first group is the action in a record's name; "" for none.
            The report then has a table by action.
        sequence: likewise the video; "" for none. Differences of two reports are then resampled by
            video.
        with_motion: also acceleration error and jitter of videos whose records are named
            ``<video>...<number of the frame>`` and whose people have a number of their own.
    """

    extras: ClassVar[tuple[str, ...]] = ()  # what ``measure`` reads of ``Prediction.extra``

    name: str
    joint_set: str
    root: Sequence[str]
    with_pck: bool = field(default=False, kw_only=True)
    frames: str = field(default="", kw_only=True)
    action: str = field(default="", kw_only=True)
    sequence: str = field(default="", kw_only=True)
    with_motion: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.joint_set not in joints.JOINT_SETS:
            raise ValueError(
                f"protocol {self.name!r}: unknown joint set {self.joint_set!r}; "
                f"known: {', '.join(sorted(joints.JOINT_SETS))}"
            )
        joints.index(list(self.root), self.measured_set)
        for option in ("frames", "action", "sequence"):
            try:
                groups = re.compile(getattr(self, option)).groups
            except re.error as error:
                raise ValueError(f"protocol {self.name!r}: {option}: {error}") from error
            if option != "frames" and getattr(self, option) and groups < 1:
                raise ValueError(
                    f"protocol {self.name!r}: {option}={getattr(self, option)!r} needs a group in "
                    "parentheses around what it names"
                )
        if self.with_motion and not self.sequence:
            raise ValueError(f"protocol {self.name!r}: with_motion needs sequence=")

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
        target = self.target_joints(labels, batch, body_model)
        rows: dict[str, Tensor] = {}
        for prefix, mesh in scored_meshes(prediction, batch, body_model).items():
            rows |= prefixed(prefix, person_metrics(mesh, labels, target, batch, body_model, self))
        return rows

    def mesh_joints(self, mesh: Mesh, body_model: SMPL) -> Tensor:
        """Joints (P, K, 3) of ``measured_set``, metres, of predicted meshes."""
        return body_model.joints_from_mesh(mesh, self.measured_set)

    def target_joints(self, labels: Mesh, batch: Batch, body_model: SMPL) -> Tensor:
        """Labelled joints (P, K, 4) of ``measured_set``, metres and confidence.

        Those of the labelled mesh where there is one, else the annotated ones.
        """
        posed = body_model.joints_from_mesh(labels, self.measured_set)
        posed = torch.cat([posed, torch.ones_like(posed[..., :1])], dim=-1)
        has_mesh = batch["has_pose"] & batch["has_betas"]
        return torch.where(has_mesh[:, None, None], posed, self.annotated_joints(batch))

    def vertex_errors(
        self, mesh: Mesh, labels: Mesh, predicted: Tensor, target: Tensor, body_model: SMPL
    ) -> Tensor:
        """PVE (P,), mm, after the roots of the joints (P, K, 3) and (P, K, 4) are put together."""
        root = joints.index(list(self.root), self.measured_set)
        own, other = (x[:, root, :3].mean(dim=1, keepdim=True) for x in (predicted, target))
        return metrics.pve_mm(mesh.vertices, labels.vertices, own - other)

    def annotated_joints(self, batch: Batch) -> Tensor:
        """The annotated 3D joints of ``measured_set``, (P, K, 4) metres and confidence."""
        names = list(joints.names(self.measured_set))
        return batch["keypoints_world"][:, joints.index(names, "all")]

    def shown(self, prediction: Prediction) -> Prediction:
        """What the report draws of a prediction: all of it."""
        return prediction

    def complete(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The rows of a whole set that count, with columns that need all of them.

        Args:
            columns: every row that was measured, see ``hmrkit.report``.

        Returns:
            The columns, with ``action`` and ``sequence`` where the protocol tells them from names,
            and ``accel`` and ``jitter`` of videos.

        Raises:
            ValueError: if no record counts.
        """
        keys = [str(key) for key in columns["key"]]
        rows = np.array([re.search(self.frames, key) is not None for key in keys], bool)
        if not rows.any():
            raise ValueError(f"protocol {self.name!r}: no record's name holds {self.frames!r}")
        table = {name: np.asarray(column)[rows] for name, column in columns.items()}
        for name in ("action", "sequence"):
            if pattern := getattr(self, name):
                found = [re.search(pattern, str(key)) for key in table["key"]]
                table[name] = np.array([match[1] if match else "" for match in found])
        return table | (motion_columns(table) if "_joints" in table else {})

    def summary(self, columns: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Numbers of a whole test set that are no means of its rows, by metric; none here.

        Args:
            columns: what ``complete`` returns.
        """
        return {}

    def words(self) -> str:
        """The protocol in a few sentences, for people who compare numbers of two papers."""
        num, origin = len(joints.names(self.joint_set)), " and ".join(self.root)
        origin = f"the mean of {origin}" if len(self.root) > 1 else origin
        parts = [
            f"{num} joints ({self.joint_set}), moved so that {origin} is the origin",
            "PA: after the similarity transform of each person that fits best",
            self.labels_in_words(),
            f"records named like {self.frames!r}" if self.frames else "every record of the set",
            "people without a label do not count, a failed prediction leaves no mean",
        ]
        return "; ".join(parts)

    def labels_in_words(self) -> str:
        """What predictions are compared with."""
        return "labels: the labelled body as a body of the run's, else the annotated joints"


def prefixed(prefix: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Columns of a baseline or a stage; of what is no metric, ``_name``, the result's alone."""
    return {
        prefix + name: value
        for name, value in values.items()
        if not prefix or not name.startswith("_")
    }


def scored_meshes(prediction: Prediction, batch: Batch, body_model: SMPL) -> dict[str, Mesh]:
    """What is scored, by prefix of its columns: the result "", mean pose (one row), stages."""
    assert prediction.mesh is not None
    meshes = {"": prediction.mesh}
    meshes["baseline_"] = body_model.mean_mesh()
    for i, stage in enumerate(prediction.stages):
        meshes[f"stage{i}_"] = stage.mesh or body_model(stage.body)
    return meshes


def label_mesh(batch: Batch, body_model: SMPL) -> Mesh:
    """The labelled bodies as meshes, in the world frame; rows without a label mean nothing."""
    return body_model(batch["body"])


def person_metrics(
    mesh: Mesh, labels: Mesh, target: Tensor, batch: Batch, body_model: SMPL, protocol: Protocol
) -> dict[str, Tensor]:
    """MPJPE, PA-MPJPE and PVE of P persons, millimetres; NaN where a label is missing.

    Joints come from the labelled mesh where there is one, else from the 3D keypoints. MPJPE and PVE
    are taken after both roots are moved to the origin.

    Args:
        mesh: the prediction, (P, V, 3), any translation; or (1, V, 3), the same for everybody.
        labels: the labelled bodies.
        target: their joints, ``protocol.target_joints(labels, batch, body_model)``.
        batch: gives ``has_pose`` and ``has_betas``.
        body_model: regresses the joints of ``protocol.joint_set``.
        protocol: joints and root.

    Returns:
        ``{"mpjpe": (P,), "pa_mpjpe": (P,), "pve": (P,)}``.
    """
    measured = protocol.measured_set
    scored = joints.index(list(joints.names(protocol.joint_set)), measured)
    root = joints.index(list(protocol.root), measured)
    predicted = protocol.mesh_joints(mesh, body_model).expand(len(target), -1, -1)
    pve = protocol.vertex_errors(mesh, labels, predicted, target, body_model)
    pve = torch.where(batch["has_pose"] & batch["has_betas"], pve, torch.nan)
    values = joint_metrics(predicted, target, root, scored, protocol)
    return {"mpjpe": values.pop("mpjpe"), "pa_mpjpe": values.pop("pa_mpjpe"), "pve": pve, **values}


def joint_metrics(
    predicted: Tensor,
    target: Tensor,
    root: Sequence[int] | None,
    scored: Sequence[int],
    protocol: Protocol,
) -> dict[str, Tensor]:
    """What a protocol measures on the joints of P persons.

    Args:
        predicted: (P, K, 3) metres.
        target: (P, K, 4) metres and confidence.
        root: joints whose mean becomes the origin on both sides; None compares as given.
        scored: the joints that count, k of them.
        protocol: says what is measured.

    Returns:
        ``mpjpe``, ``pa_mpjpe`` (P,) mm; with ``with_pck`` ``pck``, ``auc`` (P,) percent; no
        metrics: ``_joint_mm`` (P, k), and ``with_motion`` ``_joints`` (P, k, 3), ``_label_joints``
        (P, k, 4) metres about the root.
    """
    joint_mm = metrics.joint_errors_mm(predicted, target, root, scored)
    values = {
        "mpjpe": joint_mm.nanmean(dim=1),
        "pa_mpjpe": metrics.pa_mpjpe_mm(predicted, target, scored),
        "_joint_mm": joint_mm,
    }
    if protocol.with_pck:
        values["pck"] = 100 * metrics.pck(predicted, target, _PCK_M, root, scored)
        values["auc"] = 100 * metrics.auc(predicted, target, root, scored)
    if protocol.with_motion:
        for name, points in (("_joints", predicted), ("_label_joints", target)):
            origin = 0.0 if root is None else points[:, root, :3].mean(dim=1, keepdim=True)
            moved = torch.cat([points[..., :3] - origin, points[..., 3:]], dim=-1)
            values[name] = moved[:, scored]
    return values


def mean_pose_mesh(num_persons: int, body_model: SMPL) -> Mesh:
    """The baseline every report prints: the body's mean pose and shape for everybody."""
    mean = body_model.mean_mesh()
    return Mesh(mean.vertices.expand(num_persons, -1, -1), mean.joints.expand(num_persons, -1, -1))
