"""SPIN's own way to cut a crop, to the pixel: what PyMAF was trained and is tested with.

It differs from ``Crops`` in four ways, none of which is better:

* the corners of the region are truncated to whole pixels, so that its sides jitter by one;
* a turned crop is sampled twice, bilinearly from the image and then by the resize, and truncated to
  whole levels in between; turning comes before mirroring;
* the resize is Pillow's bicubic filter with antialiasing;
* joints are truncated to whole pixels of the input and moved by one (as SPIN's 1-based pixels).

``crop_to_img`` is the exact map of the region, which those pixels and joints miss by up to 1 px
(joints to the left of the crop or above it by 2).
The box must be the stored one (``box_joints: null``) for upstream's very pixels.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from PIL import Image

from hmrkit.data.augment import Augment, AugmentParams, augment_region, keypoints_to_crop
from hmrkit.data.crops import Crops, px_to_units
from hmrkit.geometry.boxes import crop_affine, invert_affine
from hmrkit.types import Sample

_PX_PER_SCALE = 200.0
_DECIMALS = 3  # to which annotations write pixels
_ROUNDING = 5e-5  # levels: float32 sums of equal levels stay above the whole number they are


class SpinCrops(Crops):
    """Cuts one view out of a record as SPIN does; arguments as ``Crops``.

    Args:
        input_size: height and width of the network's input, px; a square.
        box_scale: margin around the box.
        fit_aspect_hw: as ``Crops``.
        box_joints: as ``Crops``.
        with_antialias: always true here.
        antialias_filter: without effect; the filter is Pillow's.
        half_resolution_sources: as ``Crops``.
        augment: as ``Crops``.
    """

    def __init__(
        self,
        input_size: Sequence[int],
        box_scale: float = 1.2,
        fit_aspect_hw: Sequence[float] | None = None,
        box_joints: str | None = None,
        with_antialias: bool = True,
        antialias_filter: str = "area",
        half_resolution_sources: Sequence[str] = (),
        augment: Augment | None = None,
    ) -> None:
        super().__init__(
            input_size=input_size,
            box_scale=box_scale,
            fit_aspect_hw=fit_aspect_hw,
            box_joints=box_joints,
            with_antialias=with_antialias,
            antialias_filter=antialias_filter,
            half_resolution_sources=half_resolution_sources,
            augment=augment,
        )
        if self.input_hw[0] != self.input_hw[1] or not with_antialias:
            raise ValueError(
                f"input_size={list(self.input_hw)}, with_antialias={with_antialias}: SPIN's crops "
                "are squares and always smoothed; take hmrkit.data.crops.Crops for others"
            )

    def _region(self, box: np.ndarray) -> tuple[np.ndarray, float]:
        """Centre and side as the annotation wrote them, where the box says enough.

        A box is float32, and the noise in its last digit would decide where a corner that lies on
        a whole pixel is truncated to. So the centre and side of few decimals from which this very
        box follows is taken, if there is one.
        """
        center, side_px = super()._region(box)
        written_center, written_side = np.round(center, _DECIMALS), round(side_px, _DECIMALS)
        half = written_side / (2 * self.box_scale)
        again = np.concatenate([written_center - half, written_center + half]).astype(np.float32)
        return (written_center, written_side) if np.array_equal(again, box) else (center, side_px)

    def _cut_region(
        self, sample: Sample, view: int, center: np.ndarray, side_px: float, params: AugmentParams
    ) -> tuple[np.ndarray, Sample]:
        """Pixels (H, W, 3) of a region, augmented but for colour, and ``crop_to_img``, joints."""
        size = self.input_hw[0]
        image, keypoints = (
            sample["images"][sample["image_of_view"][view]],
            sample["keypoints_img"][view],
        )
        center = augment_region(center, side_px, params)[0]
        side_px = _PX_PER_SCALE * (params.scale * (side_px / _PX_PER_SCALE))  # SPIN's roundings
        angle = -params.rotation_deg if params.is_flipped else params.rotation_deg  # then mirrored
        pixels = _pixels(image, _corners(center, side_px, size), angle, size)
        turned = _turn_matrix(size, angle) @ _zoom_matrix(center, side_px, size)
        points = keypoints[:, :2].astype(np.float64) @ turned[:2, :2].T + turned[:2, 2]
        moved = np.column_stack([np.trunc(points) + 1, keypoints[:, 2]])
        mirror = np.array([[-1.0 if params.is_flipped else 1.0, 0, 0], [0, 1, 0]])
        to_units = mirror @ np.array([[2 / size, 0, -1], [0, 2 / size, -1], [0, 0, 1]])
        exact = px_to_units(
            crop_affine(center, side_px, self.input_hw, params.rotation_deg, params.is_flipped),
            self.input_hw,
        )
        return pixels[:, ::-1] if params.is_flipped else pixels, {
            "crop_to_img": invert_affine(exact).astype(np.float32)[None],
            "keypoints_crop": keypoints_to_crop(
                moved[None], to_units, sample["joint_set"], params.is_flipped
            ),
        }


def _zoom_matrix(center: np.ndarray, side_px: float, size: int) -> np.ndarray:
    """(3, 3) image px to input px; the order of operations is SPIN's, down to the last bit."""
    matrix = np.eye(3)
    matrix[0, 0] = matrix[1, 1] = size / side_px
    matrix[:2, 2] = size * (-center / side_px + 0.5)
    return matrix


