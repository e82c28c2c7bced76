"""Boxes around people and the affine maps between a source image and a crop; NumPy, pixels.

The centre of the top-left pixel is (0, 0). A box is x1, y1, x2, y2.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def keypoints_to_box(keypoints_img: NDArray) -> NDArray[np.float32]:
    """Tight box (4,) around the keypoints (K, 3) whose confidence is above 0.

    Raises:
        ValueError: if no finite keypoint has confidence.
    """
    is_seen = (keypoints_img[:, 2] > 0) & np.isfinite(keypoints_img).all(axis=1)
    if not is_seen.any():
        raise ValueError(
            f"none of the {len(keypoints_img)} keypoints has a confidence above 0, so there is "
            "nothing to put a box around; give a box or leave this person out"
        )
    points = keypoints_img[is_seen, :2]
    return np.concatenate([points.min(axis=0), points.max(axis=0)]).astype(np.float32)


def box_to_center_side(
    box_img: NDArray, aspect_hw: float, scale: float
) -> tuple[NDArray[np.float64], float]:
    """Centre (2,) and height, px, of the smallest crop that holds ``scale`` times the box (4,).

    Args:
        box_img: x1, y1, x2, y2.
        aspect_hw: height of the crop over its width.
        scale: margin, 1.2 for SPIN and its descendants.

    Raises:
        ValueError: if the box is not finite or has no area.
    """
    x1, y1, x2, y2 = np.asarray(box_img, dtype=np.float64)
    width, height = x2 - x1, y2 - y1
    if not (np.isfinite([width, height]).all() and width > 0 and height > 0):
        raise ValueError(
            f"box {np.asarray(box_img).tolist()} is not x1, y1, x2, y2 with x1 < x2 and y1 < y2; "
            "correct it or leave this person out"
        )
    center = np.array([x1 + x2, y1 + y2]) / 2
    return center, float(scale * max(width * aspect_hw, height))


def crop_affine(
    center_img: ArrayLike,
    side_px: float,
    input_hw: tuple[int, int],
    rotation_deg: float = 0.0,
    flip: bool = False,
) -> NDArray[np.float64]:
    """Affine map (2, 3) from pixels of the source image to pixels of the network's input.

    Args:
        center_img: (2,) point that lands on (W / 2, H / 2) of the input.
        side_px: height of the crop in the source image; both axes share this scale.
        input_hw: height and width of the input.
        rotation_deg: turns the content counter-clockwise on the screen.
        flip: mirror left and right before turning.
    """
    height, width = input_hw
    zoom, angle = height / side_px, np.deg2rad(rotation_deg)
    cos, sin = zoom * np.cos(angle), zoom * np.sin(angle)
    linear = np.array([[cos, sin], [-sin, cos]])
    if flip:
        linear = linear * np.array([-1.0, 1.0])
    shift = np.array([width / 2, height / 2]) - linear @ np.asarray(center_img, dtype=np.float64)
    return np.concatenate([linear, shift[:, None]], axis=1)


def invert_affine(matrix: NDArray) -> NDArray[np.float64]:
    """Inverse (..., 2, 3) of affine maps (..., 2, 3)."""
    inverse = np.linalg.inv(np.asarray(matrix, dtype=np.float64)[..., :2])
    return np.concatenate([inverse, -inverse @ matrix[..., 2:]], axis=-1)
