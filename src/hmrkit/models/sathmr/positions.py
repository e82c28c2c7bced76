"""Sine encodings of points and sizes, and the logits in which boxes are refined."""

import math

import torch
from torch import Tensor

_TEMPERATURE = 20.0
_MIN_LOGIT = 1e-5  # of a share and of what is missing to 1


def sine_encoding(first: Tensor, second: Tensor, dim: int) -> Tensor:
    """Encoding (..., dim) of pairs of numbers in [0, 1]: half of it is the first, half the second.

    Number k of a half is the sine (k even) or cosine (k odd) of 2 pi v / 20^(4 floor(k / 2) / dim).
    The authors' weights know y before x and height before width.

    Args:
        first: (...).
        second: (...).
        dim: a multiple of 4.
    """
    half = dim // 2
    step = torch.arange(half // 2, device=first.device, dtype=torch.float32)
    period = _TEMPERATURE ** (2 * step / half)
    angle = 2 * math.pi * torch.stack([first, second], dim=-1).float()[..., None] / period
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-3)  # (..., 2, half / 2, 2)


def logit(share: Tensor) -> Tensor:
    """Inverse of the sigmoid, for shares clamped to [0, 1]; finite."""
    share = share.clamp(min=0, max=1)
    return (share.clamp(min=_MIN_LOGIT) / (1 - share).clamp(min=_MIN_LOGIT)).log()