def _turn_matrix(size: int, angle_deg: float) -> np.ndarray:
    """(3, 3) that turns the input counter-clockwise about its centre."""
    if angle_deg == 0:
        return np.eye(3)
    angle = np.deg2rad(angle_deg)
    turn, to_middle = np.eye(3), np.eye(3)
    turn[:2, :2] = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    to_middle[:2, 2] = -size / 2
    return np.linalg.inv(to_middle) @ turn @ to_middle


def _corners(center: np.ndarray, side_px: float, size: int) -> np.ndarray:
    """(2, 2) int, x and y of the upper left and, behind it, the lower right corner, image px."""
    inverse = np.linalg.inv(_zoom_matrix(center, side_px, size))
    ends = np.array([[0.0, 0.0, 1.0], [size, size, 1.0]])
    return np.stack([inverse @ end for end in ends])[:, :2].astype(int)  # towards zero


def _pixels(image: np.ndarray, corners: np.ndarray, angle_deg: float, size: int) -> np.ndarray:
    """(size, size, 3) uint8 of the region between two corners, turned; black outside the image."""
    (left, top), (right, bottom) = corners
    width, height = max(right - left, 1), max(bottom - top, 1)
    # SPIN turns a larger piece, of which this is the middle; beyond that piece it sees black.
    reach = 0 if angle_deg == 0 else int(np.hypot(width, height) / 2 - height / 2)
    low = np.clip([left - reach, top - reach], 0, image.shape[1::-1])
    high = np.clip([left + width + reach, top + height + reach], low, image.shape[1::-1])
    seen = image[low[1] : high[1], low[0] : high[0]]
    offset = low - [left, top]
    if seen.size == 0:
        region = np.zeros((height, width, 3), np.uint8)
    elif angle_deg == 0:
        region = np.zeros((height, width, 3), np.uint8)
        region[offset[1] :, offset[0] :][: seen.shape[0], : seen.shape[1]] = seen
    else:
        region = _turned(seen, offset, (height, width), angle_deg)
    resized = Image.fromarray(region).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(resized)


def _turned(
    seen: np.ndarray, offset: np.ndarray, region_hw: tuple[int, int], angle_deg: float
) -> np.ndarray:
    """A region (H, W, 3) turned about its centre, bilinear, truncated to uint8.

    OpenCV before 5 rounds coordinates to 1/32 px, which is off by up to 4 levels; torch does not.

    Args:
        seen: (h, w, 3) uint8, the pixels that there are.
        offset: (2,) x y of their first in the region.
        region_hw: height and width of the region.
        angle_deg: turns the content counter-clockwise on the screen.
    """
    (height, width), (rows, columns) = region_hw, seen.shape[:2]
    angle = np.deg2rad(angle_deg)
    cos, sin = np.cos(angle), np.sin(angle)
    # Where each pixel comes from, row plus column; -1 and 1 are the outer edges of what is seen.
    x, y = np.arange(width) - (width - 1) / 2, np.arange(height)[:, None] - (height - 1) / 2
    from_x = 2 * (cos * x + width / 2 - offset[0]) / columns - 1, -2 * sin * y / columns
    from_y = 2 * (sin * x + height / 2 - offset[1]) / rows - 1, 2 * cos * y / rows
    grid = np.empty((1, height, width, 2), np.float32)
    np.add(*(part.astype(np.float32) for part in from_x), out=grid[0, ..., 0])
    np.add(*(part.astype(np.float32) for part in from_y), out=grid[0, ..., 1])
    planes = torch.from_numpy(seen.astype(np.float32)).permute(2, 0, 1)[None]
    turned = torch.nn.functional.grid_sample(
        planes,
        torch.from_numpy(grid),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )
    return cv2.merge(list(turned[0].add_(_ROUNDING).to(torch.uint8).numpy()))
