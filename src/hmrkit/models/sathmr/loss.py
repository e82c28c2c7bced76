"""SAT-HMR's loss: people matched to queries in every layer, denoising queries, the scale map."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, distributed, nn

from hmrkit.body.smpl import SMPL
from hmrkit.geometry.rotations import rotmat_to_axis_angle
from hmrkit.models.sathmr.labels import NUM_BODY_JOINTS, PELVIS, SceneLabels, scene_labels
from hmrkit.models.sathmr.matcher import (
    DEFAULT_COST,
    Candidates,
    CostWeights,
    Pairs,
    focal,
    giou,
    match,
    matching_cost,
)
from hmrkit.models.sathmr.people import Estimates, estimate, to_body
from hmrkit.types import Batch, Body, Prediction

BETAS_WEIGHTS = (2.56, 1.28, 0.64, 0.64, *[0.32] * 6)  # (authors)
_EPSILON = 1e-8  # of depths


class SATHMRLoss(nn.Module):
    """Weighted loss terms.

    A term is the sum over all decoder layers, divided by the number of people who carry its label;
    ``dn_<term>`` is the same of the denoising queries. A term of weight 0 is not returned.

    Args:
        confidence: focal loss of the scores, mean over the queries.
        box: L1 of centre and size, in shares of the longest side.
        giou: 1 - generalised intersection over union.
        pose: L1 of axis-angles, mean over 72; exact labels only.
        rotation: L1 of rotation matrices, mean over 216; exact labels only. Not in the paper: they
            have no jump at half a turn, which is where roots before a camera are.
        betas: L1 of the shape, weighted, mean over 10; exact labels only.
        keypoints3d: L1 relative to the pelvis, metres, mean over 45 x 3; exact labels only.
        keypoints2d: L1 in shares of the longest side, mean over 45 x 2.
        depth: L1 of the inverse depth of the pelvis, 1 / m; exact labels only.
        map_confidence: focal loss of the scale map, mean over the cells.
        map_scale: L1 of its scale, mean over the cells with a person.
        long_side_px: of the network.
        cost: weights of the matching.
        with_inner_denoising: upstream forgot the denoising terms of all layers but the last until
            2026; false does so too.
        with_detached_joints: errors in pixels teach where people are, not how they stand.
        partly_labelled_sources: names, in the mix, of sources in whose images not everybody is
            labelled: queries that nobody is matched to cost nothing there. Upstream meant that for
            MPII, CrowdPose and 3DPW, but did not.
    """

    def __init__(
        self,
        confidence: float = 4.0,
        box: float = 2.0,
        giou: float = 2.0,
        pose: float = 5.0,
        rotation: float = 0.0,
        betas: float = 3.0,
        keypoints3d: float = 8.0,
        keypoints2d: float = 40.0,
        depth: float = 0.5,
        map_confidence: float = 4.0,
        map_scale: float = 4.0,
        long_side_px: int = 1288,
        cost: CostWeights = DEFAULT_COST,
        with_inner_denoising: bool = True,
        with_detached_joints: bool = False,
        partly_labelled_sources: Sequence[str] = (),
    ) -> None:
        super().__init__()
        weights = {
            "confidence": confidence,
            "box": box,
            "giou": giou,
            "pose": pose,
            "rotation": rotation,
            "betas": betas,
            "keypoints3d": keypoints3d,
            "keypoints2d": keypoints2d,
            "depth": depth,
        }
        weights |= {f"dn_{name}": weight for name, weight in weights.items()}
        weights |= {"map_confidence": map_confidence, "map_scale": map_scale}
        self.weights = {name: weight for name, weight in weights.items() if weight}
        self.long_side_px, self.cost = long_side_px, cost
        self.with_inner_denoising = with_inner_denoising
        self.with_detached_joints = with_detached_joints
        self.partly_labelled_sources = frozenset(partly_labelled_sources)

    def forward(self, prediction: Prediction, batch: Batch, body_model: SMPL) -> dict[str, Tensor]:
        """The weighted terms by name, in float32.

        Args:
            prediction: of ``SATHMR`` in training.
            batch: scenes with labels.
            body_model: makes joints.
        """
        with torch.autocast(prediction.transl_cam.device.type, enabled=False):
            terms = self.layer_terms(prediction, batch, body_model)
            if not self.with_inner_denoising:
                terms |= {n: t[-1:] for n, t in terms.items() if n.startswith("dn_")}
            return {
                name: weight * terms[name].sum()
                for name, weight in self.weights.items()
                if name in terms
            }

    def layer_terms(
        self, prediction: Prediction, batch: Batch, body_model: SMPL
    ) -> dict[str, Tensor]:
        """The terms of every layer (L,), of the scale map (1,), without weights."""
        labels = scene_labels(batch, self.long_side_px)
        layers = [*prediction.stages, prediction]
        size = batch["input_size"]
        queries = ordinary(layers, size, body_model, self.with_detached_joints)
        terms = query_terms(queries, labels, self.long_side_px, self.cost, self._counted(batch))
        if "dn_slot" in prediction.extra:
            noised = restored(layers, size, body_model, self.with_detached_joints)
            terms |= denoising_terms(noised, labels, self.long_side_px)
        if "label_map" in prediction.extra:
            names = ("scale_map", "label_map", "has_label_map")
            terms |= map_terms(*(prediction.extra[name] for name in names))
        return terms

    def _counted(self, batch: Batch) -> Tensor:
        """Images (I,) whose unmatched queries count."""
        if self.partly_labelled_sources:
            is_whole = [source not in self.partly_labelled_sources for source in batch["source"]]
            return torch.tensor(is_whole, device=batch["input_size"].device)
        return torch.ones_like(batch["input_size"][:, 0], dtype=torch.bool)


class Queries(NamedTuple):
    """The ordinary queries of L layers and I images."""

    score: Tensor  # (L, I, Q)
    people: Estimates  # L * I * Q of them


class Noised(NamedTuple):
    """The denoising queries of L layers and I images, in G groups of S / G slots."""

    score: Tensor  # (L, I, S)
    is_used: Tensor  # (I, S) bool, slots that count
    slot: Tensor  # (G, M) place in I * S of everybody to be restored
    people: Estimates  # L * G * M of them


def query_terms(
    queries: Queries,
    labels: SceneLabels,
    long_side_px: int,
    cost: CostWeights,
    is_counted: Tensor,
) -> dict[str, Tensor]:
    """Terms (L,) of the ordinary queries.

    Args:
        queries: of all layers.
        labels: M people.
        long_side_px: unit of boxes.
        cost: weights of the matching.
        is_counted: (I,) images whose unmatched queries count.
    """
    num_layers, num_images, num_queries = queries.score.shape
    pairs = pair(queries, labels, long_side_px, cost)
    row = pairs.layer * num_images * num_queries + pairs.query
    values = person_values(queries.people.pick(row), labels.pick(pairs.label), long_side_px)
    zero = queries.score.new_zeros(num_layers)
    counts = label_counts(labels)
    terms = {name: zero.index_add(0, pairs.layer, v) / counts[name] for name, v in values.items()}
    score = queries.score.flatten()
    target = torch.zeros_like(score).index_fill(0, row, 1.0)
    error = focal(score, target).view(num_layers, num_images, num_queries)
    is_counted = is_counted[:, None] | (target.view_as(error) > 0)
    count = mean_over_processes(error.new_tensor(num_images * num_queries))
    return {"confidence": (error * is_counted).sum(dim=(1, 2)) / count, **terms}


def denoising_terms(noised: Noised, labels: SceneLabels, long_side_px: int) -> dict[str, Tensor]:
    """Terms (L,) of the denoising queries, by names that begin with ``dn_``."""
    num_layers, num_groups = len(noised.score), len(noised.slot)
    everybody = torch.arange(len(labels.image), device=noised.slot.device)
    labels_of_rows = labels.pick(everybody.repeat(num_layers * num_groups))
    values = person_values(noised.people, labels_of_rows, long_side_px)
    counts = label_counts(labels)
    terms = {
        name: value.view(num_layers, -1).sum(dim=1) / (num_groups * counts[name])
        for name, value in values.items()
    }
    target = torch.zeros_like(noised.is_used.flatten(), dtype=noised.score.dtype)
    target = target.index_fill(0, noised.slot.flatten(), 1.0).view_as(noised.is_used)
    error = (focal(noised.score, target) * noised.is_used).sum(dim=(1, 2))
    count = mean_over_processes(noised.is_used.sum().to(error.dtype)).clamp(min=1)
    terms["confidence"] = error / (num_groups * count)
    return {f"dn_{name}": value for name, value in terms.items()}


def map_terms(scale_map: Tensor, label_map: Tensor, is_known: Tensor) -> dict[str, Tensor]:
    """Terms (1,) of the scale map.

    Args:
        scale_map: (C, 2) confidence and scale in every cell.
        label_map: (C, 2).
        is_known: (C,) bool.
    """
    is_known = is_known.to(label_map.dtype)
    is_person = is_known * label_map[:, 0]
    counts = mean_over_processes(torch.stack([is_known.sum(), is_person.sum()])).clamp(min=1)
    confidence = (focal(scale_map[:, 0], label_map[:, 0]) * is_known).sum() / counts[0]
    scale = ((scale_map[:, 1] - label_map[:, 1]).abs() * is_person).sum() / counts[1]
    return {"map_confidence": confidence[None], "map_scale": scale[None]}


def pair(queries: Queries, labels: SceneLabels, long_side_px: int, cost: CostWeights) -> Pairs:
    """Match everybody to a query, in every layer."""
    num_images = queries.score.shape[1]
    counts = labels.image.bincount(minlength=num_images)
    sizes: list[int] = counts.tolist()
    first = counts.cumsum(0) - counts
    place = torch.arange(len(labels.image), device=counts.device) - first[labels.image]
    place = place + labels.image * max(sizes)

    def padded(values: Tensor) -> Tensor:
        """Rows (M, ...) as (I, most people in an image, ...)."""
        rows = values.new_zeros(num_images * max(sizes), *values.shape[1:])
        return rows.index_copy(0, place, values).view(num_images, max(sizes), *values.shape[1:])

    body = slice(0, NUM_BODY_JOINTS)
    people = Candidates(padded(labels.box), padded(labels.points_px[:, body] / long_side_px))
    has_point = padded(labels.has_points_px[:, body])
    box = queries.people.box.view(*queries.score.shape, 4)
    points = (queries.people.points_px[:, body] / long_side_px).view(*queries.score.shape, -1, 2)
    costs = [
        matching_cost(score, Candidates(*layer), people, has_point, cost)
        for score, *layer in zip(queries.score, box, points, strict=True)
    ]
    return match(torch.stack(costs), sizes)


def person_values(people: Estimates, labels: SceneLabels, long_side_px: int) -> dict[str, Tensor]:
    """How far N estimates are from the N labels beside them, (N,) each; 0 without the label."""
    pose = rotmat_to_axis_angle(people.rotmats) - rotmat_to_axis_angle(labels.rotmats)
    rotation = (people.rotmats - labels.rotmats).abs()
    weight = people.betas.new_tensor(BETAS_WEIGHTS)
    betas = weight * (people.betas - labels.betas).abs()
    points = people.points - people.points[:, PELVIS, None]
    target = labels.points - labels.points[:, PELVIS, None]
    points = (points - target).abs() * labels.has_points[..., None]
    pixels = (people.points_px - labels.points_px).abs() * labels.has_points_px[..., None]
    depth = people.depth_per_px * labels.focal_px  # as the label's camera would see it
    depth = 1 / (depth + _EPSILON) - 1 / (labels.depth + _EPSILON)
    return {
        "box": (people.box - labels.box).abs().sum(dim=1),
        "giou": 1 - giou(people.box, labels.box),
        "pose": pose.abs().mean(dim=(1, 2)) * labels.has_pose,
        "rotation": rotation.mean(dim=(1, 2, 3)) * labels.has_pose,
        "betas": betas.mean(dim=1) * labels.has_betas,
        "keypoints3d": points.mean(dim=(1, 2)) * labels.has_joints,
        "keypoints2d": pixels.mean(dim=(1, 2)) / long_side_px,
        "depth": depth.abs() * labels.has_depth,
    }


def label_counts(labels: SceneLabels) -> dict[str, Tensor]:
    """How many people carry each label: mean over the processes, at least 1."""
    everybody = torch.ones_like(labels.has_pose)
    carriers = {
        "box": everybody,
        "giou": everybody,
        "pose": labels.has_pose,
        "rotation": labels.has_pose,
        "betas": labels.has_betas,
        "keypoints3d": labels.has_joints,
        "keypoints2d": everybody,
        "depth": labels.has_depth,
    }
    counts = torch.stack([carrier.sum() for carrier in carriers.values()]).float()
    counts = mean_over_processes(counts).clamp(min=1)
    return dict(zip(carriers, counts, strict=True))


def mean_over_processes(counts: Tensor) -> Tensor:
    """The mean of a tensor over all processes that train together."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return counts
    counts = counts.clone()
    distributed.all_reduce(counts)
    return counts / distributed.get_world_size()


