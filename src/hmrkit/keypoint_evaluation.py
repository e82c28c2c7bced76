"""Scoring by labelled 2D keypoints alone, as HMR2.0 does on COCO, LSP-Extended and PoseTrack."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hmrkit.body import joints
from hmrkit.body.smpl import SMPL
from hmrkit.evaluation import Protocol
from hmrkit.geometry.cameras import project
from hmrkit.types import Batch, Prediction

_MIN_CONFIDENCE = 0.5  # of a joint that counts as labelled


@dataclass(frozen=True)
class KeypointProtocol(Protocol):
    """PCK of projected joints, averaged over joints and not over people (4D-Humans' evaluation).

    Rows: ``kpl2``, the mean over all joints of confidence times squared distance, in shares of the
    crop's side. Summary: ``pck_<threshold>``, in percent. ``root`` plays no part.

    Attributes:
        thresholds: distances that count as met, in shares of the larger side of the box.
        box_margin: side of that box over the stored, tight one's; 4D-Humans' boxes have 1.2.
    """

    thresholds: Sequence[float] = (0.05, 0.1)
    box_margin: float = 1.2

    def measure(self, prediction: Prediction, batch: Batch, body_model: SMPL) -> dict[str, Tensor]:
        """``kpl2`` (P,), and the distances (P, K) in shares of the box, NaN without a label."""
        assert prediction.mesh is not None
        points = body_model.joints_from_mesh(prediction.mesh, self.joint_set)
        points = points + prediction.transl_cam[:, None]
        rows = joints.index(list(joints.names(self.joint_set)), "all")
        target = batch["keypoints_crop"][:, rows]
        pred = project(points, prediction.intrinsics_crop)
        side_px = 2 * batch["crop_to_img"][:, :, 1].norm(dim=-1)  # of the crop
        low, high = batch["box_img"].chunk(2, dim=-1)
        box_px = self.box_margin * (high - low).amax(dim=-1)
        return {
            "kpl2": keypoint_l2(pred / 2, target / torch.tensor([2, 2, 1]).to(target)),
            "_distance": joint_distances(pred / 2, target, side_px / box_px),
        }

    def summary(self, columns: Mapping[str, np.ndarray]) -> dict[str, float]:
        """``pck_<threshold>`` in percent."""
        distance = torch.from_numpy(columns["_distance"])
        return {
            f"pck_{threshold}": 100 * float(joint_pck(distance, threshold).nanmean())
            for threshold in self.thresholds
        }

    def words(self) -> str:
        """See ``Protocol.words``."""
        limits = " and ".join(str(threshold) for threshold in self.thresholds)
        return (
            f"{len(joints.names(self.joint_set))} joints ({self.joint_set}) projected into the "
            f"image; labelled joints of confidence over {_MIN_CONFIDENCE}; PCK: met within "
            f"{limits} of the larger side of a box {self.box_margin} times the tight one, averaged "
            "over joints and not over people"
        )


def keypoint_l2(pred: Tensor, target: Tensor) -> Tensor:
    """Mean over K joints of confidence times squared distance: (P,).

    Args:
        pred: (P, K, 2).
        target: (P, K, 3) with confidence, in the same unit.
    """
    squared = (pred - target[..., :2]).square().sum(dim=-1)
    return (target[..., 2] * squared).mean(dim=-1)


def joint_distances(pred: Tensor, target: Tensor, scale: Tensor) -> Tensor:
    """Distances (P, K), NaN where a joint is not surely labelled.

    Args:
        pred: (P, K, 2) in shares of the crop's side.
        target: (P, K, 3) crop units, twice that, and confidence.
        scale: (P,) from shares of the crop's side to those of the box.
    """
    distance = (pred - target[..., :2] / 2).norm(dim=-1) * scale[:, None]
    return torch.where(target[..., 2] > _MIN_CONFIDENCE, distance, torch.nan)


def joint_pck(distance: Tensor, threshold: float) -> Tensor:
    """Share (K,) of the labelled distances (P, K) up to a threshold; NaN for joints without any."""
    is_labelled = ~distance.isnan()
    return ((distance <= threshold) & is_labelled).sum(dim=0) / is_labelled.sum(dim=0)
