"""Average precision of 2D keypoints by COCO's definition (pycocotools' ``COCOeval``, "keypoints").

A found person fits an annotated one by OKS, object keypoint similarity: the mean over the annotated
keypoints of ``exp(-d^2 / (2 area (2 sigma)^2))`` with COCO's sigma of each keypoint. Average
precision is the mean of the precision at 101 recalls and 10 thresholds of OKS, from 0.5 to 0.95.

An own implementation, in NumPy: pycocotools would be a compiled dependency for one table. Equal to
it, ties and annotations without keypoints included.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hmrkit.body import joints
from hmrkit.body.smpl import SMPL
from hmrkit.evaluation import mean_pose_mesh
from hmrkit.geometry.cameras import project
from hmrkit.keypoint_evaluation import KeypointProtocol
from hmrkit.types import Batch, Mesh, Prediction

_SIGMAS = (0.26, 0.25, 0.35, 0.79, 0.72, 0.62, 1.07, 0.87, 0.89)  # tenths; of a side's joint pairs
_OF_JOINT = dict(
    zip(("nose", "eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle"), _SIGMAS,
        strict=True)
)  # fmt: skip
SIGMAS = np.array([_OF_JOINT[name.split("_")[-1]] for name in joints.names("coco17")]) / 10
_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)
_AREAS = {"": (0, 1e10), "_medium": (32**2, 96**2), "_large": (96**2, 1e10)}  # px^2
_MAX_FOUND = 20  # people per image that count
_TINY = np.spacing(1)
_SCALE = 0.9  # of the baseline: a standing person about fills the crop (SPIN's mean camera)
_NUMBER = re.compile(r"(\d{12})(?!.*\d{12})")  # of an image, in COCO's file names


@dataclass(frozen=True)
class KeypointAP(KeypointProtocol):
    """COCO's average precision of people in given boxes, beside ``KeypointProtocol``'s numbers.

    Everybody counts as found, with score 1, in the box of the source; who is annotated but not in
    the source lowers the recall, as in PyMAF's evaluation. The baseline is the mean pose, standing
    in the middle of every box.

    Attributes:
        name: see ``Protocol``.
        joint_set: see ``Protocol``; of PCK.
        root: see ``Protocol``; without effect.
        thresholds: see ``KeypointProtocol``.
        box_margin: see ``KeypointProtocol``.
        annotations: COCO's ``person_keypoints_*.json``.
    """

    annotations: str = ""

    def measure(self, prediction: Prediction, batch: Batch, body_model: SMPL) -> dict[str, Tensor]:
        """As ``KeypointProtocol``, and COCO's 17 joints (P, 17, 2) px of the source image."""
        assert prediction.mesh is not None
        mean = mean_pose_mesh(len(batch["has_pose"]), body_model)
        ahead = standing_transl(prediction.intrinsics_crop)
        return {
            **super().measure(prediction, batch, body_model),
            "_coco": coco_keypoints(prediction.mesh, prediction, batch, body_model),
            "_baseline_coco": coco_keypoints(mean, prediction, batch, body_model, ahead),
        }

    def summary(self, columns: Mapping[str, np.ndarray]) -> dict[str, float]:
        """``average_precision`` in percent, and PCK.

        Raises:
            FileNotFoundError: if there is no annotation file.
            ValueError: if it is not one, or is of other images.
        """
        annotated = _read_once(self.annotations)
        numbers = super().summary(columns)
        images = np.array([_image_number(str(key)) for key in columns["key"]])
        for prefix in ("", "baseline_"):
            points = columns[f"_{prefix}coco"]
            found = {}
            for image in np.unique(images).tolist():
                own = points[images == image]
                found[image] = found_people(own, np.ones(len(own)))
            values = average_precision(annotated, found)
            numbers |= {prefix + name: 100 * value for name, value in values.items()}
        return numbers

    def words(self) -> str:
        """See ``Protocol.words``."""
        return (
            "COCO's average precision of 17 projected joints over OKS 0.50:0.95, one person per "
            "given box with score 1; who is annotated and has no box lowers the recall; beside it "
            + super().words()
        )


def coco_keypoints(
    mesh: Mesh,
    prediction: Prediction,
    batch: Batch,
    body_model: SMPL,
    transl_cam: Tensor | None = None,
) -> Tensor:
    """COCO's 17 joints of people in their crops, (P, 17, 2) px of the source image.

    Args:
        mesh: of the people.
        prediction: gives the crops' cameras and, unless there is a ``transl_cam``, their places.
        batch: gives ``crop_to_img``.
        body_model: regresses the joints.
        transl_cam: (P, 3) metres.
    """
    place = prediction.transl_cam if transl_cam is None else transl_cam
    points = body_model.joints_from_mesh(mesh, "coco17") + place[:, None]
    in_crop = project(points, prediction.intrinsics_crop)
    to_img = batch["crop_to_img"]
    return in_crop @ to_img[:, :, :2].transpose(1, 2) + to_img[:, None, :, 2]


