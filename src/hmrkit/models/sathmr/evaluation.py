"""Who of the predicted people is who of the labelled ones, and how well people are found.

The matching rule and the scores of AGORA's and SAT-HMR's evaluation.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from hmrkit.types import Body, Prediction

_MIN_OVERLAP = 0.1


def detected(prediction: Prediction, min_score: float) -> Prediction:
    """The people of a prediction whose score is above a threshold.

    Meshes and stages are left out: mesh what is left.
    """
    assert prediction.score is not None
    assert prediction.image_of_person is not None
    kept = (prediction.score > min_score).nonzero()[:, 0]
    body = prediction.body
    per_person = ("pose6d", "box")
    return Prediction(
        body=Body(
            body.global_orient[kept], body.body_pose[kept], body.betas[kept], body.transl[kept]
        ),
        transl_cam=prediction.transl_cam[kept],
        intrinsics_crop=prediction.intrinsics_crop[kept],
        score=prediction.score[kept],
        image_of_person=prediction.image_of_person[kept],
        extra={n: v[kept] if n in per_person else v for n, v in prediction.extra.items()},
    )


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
