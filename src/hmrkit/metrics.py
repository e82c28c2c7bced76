"""Errors per person, and their means over a test set.

Every function is pure and returns one value per person. NaN means that the label is missing (the
person is left out of the mean). Infinity means that the label is there but the prediction has no
score: it is not finite or collapsed to a point. A failure thus shows in the mean, it never helps.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from hmrkit.geometry.alignment import has_extent, procrustes_align

_MM = 1000.0
_TINY = 1e-30
_LONGEST_RUN = 256  # points
_MIN_ALIGNED = 4  # a similarity transform has 7 unknowns: fewer points fit almost anything


def mpjpe_mm(
    pred: Tensor,
    target: Tensor,
    root: Sequence[int] | None,
    joints: Sequence[int] | None = None,
) -> Tensor:
    """Mean per-joint position error of each person.

    Args:
        pred: (P, K, 3) metres.
        target: (P, K, 4) metres and confidence; joints of confidence 0 do not count.
        root: joints whose mean becomes the origin on both sides; None compares as given.
        joints: the joints to average over; None for all.

    Returns:
        (P,) mm; NaN where no joint, or not the whole root, is labelled.
    """
    error, is_labelled = _joint_errors(pred, target, root, joints)
    return _mean_over_labelled(error * _MM, is_labelled)


def pa_mpjpe_mm(pred: Tensor, target: Tensor, joints: Sequence[int] | None = None) -> Tensor:
    """MPJPE after the best similarity transform of each person ("reconstruction error").

    Args:
        pred: (P, K, 3) metres.
        target: (P, K, 4) metres and confidence.
        joints: the joints to align and to average over; None for all.

    Returns:
        (P,) mm; NaN where fewer than four joints are labelled or all labels coincide.
    """
    is_labelled = _is_labelled(target)
    points = torch.where(is_labelled[..., None], target[..., :3], 0.0)
    if joints is not None:
        pred, points, is_labelled = pred[:, joints], points[:, joints], is_labelled[:, joints]
    weight = is_labelled.to(points.dtype)
    has_label = (weight.sum(dim=1) >= _MIN_ALIGNED) & has_extent(points, weight)
    error = (procrustes_align(pred, points, weight) - points).norm(dim=-1)
    return _mean_over_labelled(error * _MM, is_labelled & has_label[:, None])


def pve_mm(pred: Tensor, target: Tensor, shift: Tensor | None = None) -> Tensor:
    """Mean per-vertex error of each person (P,), mm, of vertices (P, V, 3) in metres.

    Args:
        pred: (P, V, 3), or (1, V, 3), the same for everybody.
        target: (P, V, 3); a vertex that is not finite counts as missing.
        shift: (P, 1, 3) m, taken off ``pred`` on the way; None compares as given.
    """
    pred = pred.expand_as(target)
    has_graph = torch.is_grad_enabled() and (pred.requires_grad or target.requires_grad)
    if target.is_cpu and pred.dtype == target.dtype == torch.float32 and not has_graph:
        mean = _mean_distances(pred, target, shift)
        if bool(mean.isfinite().all()):  # the rule
            return mean * _MM
    error = _distances(pred, target, shift)
    return _mean_over_labelled(error * _MM, target.isfinite().all(dim=-1))


def pck(
    pred: Tensor,
    target: Tensor,
    threshold: float,
    root: Sequence[int] | None,
    joints: Sequence[int] | None = None,
) -> Tensor:
    """Share of each person's labelled joints (P,) nearer than ``threshold``, in [0, 1].

    Args:
        pred: (P, K, D) in two or three dimensions.
        target: (P, K, D + 1), the last entry is the confidence.
        threshold: in the unit of ``pred``; MPI-INF-3DHP uses 0.15 m.
        root: joints whose mean becomes the origin on both sides; None compares as given.
        joints: the joints to average over; None for all.
    """
    error, is_labelled = _joint_errors(pred, target, root, joints)
    return _mean_over_labelled((error < threshold).to(error.dtype), is_labelled)


def auc(
    pred: Tensor, target: Tensor, root: Sequence[int] | None, joints: Sequence[int] | None = None
) -> Tensor:
    """Mean of ``pck`` over 31 thresholds from 0 to 0.15 m (MPI-INF-3DHP's area under the curve)."""
    error, is_labelled = _joint_errors(pred, target, root, joints)
    thresholds = torch.linspace(0, 0.15, 31, device=error.device)
    hits = (error[..., None] <= thresholds).to(error.dtype).mean(dim=-1)
    return _mean_over_labelled(hits, is_labelled)


def joint_errors_mm(
    pred: Tensor,
    target: Tensor,
    root: Sequence[int] | None,
    joints: Sequence[int] | None = None,
) -> Tensor:
    """The errors (P, K) of which ``mpjpe_mm`` is the mean: NaN unlabelled, infinite if failed."""
    error, is_labelled = _joint_errors(pred, target, root, joints)
    error = torch.where(error.isfinite(), error * _MM, torch.inf)
    return torch.where(is_labelled, error, torch.nan)


class MetricMeans(Metric):
    """Means of per-person values over a validation set and over all processes.

    The first ``update`` fixes the names. Every process must update at least once.
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def update(self, values: dict[str, Tensor]) -> None:
        """Add the values (P,) of some persons; NaN stands for a missing label."""
        if not self.names:
            self.names = sorted(values)
            is_mps = self.device.type == "mps"  # which has no float64
            dtype = torch.float32 if is_mps else torch.float64
            zero = torch.zeros((), device=self.device, dtype=dtype)
            for name in self.names:
                self.add_state(f"total_{name}", default=zero.clone(), dist_reduce_fx="sum")
                self.add_state(f"count_{name}", default=zero.clone(), dist_reduce_fx="sum")
        assert sorted(values) == self.names, f"{sorted(values)} after {self.names}"
        for name, value in values.items():
            is_present = ~value.isnan()
            total = torch.where(is_present, value, 0.0).sum()
            setattr(self, f"total_{name}", getattr(self, f"total_{name}") + total)
            setattr(self, f"count_{name}", getattr(self, f"count_{name}") + is_present.sum())

    def compute(self) -> dict[str, Tensor]:
        """Mean of each metric: NaN if nobody had the label, infinite if a prediction failed."""
        return {
            name: getattr(self, f"total_{name}") / getattr(self, f"count_{name}")
            for name in self.names
        }


def _mean_distances(first: Tensor, second: Tensor, shift: Tensor | None) -> Tensor:
    """Means (P,) of ``_distances``, in buffers of one person that stay in a core's cache.

    NumPy's calls cost less than PyTorch's, and a product with ones less than a reduction over
    three numbers; the rest is the time to read the vertices.
    """
    num_points, dims = second.shape[1:]
    run = max(n for n in range(1, _LONGEST_RUN + 1) if num_points % n == 0)
    moved = np.empty((num_points // run, run * dims), np.float32)  # a shift is added to long rows
    squared, ones = np.empty(num_points, np.float32), np.ones(dims, np.float32)
    share = np.full(num_points, 1 / num_points, np.float32)
    mean = np.empty(len(second), np.float32)
    arrays = [first.detach().numpy(), second.detach().numpy()]
    shifts = None if shift is None else np.tile(shift.detach().numpy()[:, 0], run)
    with np.errstate(all="ignore"):  # who fails is looked at again
        for row, (a, b) in enumerate(zip(*arrays, strict=True)):
            np.subtract(a.reshape(moved.shape), b.reshape(moved.shape), out=moved)
            if shifts is not None:
                np.subtract(moved, shifts[row], out=moved)
            np.multiply(moved, moved, out=moved)
            np.matmul(moved.reshape(-1, dims), ones, out=squared)
            mean[row] = np.dot(np.sqrt(squared, out=squared), share)
    return torch.from_numpy(mean)


def _distances(first: Tensor, second: Tensor, shift: Tensor | None) -> Tensor:
    """Distances (...) of points (..., D); adding three planes is faster than a reduction."""
    difference = first - second
    planes = (difference if shift is None else difference - shift).square().unbind(dim=-1)
    squared = sum(planes[1:], planes[0])
    return squared.clamp(min=_TINY).sqrt()  # the gradient of a distance of 0 is 0


def _is_labelled(target: Tensor) -> Tensor:
    """Which joints of (P, K, D + 1) carry a label: (P, K) bool."""
    return (target[..., -1] > 0) & target.isfinite().all(dim=-1)


def _joint_errors(
    pred: Tensor,
    target: Tensor,
    root: Sequence[int] | None,
    joints: Sequence[int] | None,
) -> tuple[Tensor, Tensor]:
    """Distances (P, K) and which of them count, (P, K) bool."""
    is_labelled, points = _is_labelled(target), target[..., :-1]
    if root is not None:
        pred = pred - pred[:, root].mean(dim=1, keepdim=True)
        points = points - points[:, root].mean(dim=1, keepdim=True)
        is_labelled = is_labelled & is_labelled[:, root].all(dim=1, keepdim=True)
    if joints is not None:
        pred, points, is_labelled = pred[:, joints], points[:, joints], is_labelled[:, joints]
    return (pred - points).norm(dim=-1), is_labelled


def _mean_over_labelled(values: Tensor, is_labelled: Tensor) -> Tensor:
    """Row means (P,) of (P, K): NaN without a label, infinite if a labelled value is not finite."""
    values = torch.where(values.isfinite(), values, torch.inf)
    mean = torch.where(is_labelled, values, 0.0).sum(dim=1) / is_labelled.sum(dim=1)
    return mean