def standing_transl(intrinsics_crop: Tensor) -> Tensor:
    """Where (P, 3), metres, a person stands who about fills the crop.

    Args:
        intrinsics_crop: (P, 3, 3) camera metres to crop units.
    """
    depth = intrinsics_crop[:, 1, 1] / _SCALE
    focal = intrinsics_crop.diagonal(dim1=-2, dim2=-1)[:, :2]
    shift = -intrinsics_crop[:, :2, 2] / focal * depth[:, None]
    return torch.cat([shift, depth[:, None]], dim=1)


def _image_number(key: str) -> int:
    match = _NUMBER.search(key)
    if match is None:
        raise ValueError(
            f"record {key!r} is not named after an image of COCO, such as "
            "COCO_val2014_000000000042: average precision needs the image's number"
        )
    return int(match[1])


@dataclass
class People:
    """The annotated, or the found, people of one image; N of them."""

    keypoints_img: np.ndarray  # (N, 17, 3) px, then visibility (annotated) or anything (found)
    area: np.ndarray  # (N,) px^2
    box: np.ndarray  # (N, 4) x y width height, px; of annotated people
    is_ignored: np.ndarray  # (N,) bool: a crowd, or without keypoints
    is_crowd: np.ndarray  # (N,) bool: any number of found people may be in it
    score: np.ndarray  # (N,) of found people


