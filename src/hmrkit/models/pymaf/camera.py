"""The camera that explains 2D keypoints by 3D ones."""

import torch
from torch import Tensor


def fit_camera(points: Tensor, target_crop: Tensor, weight: Tensor, intrinsics: Tensor) -> Tensor:
    """Translation (P, 3), metres, under which 3D points project nearest to 2D ones.

    Linear least squares of f (X + t_x) = (u - c) (Z + t_z), likewise y, each row weighted by the
    confidence (SPIN's ``estimate_translation``). Without weight it is (0, 0, 1): nobody is drawn
    from such a sample, and nothing fails.

    Args:
        points: (P, K, 3) metres.
        target_crop: (P, K, 2) crop units.
        weight: (P, K), not negative.
        intrinsics: (P, 3, 3) camera metres to crop units, without skew.
    """
    focal = torch.stack([intrinsics[:, 0, 0], intrinsics[:, 1, 1]], dim=-1)[:, None].double()
    center = intrinsics[:, :2, 2][:, None].double()
    offset, points = target_crop.double() - center, points.double()  # (P, K, 2)
    root = weight.double().sqrt()[..., None]
    zero = torch.zeros_like(offset[..., 0])
    rows_x = torch.stack([focal[..., 0] + zero, zero, -offset[..., 0]], dim=-1)
    rows_y = torch.stack([zero, focal[..., 1] + zero, -offset[..., 1]], dim=-1)
    matrix = torch.cat([rows_x * root, rows_y * root], dim=1)  # (P, 2K, 3)
    right = (offset * points[..., 2:] - focal * points[..., :2]) * root
    right = torch.cat([right[..., 0], right[..., 1]], dim=1)[..., None]
    normal = matrix.transpose(-1, -2) @ matrix
    is_solvable = torch.linalg.matrix_rank(normal, hermitian=True) == 3
    identity = torch.eye(3, dtype=normal.dtype, device=normal.device)
    normal = torch.where(is_solvable[:, None, None], normal, identity)
    solution = torch.linalg.solve(normal, matrix.transpose(-1, -2) @ right)[..., 0]
    ahead = solution.new_tensor([0.0, 0.0, 1.0])
    return torch.where(is_solvable[:, None], solution, ahead).float()
