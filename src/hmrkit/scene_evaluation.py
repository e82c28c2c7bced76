"""Methods that find people themselves: who of them is who of the labelled ones, and the scores.

The matching rule and the scores of AGORA's evaluation, which SAT-HMR and others follow.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hmrkit import metrics
from hmrkit.body import joints
from hmrkit.body.gendered import GenderedBodies
from hmrkit.body.smpl import SMPL
from hmrkit.evaluation import Protocol, label_mesh, mean_pose_mesh, person_metrics, prefixed
from hmrkit.geometry.cameras import project, transform
from hmrkit.types import Batch, Body, Mesh, Prediction

_MIN_OVERLAP = 0.1
_MATCHED = "smpl24"  # the joints by which people are matched
_SAID = ("joints_px",)  # joints in the image that are not those of the body
_TOO_NEAR = 1e-6  # m, added to depths before they are divided by, as upstream does


@dataclass(frozen=True)
class SceneProtocol(Protocol):
    """Whole images: people are matched by their joints in the image, then scored in space.

    Rows are the labelled people, then the found ones who are nobody. Errors are those of labelled
    people who were found; ``recall`` is 1 or 0 of every labelled, ``precision`` of every found
    person. The baseline is the mean pose in place of the people who were found.

    Attributes:
        min_score: who scores above it counts as found.
        min_overlap: of the boxes around the joints of a match, intersection over union.
        bodies: licensed bodies by gender, for labels that mean those; None: the run's own body.
        vertices: file of the numbers of the vertices that count in PVE (``body_verts_smpl.npy`` of
            AGORA's evaluation code); None: all.
    """

    min_score: float = 0.5
    min_overlap: float = _MIN_OVERLAP
    bodies: GenderedBodies | None = None
    vertices: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vertices is not None and not Path(self.vertices).is_file():
            raise FileNotFoundError(
                f"protocol {self.name!r}: no file {self.vertices}; AGORA's evaluation code holds "
                "it as body_verts_smpl.npy, and vertices=null counts all of them"
            )

    def shown(self, prediction: Prediction) -> Prediction:
        """Who counts as found."""
        return detected(prediction, self.min_score)

    @torch.no_grad()
    def measure(self, prediction: Prediction, batch: Batch, body_model: SMPL) -> dict[str, Tensor]:
        """Score a batch; see the class and ``Protocol.measure``.

        Raises:
            ValueError: if somebody's body is not labelled.
        """
        if prediction.image_of_person is None:  # the method was told where they are
            return super().measure(prediction, batch, body_model)
        if not bool((batch["has_pose"] & batch["has_betas"] & batch["has_transl"]).all()):
            raise ValueError(
                f"protocol {self.name!r} matches people by the joints of their bodies, and a "
                f"record of {sorted(set(batch['key']))} holds somebody without pose, betas or "
                "translation"
            )
        found = self.shown(prediction)
        mesh = found.mesh or body_model(found.body)
        labels = self._label_mesh(batch, body_model)
        person, label = match_scenes(found, mesh, batch, labels, self.min_overlap)
        rows = self._rows(_pick(mesh, person), labels, batch, body_model, label)
        detections = _detections(len(found.body.betas), len(batch["has_pose"]), label)
        num_wrong = len(mesh.joints) - len(person)
        rows = {
            name: torch.cat([row, row.new_full((num_wrong, *row.shape[1:]), torch.nan)])
            for name, row in rows.items()
        }
        assert found.score is not None
        is_wrong = torch.ones_like(found.score, dtype=torch.bool).index_fill(0, person, False)
        missed = found.score.new_full((len(batch["has_pose"]),), torch.nan)
        score = missed.index_copy(0, label, found.score[person])
        rows["_score"] = torch.cat([score, found.score[is_wrong]])
        return rows | detections

    def summary(self, columns: Mapping[str, np.ndarray]) -> dict[str, float]:
        """F1, the errors over it, rounded as AGORA's tables are, and the calibration of the score.

        ``ece``: the expected calibration error of the scores as chances that somebody is there, in
        percent, over ten bins of those who count as found.
        """
        if "recall" not in columns:
            return {}
        recall, precision = columns["recall"], columns["precision"]
        num_found = int(np.nansum(recall))
        f1 = detection_scores(num_found, int((precision == 0).sum()), int((recall == 0).sum())).f1
        numbers = {"f1": f1}
        for name, normalized in (("mpjpe", "nmje"), ("pve", "nmve")):
            for prefix in ("", "baseline_"):
                values = columns[prefix + name]
                error_mm = float(np.nanmean(values)) if num_found else float("inf")
                numbers[prefix + normalized] = normalized_error(error_mm, f1)
        if "_score" in columns:
            is_found = ~np.isnan(precision)
            score = np.asarray(columns["_score"])[is_found]
            numbers["ece"] = 100 * calibration_error(score, precision[is_found])
        return numbers

    def labels_in_words(self) -> str:
        """See ``Protocol.labels_in_words``."""
        bodies = "a body of the run's" if self.bodies is None else "the body of their gender"
        surface = "all vertices" if self.vertices is None else f"the vertices in {self.vertices}"
        return (
            f"labels: the labelled body as {bodies}; who scores above {self.min_score} is found, "
            "and is matched to the labels by the joints in the image (boxes that overlap by "
            f"{self.min_overlap}, nearest first); errors of people who are found, over {surface}; "
            "F1, precision and recall to two digits before NMJE and NMVE, as AGORA rounds"
        )

    def _label_mesh(self, batch: Batch, body_model: SMPL) -> Mesh:
        if self.bodies is None:
            return label_mesh(batch, body_model)
        mesh = label_mesh(batch, self.bodies[-1].to(batch["gender"].device))
        for gender in (0, 1):
            own = label_mesh(batch, self.bodies[gender].to(batch["gender"].device))
            is_own = (batch["gender"] == gender)[:, None, None]
            mesh = Mesh(
                torch.where(is_own, own.vertices, mesh.vertices),
                torch.where(is_own, own.joints, mesh.joints),
            )
        return mesh

    def _rows(
        self, mesh: Mesh, labels: Mesh, batch: Batch, body_model: SMPL, label: Tensor
    ) -> dict[str, Tensor]:
        """Errors of K matched people, in the rows of their labels; NaN elsewhere."""
        own = {name: batch[name][label] for name in ("has_pose", "has_betas", "keypoints_world")}
        target = _pick(labels, label)
        meshes = {"": mesh, "baseline_": mean_pose_mesh(len(label), body_model)}
        points = self.target_joints(target, own, body_model)
        rows = {}
        for prefix, posed in meshes.items():
            values = person_metrics(posed, target, points, own, body_model, self)
            one = torch.ones_like(target.vertices[..., :1])
            surface = torch.cat([target.vertices, one], dim=-1)
            if self.vertices is not None:
                values["pve"] = self._surface_error(posed, target, body_model)
            values["pa_pve"] = metrics.pa_mpjpe_mm(posed.vertices, surface)
            for name, value in prefixed(prefix, values).items():
                empty = value.new_full((len(batch["has_pose"]), *value.shape[1:]), torch.nan)
                rows[name] = empty.index_copy(0, label, value)
        return rows

    def _surface_error(self, mesh: Mesh, labels: Mesh, body_model: SMPL) -> Tensor:
        """PVE (K,) of the vertices that count, about the root; mm."""
        root = joints.index(list(self.root), self.measured_set)
        rows = torch.from_numpy(np.load(self.vertices).astype(np.int64)).to(mesh.joints.device)
        own, other = (
            (m.vertices - body_model.joints_from_mesh(m, self.measured_set)[:, root].mean(1, True))
            for m in (mesh, labels)
        )
        return metrics.pve_mm(own[:, rows], other[:, rows])


def calibration_error(score: np.ndarray, is_right: np.ndarray, num_bins: int = 10) -> float:
    """Expected calibration error (Guo et al. 2017): mean gap of score and share, over equal bins.

    Args:
        score: (N,) in [0, 1].
        is_right: (N,) 1 or 0.
        num_bins: of the unit interval.

    Returns:
        In [0, 1]; NaN without anybody, or if a score is not in [0, 1].
    """
    if not len(score) or not ((score >= 0) & (score <= 1)).all():
        return float("nan")
    place = np.minimum((score * num_bins).astype(int), num_bins - 1)
    gaps = np.bincount(place, weights=score - is_right, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(score))


def detected(prediction: Prediction, min_score: float) -> Prediction:
    """The people of a prediction whose score is above a threshold.

    Stages and what a method says beside people and joints are left out.
    """
    assert prediction.score is not None
    assert prediction.image_of_person is not None
    kept = (prediction.score > min_score).nonzero()[:, 0]
    body = prediction.body
    return Prediction(
        body=Body(
            body.global_orient[kept], body.body_pose[kept], body.betas[kept], body.transl[kept]
        ),
        transl_cam=prediction.transl_cam[kept],
        intrinsics_crop=prediction.intrinsics_crop[kept],
        score=prediction.score[kept],
        image_of_person=prediction.image_of_person[kept],
        mesh=prediction.mesh and _pick(prediction.mesh, kept),
        extra={name: prediction.extra[name][kept] for name in _SAID if name in prediction.extra},
    )


def match_scenes(
    found: Prediction, mesh: Mesh, batch: Batch, labels: Mesh, min_overlap: float = _MIN_OVERLAP
) -> tuple[Tensor, Tensor]:
    """Match the found people of every image to its labelled ones.

    Args:
        found: N people.
        mesh: theirs.
        batch: P labelled people.
        labels: their meshes, in the world frame.
        min_overlap: see ``match_people``.

    Returns:
        Rows (K,) of the found people and rows (K,) of the labelled ones.
    """
    found_px, label_px = found_joints_px(found, mesh, batch), label_joints_px(batch, labels)
    pairs = [torch.zeros(2, 0, dtype=torch.int64)]
    for image in range(len(batch["input_size"])):
        own = (found.image_of_person == image).nonzero()[:, 0]
        view = (batch["image_of_view"] == image).nonzero()[:, 0]
        matches = match_people(found_px[own].cpu(), label_px[view].cpu(), min_overlap)
        person = batch["person_of_view"][view].cpu()
        pairs.append(torch.stack([own.cpu()[matches.prediction], person[matches.label]]))
    person, label = torch.cat(pairs, dim=1).to(found_px.device)
    return person, label


def found_joints_px(found: Prediction, mesh: Mesh, batch: Batch) -> Tensor:
    """Joints (N, 24, 2) of found people, px of the input; as said, where they are said apart."""
    if "joints_px" in found.extra:
        return found.extra["joints_px"]
    points = mesh.joints + found.transl_cam[:, None]
    points = points + points.new_tensor([0.0, 0.0, _TOO_NEAR])
    size_px = batch["input_size"][found.image_of_person].flip(-1).float()
    return (project(points, found.intrinsics_crop) + 1) / 2 * size_px[:, None]


def label_joints_px(batch: Batch, labels: Mesh) -> Tensor:
    """Joints (O, 24, 2) of the views of labelled people, px of the input."""
    image = batch["image_of_view"]
    size_px = batch["input_size"][image].flip(-1).float()
    to_img = batch["crop_to_img"]
    last = to_img.new_tensor([0.0, 0.0, 1.0]).expand(len(to_img), 1, 3)
    to_crop = torch.linalg.inv(torch.cat([to_img, last], dim=1))
    points = transform(labels.joints[batch["person_of_view"]], batch["world_to_camera"][image])
    return (project(points, to_crop @ batch["intrinsics_of_view"]) + 1) / 2 * size_px[:, None]


class Matches(NamedTuple):
    """M predicted and N labelled people of an image; pairs from the nearest to the farthest."""

    prediction: Tensor  # (K,) int64
    label: Tensor  # (K,) int64
    false_positive: Tensor  # predictions that are nobody
    missed: Tensor  # labels that nobody is


class DetectionScores(NamedTuple):
    """How many people are found, as AGORA's tables round them."""

    precision: float
    recall: float
    f1: float


def match_people(
    predicted_px: Tensor, labels_px: Tensor, min_overlap: float = _MIN_OVERLAP
) -> Matches:
    """AGORA's greedy rule: the nearest pair first, if their boxes overlap.

    Pairs of too little overlap are counted, people who are taken already included. There are no
    more matches once pairs and counted ones together are as many as predictions: in a crowd, people
    far from each other can thus end the search before overlapping pairs are reached. Published
    numbers depend on it.

    Args:
        predicted_px: (M, K, 2) joints in the image, px.
        labels_px: (N, K, 2).
        min_overlap: of the boxes around them, intersection over union.
    """
    num_predicted, num_labels = len(predicted_px), len(labels_px)
    difference = predicted_px[:, None] - labels_px
    distance = torch.linalg.matrix_norm(difference, ord=2)  # (M, N), spectral, as theirs
    overlaps = keypoint_overlap(predicted_px, labels_px) >= min_overlap
    overlaps, order = overlaps.flatten().tolist(), distance.flatten().argsort(stable=True).tolist()
    label_of: dict[int, int] = {}
    taken: set[int] = set()
    num_apart = 0
    for place in order:
        if len(taken) == num_labels or len(taken) + num_apart >= num_predicted:
            break
        prediction, label = divmod(place, num_labels)
        if not overlaps[place]:
            num_apart += 1
        elif prediction not in label_of and label not in taken:
            label_of[prediction] = label
            taken.add(label)
    rows = (
        list(label_of),
        list(label_of.values()),
        [i for i in range(num_predicted) if i not in label_of],
        [i for i in range(num_labels) if i not in taken],
    )
    return Matches(*(torch.tensor(row, dtype=torch.int64) for row in rows))


def keypoint_overlap(first_px: Tensor, second_px: Tensor) -> Tensor:
    """Intersection over union (M, N) of boxes around keypoints (M, K, 2) and (N, K, 2), px.

    A box includes the pixels at both of its ends.
    """
    low1, high1 = first_px.amin(dim=1)[:, None], first_px.amax(dim=1)[:, None]
    low2, high2 = second_px.amin(dim=1), second_px.amax(dim=1)
    shared = torch.minimum(high1, high2) - torch.maximum(low1, low2) + 1
    shared = shared.clamp(min=0).prod(dim=-1)
    areas = (high1 - low1 + 1).prod(dim=-1) + (high2 - low2 + 1).prod(dim=-1)
    return shared / (areas - shared)


def detection_scores(num_found: int, num_false: int, num_missed: int) -> DetectionScores:
    """Precision, recall and F1, rounded to two digits; 0 where nobody is found."""
    if num_found == 0:
        return DetectionScores(0.0, 0.0, 0.0)
    return DetectionScores(
        round(num_found / (num_found + num_false), 2),
        round(num_found / (num_found + num_missed), 2),
        round(num_found / (num_found + (num_false + num_missed) / 2), 2),
    )


def normalized_error(error_mm: float, f1: float) -> float:
    """NMJE or NMVE: an error of the people who were found, in mm, over F1; rounded to one digit.

    Infinite where nobody is found.
    """
    return round(round(error_mm, 1) / f1, 1) if f1 else float("inf")


def _detections(num_found: int, num_labels: int, label: Tensor) -> dict[str, Tensor]:
    """Columns ``recall`` and ``precision``, and who the rows are.

    Args:
        num_found: people.
        num_labels: people.
        label: (K,) those who were found.
    """
    is_found = torch.zeros(num_labels, device=label.device).index_fill(0, label, 1.0)
    wrong = torch.full((num_found - len(label),), torch.nan, device=label.device)
    precision = torch.where(is_found > 0, is_found, torch.nan)
    person = torch.arange(num_labels, device=label.device)
    return {
        "recall": torch.cat([is_found, wrong]),
        "precision": torch.cat([precision, torch.zeros_like(wrong)]),
        "row_person": torch.cat([person, torch.full_like(wrong, -1).long()]),
    }


def _pick(mesh: Mesh, rows: Tensor) -> Mesh:
    return Mesh(mesh.vertices[rows], mesh.joints[rows])