def ordinary(
    layers: Sequence[Prediction], size: Tensor, body_model: SMPL, with_detached_joints: bool
) -> Queries:
    """The ordinary queries of L layers; ``size`` (I, 2) is that of the images, px."""
    parts = ("global_orient", "body_pose", "betas", "transl")
    body = Body(*(torch.cat([getattr(p.body, part) for p in layers]) for part in parts))
    image = torch.cat([layer.image_of_person for layer in layers])
    people = estimate(
        body,
        torch.cat([layer.transl_cam for layer in layers]),
        torch.cat([layer.extra["box"] for layer in layers]),
        torch.cat([layer.intrinsics_crop for layer in layers]),
        size[image],
        body_model,
        with_detached_joints,
    )
    score = torch.stack([layer.score for layer in layers]).view(len(layers), len(size), -1)
    return Queries(score, people)


def restored(
    layers: Sequence[Prediction], size: Tensor, body_model: SMPL, with_detached_joints: bool
) -> Noised:
    """The denoising queries of L layers, those that are somebody with their bodies."""
    last = layers[-1]
    slot, is_used = last.extra["dn_slot"], last.extra["dn_is_used"]

    def rows(name: str) -> Tensor:
        """(L * G * M, ...)."""
        chosen = [layer.extra[f"dn_{name}"].flatten(0, 1)[slot.flatten()] for layer in layers]
        return torch.cat(chosen)

    image = (slot.flatten() // max(is_used.shape[1], 1)).repeat(len(layers))
    people = estimate(
        to_body(rows("pose6d"), rows("betas")),
        rows("transl"),
        rows("box"),
        last.intrinsics_crop.view(len(size), -1, 3, 3)[image, 0],
        size[image],
        body_model,
        with_detached_joints,
    )
    return Noised(torch.stack([layer.extra["dn_score"] for layer in layers]), is_used, slot, people)
