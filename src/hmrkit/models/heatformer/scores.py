"""How the authors score: every view of a sample on its own, after each iteration.

MPJPE and PA-MPJPE of Human3.6M are the usual ones (``hmrkit.metrics``) over all 17 joints. What is
theirs alone is here.
"""

import torch
from torch import Tensor

from hmrkit.geometry.alignment import procrustes_align

_MM = 1000.0
_PCK_MM = 150.0
_AUC_MM = range(1, 150, 5)


def first_vertex_pve_mm(pred: Tensor, target: Tensor) -> Tensor:
    """Mean distance (O,), mm, of vertices (O, V, 3), m, whose first ones are put together."""
    difference = (pred - pred[:, :1]) - (target - target[:, :1])
    return difference.norm(dim=-1).mean(dim=-1) * _MM


def aligned_errors_mm(pred: Tensor, target: Tensor) -> Tensor:
    """Distance (O, K), mm, of joints (O, K, 3), m, after the best similarity transform.

    MPI-INF-3DHP's PCK and AUC are taken of these.
    """
    return (procrustes_align(pred, target) - target).norm(dim=-1) * _MM


def pck(errors_mm: Tensor) -> Tensor:
    """Share of the errors (..., K) below 150 mm, in [0, 1]: (...,)."""
    return (errors_mm < _PCK_MM).float().mean(dim=-1)


def auc(errors_mm: Tensor) -> Tensor:
    """Mean share of the errors (..., K) below 1, 6, ..., 146 mm, in [0, 1]: (...,)."""
    thresholds = torch.tensor(list(_AUC_MM), device=errors_mm.device)
    return (errors_mm[..., None] < thresholds).float().mean(dim=(-2, -1))


def masked_errors_mm(
    pred: Tensor, target: Tensor, is_scored: Tensor, root: int
) -> dict[str, Tensor]:
    """BEHAVE's MPJPE and PA-MPJPE (O,), mm.

    Joints that are not scored count as met, and stay in the mean; the alignment uses them all.

    Args:
        pred: (O, K, 3) m.
        target: (O, K, 3) m.
        is_scored: (O, K) bool, the labels sure enough.
        root: joint that both are put at the origin by.
    """
    pred, target = pred - pred[:, root, None], target - target[:, root, None]
    moved = {"mpjpe": pred, "pa_mpjpe": procrustes_align(pred, target)}
    return {
        name: ((points - target).norm(dim=-1) * is_scored).mean(dim=-1) * _MM
        for name, points in moved.items()
    }
