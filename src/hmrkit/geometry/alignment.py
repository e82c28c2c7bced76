"""Alignment of one point set to another."""

import roma
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
    shape = source.shape
    if weight is None:
        weight = source.new_ones(shape[:-1])
    is_sound = has_extent(source, weight) & has_extent(target, weight)  # (...,)
    # Rows without a solution would make the decomposition raise for the whole batch.
    keep = is_sound[..., None]
    anything = torch.eye(3).repeat(-(-shape[-2] // 3), 1)[: shape[-2]].to(source)  # (N, 3)
    rotation, shift, scale = roma.rigid_points_registration(
        torch.where(keep[..., None], source, anything).reshape(-1, *shape[-2:]),
        torch.where(keep[..., None], target, anything).reshape(-1, *shape[-2:]),
        weights=torch.where(keep, weight, torch.ones_like(weight)).reshape(-1, shape[-2]),
        compute_scaling=True,
    )
    turned = source.reshape(-1, *shape[-2:]) @ rotation.transpose(-1, -2)
    moved = (scale[:, None, None] * turned + shift[:, None]).reshape(shape)
    is_sound = is_sound & (scale > 0).reshape(is_sound.shape)
    return torch.where(is_sound[..., None, None], moved, torch.nan)


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
