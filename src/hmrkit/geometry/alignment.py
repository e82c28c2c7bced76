"""Alignment of one point set to another."""

import torch
from torch import Tensor

_SPREAD = 1e-5  # a set spread over less than this share of its distance from 0 is rounding noise


def procrustes_align(source: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Move ``source`` (..., N, 3) onto ``target`` (..., N, 3) by the best similarity transform.

    Least squares over rotation, translation and positive scale (Umeyama 1991); a reflection is
    never used. Point sets that are not finite, or collapsed to a point on either side, have no
    such transform: their rows of the result are NaN, so that they cannot score well.

    Args:
        source: points to move.
        target: points to meet, any unit.
        weight: (..., N), at least 0; points of weight 0 are moved but do not count and may be
            anything finite. None: every point counts the same.

    Returns:
        (..., N, 3), the moved source, in the unit of ``target``.
    """
    if weight is None:
        weight = source.new_ones(source.shape[:-1])
    is_sound = has_extent(torch.stack([source, target]), weight).all(dim=0)  # (...,)
    # Rows without a solution would make the decomposition raise for the whole batch.
    keep, num = is_sound[..., None, None], source.shape[-2]
    anything = torch.eye(3).repeat(-(-num // 3), 1)[:num].to(source)  # (N, 3)
    points, goal = torch.where(keep, source, anything), torch.where(keep, target, anything)
    share = torch.where(keep, weight[..., None], 1.0)  # (..., N, 1)
    share = share / share.sum(dim=-2, keepdim=True)
    with torch.autocast(source.device.type, enabled=False):  # three digits are too few
        center = (share * goal).sum(dim=-2, keepdim=True)
        own = points - (share * points).sum(dim=-2, keepdim=True)
        covariance = (share * own).transpose(-1, -2) @ (goal - center)  # (..., 3, 3)
        keep = keep & covariance.isfinite().all(dim=(-2, -1), keepdim=True)
        left, sizes, right = torch.linalg.svd(torch.where(keep, covariance, torch.eye(3).to(own)))
        handed = torch.linalg.det(left @ right).sign()[..., None]  # -1 where a mirror fits best
        signed = torch.cat([sizes[..., :2], sizes[..., 2:] * handed], dim=-1)
        turn = torch.cat([left[..., :2], left[..., 2:] * handed[..., None]], dim=-1) @ right
        scale = signed.sum(dim=-1) / (share * own.square()).sum(dim=(-2, -1))  # (...,)
        moved = scale[..., None, None] * (own @ turn) + center
    return torch.where(keep & (scale > 0)[..., None, None], moved, torch.nan)


def has_extent(points: Tensor, weight: Tensor) -> Tensor:
    """Which sets (..., N, 3) are finite and spread over more than rounding noise: (...,) bool.

    Only points whose ``weight`` (..., N) is above 0 are looked at.
    """
    counts = (weight > 0)[..., None]
    high = torch.where(counts, points, -torch.inf).amax(dim=-2)
    low = torch.where(counts, points, torch.inf).amin(dim=-2)
    size = torch.where(counts, points, 0.0).abs().amax(dim=(-2, -1))
    spread = (high - low).amax(dim=-1)
    # NaN anywhere makes a comparison false, as it should.
    return (spread > _SPREAD * size) & spread.isfinite() & size.isfinite()
