"""Which query is which labelled person: the cheapest assignment (Kuhn 1955)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

_ALPHA = 0.25  # of the focal loss
_EPSILON = 1e-8  # in logarithms
_AREA = 1e-6  # added to areas that are divided by


class CostWeights(NamedTuple):
    """What makes a query expensive for a person."""

    confidence: float = 1.0
    box: float = 1.0
    giou: float = 1.0
    keypoints: float = 20.0


DEFAULT_COST = CostWeights()


class Pairs(NamedTuple):
    """Who is matched, in all layers at once."""

    layer: Tensor  # (N,) int64
    query: Tensor  # (N,) int64, row of the layer's I * Q queries
    label: Tensor  # (N,) int64, row of the labels


class Candidates(NamedTuple):
    """What the cost looks at: of (I, Q) queries, or of (I, M) labelled people."""

    box: Tensor  # (..., 4) centre and size, in shares of the longest side
    points: Tensor  # (..., K, 2) in shares of the longest side


def match(cost: Tensor, counts: Sequence[int]) -> Pairs:
    """Assign the people of every image to its queries, for every layer.

    With more people than queries the most expensive stay without.

    Args:
        cost: (L, I, Q, M) of every query for the people of its image, padded to M of them.
        counts: people of each image.
    """
    num_layers, num_images, num_queries, _ = cost.shape
    matrices = cost.detach().float().cpu().numpy()  # the only wait for the device
    first = np.cumsum([0, *counts])
    found = []
    for layer, image in np.ndindex(num_layers, num_images):
        query, person = linear_sum_assignment(matrices[layer, image, :, : counts[image]])
        rows = (np.full(len(query), layer), query + image * num_queries, person + first[image])
        found.append(np.stack(rows))
    pairs = torch.from_numpy(np.concatenate(found, axis=1)).to(cost.device)
    return Pairs(*pairs)


@torch.no_grad()
def matching_cost(
    score: Tensor,
    queries: Candidates,
    people: Candidates,
    has_point: Tensor,
    weights: CostWeights,
) -> Tensor:
    """Cost (I, Q, M) of every query of an image for every person in it.

    Args:
        score: (I, Q).
        queries: (I, Q).
        people: (I, M).
        has_point: (I, M, K) bool, labelled points.
        weights: of the parts.
    """
    confidence = focal(score, torch.ones_like(score))[..., None]
    box = (queries.box[..., None, :] - people.box[:, None]).abs().sum(dim=-1)
    distance = (queries.points[..., None, :, :] - people.points[:, None]).abs().sum(dim=-1)
    weight = has_point / (2 * has_point.sum(dim=-1, keepdim=True)).clamp(min=1)  # (I, M, K)
    keypoints = (distance * weight[:, None]).sum(dim=-1)
    overlap = giou(queries.box[..., None, :], people.box[:, None])
    return (
        weights.confidence * confidence
        + weights.box * box
        - weights.giou * overlap
        + weights.keypoints * keypoints
    )


def giou(first: Tensor, second: Tensor) -> Tensor:
    """Generalised intersection over union (...) of boxes (..., 4), centre and size.

    Rezatofighi et al. 2019; 1 for equal boxes, towards -1 for distant ones.
    """
    (low1, high1), (low2, high2) = (_corners(box) for box in (first, second))
    shared = (torch.minimum(high1, high2) - torch.maximum(low1, low2)).clamp(min=0).prod(dim=-1)
    hull = (torch.maximum(high1, high2) - torch.minimum(low1, low2)).clamp(min=0).prod(dim=-1)
    union = (high1 - low1).prod(dim=-1) + (high2 - low2).prod(dim=-1) - shared
    return shared / (union + _AREA) - (hull - union) / (hull + _AREA)


def focal(probability: Tensor, target: Tensor) -> Tensor:
    """Focal loss of each probability (...) of a target 0 or 1 (Lin et al. 2017, gamma 2)."""
    hit = _ALPHA * (1 - probability).square() * -(probability + _EPSILON).log()
    miss = (1 - _ALPHA) * probability.square() * -(1 - probability + _EPSILON).log()
    return target * hit + (1 - target) * miss


def _corners(box: Tensor) -> tuple[Tensor, Tensor]:
    center, size = box.split(2, dim=-1)
    return center - size / 2, center + size / 2
