"""Pinhole cameras: projection, crop cameras and the weak-perspective cameras that networks predict.

Camera frame: x right, y down, z forward, metres. ``*_img`` is in pixels of the source image,
``*_crop`` in crop units, [-1, 1] over the input of the network.
"""

import torch
from torch import Tensor

_EPSILON = 1e-9  # keeps a predicted scale of exactly zero finite; SPIN's value


def project(points_cam: Tensor, intrinsics: Tensor) -> Tensor:
    """Points (..., N, 3) in metres to (..., N, 2) in the unit of ``intrinsics`` (..., 3, 3).

    No clipping: points behind the camera come out mirrored and points in its plane infinite,
    callers that may meet them must look at z.
    """
    rays = _apply(intrinsics, points_cam)  # (..., N, 3)
    return rays[..., :2] / rays[..., 2:]


def transform(points: Tensor, matrix: Tensor) -> Tensor:
    """Apply homogeneous matrices (..., 4, 4) to points (..., N, 3)."""
    return _apply(matrix[..., :3, :3], points) + matrix[..., None, :3, 3]


def crop_intrinsics(focal_px: float, input_hw: tuple[int, int]) -> Tensor:
    """Camera (3, 3), metres to crop units, of a pinhole that looks at the middle of a crop.

    Args:
        focal_px: focal length in pixels of the network's input.
        input_hw: height and width of that input.
    """
    height, width = input_hw
    return torch.diag(torch.tensor([2 * focal_px / width, 2 * focal_px / height, 1.0]))


def crop_to_full_intrinsics(intrinsics_crop: Tensor, crop_to_img: Tensor) -> Tensor:
    """Camera of the whole image (O, 3, 3), px, from that of a crop (O, 3, 3), crop units.

    Args:
        intrinsics_crop: (O, 3, 3) camera metres to crop units.
        crop_to_img: (O, 2, 3) affine map, crop units to source image px.
    """
    last_row = crop_to_img.new_tensor([0.0, 0.0, 1.0]).expand(*crop_to_img.shape[:-2], 1, 3)
    full = torch.cat([crop_to_img, last_row], dim=-2)  # (O, 3, 3)
    return _apply(full, intrinsics_crop.transpose(-1, -2)).transpose(-1, -2)


def weak_perspective_to_transl(cam: Tensor, focal_px: float, crop_side_px: float) -> Tensor:
    """Weak-perspective cameras (O, 3) = (s, tx, ty) to translations (O, 3), metres.

    A body of 2 / s metres fills ``crop_side_px`` pixels at focal length ``focal_px``
    (HMR, SPIN: focal 5000 in the frame of the crop).
    """
    scale, shift = cam[:, :1], cam[:, 1:]
    return torch.cat([shift, 2 * focal_px / (crop_side_px * scale + _EPSILON)], dim=-1)


def cliff_transl(
    cam: Tensor, center_img: Tensor, side_px: Tensor, focal_px: Tensor, full_size: Tensor
) -> Tensor:
    """CLIFF's translation in the frame of the whole image's camera (Li et al. 2022).

    Args:
        cam: (O, 3) weak-perspective camera of the crop (s, tx, ty).
        center_img: (O, 2) centre of the box, px.
        side_px: (O,) height of the box, px.
        focal_px: (O,) focal length, px.
        full_size: (O, 2) height and width of the image, px; its middle is the principal point.

    Returns:
        (O, 3) metres.
    """
    size_at_box = (side_px * cam[:, 0] + _EPSILON)[:, None]  # (O, 1)
    offset = 2 * (center_img - full_size.flip(-1) / 2) / size_at_box  # (O, 2)
    return torch.cat([offset + cam[:, 1:], 2 * focal_px[:, None] / size_at_box], dim=-1)


def _apply(matrix: Tensor, points: Tensor) -> Tensor:
    """Matrices (..., 3, 3) times points (..., N, 3).

    Not a matmul: autocast would round its operands to bfloat16, three digits for a pixel.
    """
    return (matrix[..., None, :, :] * points[..., None, :]).sum(dim=-1)
