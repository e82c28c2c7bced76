"""Loss terms that two methods share: pure functions, unweighted, one scalar each.

A term over samples of which none carries its label is exactly 0 and still has a gradient (of 0),
so that a batch without labels neither fails nor leaves a parameter out of the backward pass.
"""

from typing import Literal

from torch import Tensor

Norm = Literal["l1", "l2"]


def masked_mean(values: Tensor, is_valid: Tensor) -> Tensor:
    """Mean of ``values`` (N, ...) over the rows where ``is_valid`` (N,); 0 if there is none."""
    row_means = values.reshape(len(values), -1).mean(dim=1)  # (N,)
    weight = is_valid.to(row_means.dtype)
    return (row_means * weight).sum() / weight.sum().clamp(min=1)


def residual(difference: Tensor, norm: Norm) -> Tensor:
    """Elementwise |x| for ``l1``, x^2 for ``l2``."""
    if norm not in ("l1", "l2"):
        raise ValueError(f"no norm {norm!r}; choose l1 or l2")
    return difference.abs() if norm == "l1" else difference.square()


def keypoints2d_loss(
    pred_crop: Tensor, target_crop: Tensor, joint_weight: Tensor, norm: Norm = "l2"
) -> Tensor:
    """Mean over (O, K, 2) of confidence x weight x residual, crop units.

    Joints of confidence or weight 0 stay in the mean's denominator, as in SPIN.

    Args:
        pred_crop: (O, K, 2).
        target_crop: (O, K, 3), the last entry is the confidence.
        joint_weight: (K,).
        norm: of the residual.
    """
    weight = target_crop[..., 2:] * joint_weight[:, None]  # (O, K, 1)
    return (weight * residual(pred_crop - target_crop[..., :2], norm)).mean()


def keypoints3d_loss(
    pred: Tensor, target: Tensor, is_valid: Tensor, root: Tensor, norm: Norm = "l2"
) -> Tensor:
    """Mean over the valid samples' (n, K, 3) of confidence x residual, both relative to the root.

    Args:
        pred: (P, K, 3) metres.
        target: (P, K, 4) metres and confidence, in the same axes.
        is_valid: (P,) bool.
        root: (R,) int64, joints whose mean becomes the origin on both sides.
        norm: of the residual.
    """
    pred_root = pred - pred[:, root].mean(dim=1, keepdim=True)
    target_root = target[..., :3] - target[:, root, :3].mean(dim=1, keepdim=True)
    return masked_mean(target[..., 3:] * residual(pred_root - target_root, norm), is_valid)


def scale_penalty(scale: Tensor) -> Tensor:
    """Mean of exp(-10 s)^2 over (O,) weak-perspective scales; keeps bodies in front (SPIN)."""
    return (-10 * scale).exp().square().mean()


def side_l1(pred_crop: Tensor, target_crop: Tensor) -> Tensor:
    """L1 distance (O, K) of points in crop units, in shares of the crop's side (4D-Humans).

    Args:
        pred_crop: (O, K, 2).
        target_crop: (O, K, 3), the last entry is left alone.
    """
    return (pred_crop - target_crop[..., :2]).abs().sum(dim=-1) / 2


def root_relative_l1(pred: Tensor, target: Tensor, root: int) -> Tensor:
    """L1 distance (P, K) of joints after each side's root has become the origin.

    Args:
        pred: (P, K, 3) metres.
        target: (P, K, 4) metres and confidence, which is left alone.
        root: position of the root joint.
    """
    target = target[..., :3]
    return ((pred - pred[:, root, None]) - (target - target[:, root, None])).abs().sum(dim=-1)


def squared_distance(pred: Tensor, target: Tensor) -> Tensor:
    """Sum of squared differences (P,) over everything but the first dimension."""
    return (pred - target).square().flatten(1).sum(dim=1)