def read_annotations(path: str | Path) -> dict[int, People]:
    """COCO's ``person_keypoints_*.json``: the people of every image, by the image's number.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not such a file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"no {path}: COCO's keypoint annotations (cocodataset.org, 2014 Train/Val annotations) "
            "hold the people that average precision is about"
        )
    try:
        content = json.loads(Path(path).read_text())
        return annotated_people(content["images"], content["annotations"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a keypoint annotation file of COCO: {error!r}") from error


@lru_cache(maxsize=1)
def _read_once(path: str) -> dict[int, People]:
    return read_annotations(path)


def annotated_people(
    images: Sequence[Mapping], annotations: Sequence[Mapping]
) -> dict[int, People]:
    """The people of every image, by the image's number, of COCO's two lists."""
    of_image: dict[int, list[Mapping]] = {int(image["id"]): [] for image in images}
    for annotation in annotations:
        of_image[int(annotation["image_id"])].append(annotation)
    return {image: _people(rows) for image, rows in of_image.items()}


def found_people(keypoints_img: np.ndarray, score: np.ndarray) -> People:
    """Found people (N, 17, 2) px of one image; their size is that of the box around the joints."""
    num = len(keypoints_img)
    extent = keypoints_img.max(axis=1, initial=-np.inf) - keypoints_img.min(axis=1, initial=np.inf)
    no = np.zeros(num, bool)
    padded = np.concatenate([keypoints_img, np.ones((num, keypoints_img.shape[1], 1))], axis=2)
    return People(padded, extent.prod(axis=1), np.zeros((num, 4)), no, no, score)


def average_precision(
    annotated: Mapping[int, People], found: Mapping[int, People]
) -> dict[str, float]:
    """COCO's ten numbers, shares in [0, 1]; NaN where nobody of a size is annotated.

    Args:
        annotated: of every image of the set, by number.
        found: of the images in which somebody was found.

    Returns:
        ``ap``, ``ap50``, ``ap75``, ``ap_medium``, ``ap_large`` and likewise ``ar`` (recall).

    Raises:
        ValueError: if somebody was found in an image that is not in the set.
    """
    if strangers := sorted(found.keys() - annotated.keys()):
        raise ValueError(f"image {strangers[0]} is not in the annotation file")
    nobody = found_people(np.zeros((0, len(SIGMAS), 2)), np.zeros(0))
    pairs = [(annotated[i], _best_scored(found.get(i, nobody))) for i in sorted(annotated)]
    pairs = [pair for pair in pairs if len(pair[0].area) or len(pair[1].area)]
    similar = [oks(one, other) for one, other in pairs]
    results: dict[str, float] = {}
    for name, limits in _AREAS.items():
        precision, recall = _curves(pairs, similar, limits)  # (10, 101), (10,)
        results |= {f"ap{name}": precision.mean(), f"ar{name}": recall.mean()}
        if name == "":
            for threshold in (50, 75):
                row = int(np.argmin(np.abs(_THRESHOLDS - threshold / 100)))
                results |= {f"ap{threshold}": precision[row].mean(), f"ar{threshold}": recall[row]}
    order = [f"{kind}{end}" for kind in ("ap", "ar") for end in ("", 50, 75, "_medium", "_large")]
    return {name: float(results[name]) for name in order}


def oks(annotated: People, found: People) -> np.ndarray:
    """Object keypoint similarity (D, G) of D found and G annotated people.

    Of an annotated person without keypoints, it is how far keypoints lie outside a box three times
    as wide and high.
    """
    point, target = found.keypoints_img[:, None, :, :2], annotated.keypoints_img[None, :, :, :2]
    is_visible = annotated.keypoints_img[..., 2] > 0  # (G, K)
    has_any = is_visible.any(axis=1)
    low = annotated.box[:, :2] - annotated.box[:, 2:]
    high = annotated.box[:, :2] + 2 * annotated.box[:, 2:]
    outside = np.maximum(0, low[None, :, None] - point) + np.maximum(0, point - high[None, :, None])
    offset = np.where(has_any[None, :, None, None], point - target, outside)  # (D, G, K, 2)
    scale = (2 * SIGMAS) ** 2 * (annotated.area + _TINY)[:, None] * 2  # (G, K)
    similarity = np.exp(-np.square(offset).sum(axis=-1) / scale)
    counts = np.where(has_any[:, None], is_visible, True)  # (G, K)
    return (similarity * counts).sum(axis=2) / counts.sum(axis=1)


def _people(rows: Sequence[Mapping]) -> People:
    keypoints = np.array([row["keypoints"] for row in rows], np.float64).reshape(-1, len(SIGMAS), 3)
    is_crowd = np.array([bool(row.get("iscrowd", 0)) for row in rows], bool)
    is_empty = np.array([row["num_keypoints"] == 0 for row in rows], bool)
    return People(
        keypoints,
        np.array([row["area"] for row in rows], np.float64),
        np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4),
        is_crowd | is_empty,
        is_crowd,
        np.zeros(len(rows)),
    )


def _best_scored(people: People) -> People:
    """The best ``_MAX_FOUND`` by falling score; of equal ones the earlier first."""
    order = np.argsort(-people.score, kind="stable")[:_MAX_FOUND]
    return People(*(value[order] for value in vars(people).values()))


def _curves(
    pairs: Sequence[tuple[People, People]],
    similar: Sequence[np.ndarray],
    limits: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray]:
    """Precision (10, 101) at every recall and the largest recall (10,), by threshold of OKS."""
    hits, misses, scores, num_annotated = [], [], [], 0
    for (annotated, found), similarity in zip(pairs, similar, strict=True):
        is_ignored = annotated.is_ignored | _is_outside(annotated.area, limits)
        is_hit, counts = _match(annotated, is_ignored, similarity)
        counts &= is_hit | ~_is_outside(found.area, limits)
        hits.append(is_hit & counts)
        misses.append(~is_hit & counts)
        scores.append(found.score)
        num_annotated += int((~is_ignored).sum())
    if num_annotated == 0:
        empty = np.full((len(_THRESHOLDS), len(_RECALLS)), np.nan)
        return empty, empty[:, 0]
    order = np.argsort(-np.concatenate(scores), kind="stable")
    num_hits, num_misses = (
        np.concatenate(part, axis=1)[:, order].cumsum(axis=1).astype(np.float64)
        for part in (hits, misses)
    )  # (10, D)
    recall = num_hits / num_annotated
    precision = num_hits / (num_hits + num_misses + _TINY)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]  # at this recall or beyond
    padded = np.pad(best, ((0, 0), (0, 1)))
    at = [np.searchsorted(row, _RECALLS, side="left") for row in recall]
    highest = recall[:, -1] if recall.shape[1] else np.zeros(len(recall))
    return np.stack([row[place] for row, place in zip(padded, at, strict=True)]), highest


def _is_outside(area: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    return (area < limits[0]) | (area > limits[1])


def _match(
    annotated: People, is_ignored: np.ndarray, similarity: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """By threshold and found person: whether somebody annotated is this one, and whether it counts.

    In order of score, each found person takes the annotated one who fits best of those still free;
    ignored ones only if no other fits.

    Args:
        annotated: G people.
        is_ignored: (G,) who neither must nor may be found.
        similarity: (D, G).
    """
    num_found = len(similarity)
    is_hit = np.zeros((len(_THRESHOLDS), num_found), bool)
    counts = np.ones_like(is_hit)
    for row, threshold in enumerate(np.minimum(_THRESHOLDS, 1 - 1e-10)):
        is_free = np.ones(len(is_ignored), bool)
        for person in range(num_found):
            fits = (similarity[person] >= threshold) & (is_free | annotated.is_crowd)
            if (fits & ~is_ignored).any():
                fits &= ~is_ignored
            if not fits.any():
                continue
            value = np.where(fits, similarity[person], -1)
            taken = int(np.flatnonzero(value == value.max())[-1])  # of equal ones the last
            is_hit[row, person], counts[row, person] = True, not is_ignored[taken]
            is_free[taken] = False
    return is_hit, counts
