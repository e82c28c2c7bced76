"""Rotation matrices, axis-angle vectors and the two 6D forms; any batch dimensions, differentiable.

Inside hmrkit a rotation is a matrix. Other forms live at the borders (shards, heads of networks)
and are converted there by the function that names both sides. The formulas are roma's; what is
added here are the names, which tell the two 6D layouts apart.
"""

import roma
import torch
from torch import Tensor

_EPSILON = 1e-12  # smallest length divided by; the value of SPIN and its descendants


def axis_angle_to_rotmat(axis_angle: Tensor) -> Tensor:
    """Axis-angle (..., 3), radians, to rotation matrices (..., 3, 3)."""
    return roma.rotvec_to_rotmat(axis_angle)


def rotmat_to_axis_angle(rotmat: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) to axis-angle (..., 3) of length at most pi."""
    return roma.rotmat_to_rotvec(rotmat)


def rot6d_interleaved_to_rotmat(rot6d: Tensor) -> Tensor:
    """6D (..., 6) viewed as (3, 2) to rotation matrices (..., 3, 3).

    Entries 0, 2, 4 become the first column and 1, 3, 5 the second by Gram-Schmidt
    (Zhou et al. 2019, equation 15; this layout is SPIN's and that of PyMAF, Meta-HMR, SAT-HMR).
    Finite for every finite input, but collinear columns do not give a rotation.
    """
    return roma.special_gramschmidt(rot6d.unflatten(-1, (3, 2)), epsilon=_EPSILON)


def rotmat_to_rot6d_interleaved(rotmat: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) to 6D (..., 6), the first two columns row by row."""
    return rotmat[..., :2].flatten(-2)


def rot6d_stacked_to_rotmat(rot6d: Tensor) -> Tensor:
    """6D (..., 6) to rotation matrices (..., 3, 3).

    Entries 0-2 become the first column and 3-5 the second by Gram-Schmidt (Zhou et al. 2019,
    equation 15; this layout is TokenHMR's). Collinear halves do not give a rotation.
    """
    columns = torch.stack([rot6d[..., :3], rot6d[..., 3:]], dim=-1)  # (..., 3, 2)
    return roma.special_gramschmidt(columns, epsilon=_EPSILON)


def rotmat_to_rot6d_stacked(rotmat: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) to 6D (..., 6), first column then second."""
    return rotmat[..., :2].transpose(-1, -2).flatten(-2)
