"""Cut records to one small picture per view when they are prepared, so that training decodes less.

A view becomes a record of its own, a crop: the square of ``margin`` times the larger side of its
box, as much of it as the image holds, shrunk to ``max_side``. What is in pixels moves along, what
is in metres stays. The camera stays the one of the full image, seen through the crop: where the
intrinsics are unknown they become the usual guess for the full image (focal length its diagonal,
principal point its middle) first, so that a method that reads ``intrinsics`` still knows where in
the image the person stood. One that takes the middle of the picture for the principal point
(``full_size / 2``) needs records that are not cut.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from hmrkit.data.crops import select_view, warp
from hmrkit.data.sources.official import Skipped, record_key
from hmrkit.geometry.boxes import box_to_center_side
from hmrkit.types import Sample


@dataclass(frozen=True)
class Precrop:
    """How views are cut.

    Attributes:
        margin: side of the square over the larger side of the box; what training may draw around
            the box (box_scale, scaling, shifts, turns) must fit in.
        max_side: longer side of the stored picture, px, at most.
    """

    margin: float = 2.0
    max_side: int = 512

    def __post_init__(self) -> None:
        if not self.margin >= 1:
            raise ValueError(f"precrop.margin={self.margin}: expected 1 or more")
        if not (isinstance(self.max_side, int) and self.max_side >= 16):
            raise ValueError(f"precrop.max_side={self.max_side}: expected a whole number from 16")

    def __call__(self, sample: Sample, view: int) -> Sample:
        """One view of a complete record with decoded images as a record with I = O = P = 1.

        Raises:
            Skipped: if the square shows nothing of the image.
        """
        single = select_view(sample, view)
        image = single["images"][0]
        height, width = image.shape[:2]
        center, side_px = box_to_center_side(single["box_img"][0], 1.0, self.margin)
        low = np.floor(center - side_px / 2).clip(0, [width, height]).astype(int)
        high = np.ceil(center + side_px / 2).clip(0, [width, height]).astype(int)
        if (high - low < 1).any():
            raise Skipped("box lies outside the image", f"{sample['key']}, view {view}")
        zoom = min(1.0, self.max_side / (high - low).max())
        shift = (0.5 - low) * zoom - 0.5  # pixel centres are whole numbers on both sides
        return {
            **single,
            **_moved(single, zoom, shift, (height, width)),
            "key": record_key(f"{sample['key']}-p{view}"),
            "images": [_cut(image, low, high, zoom, shift)],
        }


def to_precrop(options: Mapping[str, Any]) -> Precrop:
    """Check options by name; those that are not given keep their defaults.

    Raises:
        ValueError: for an unknown option or a wrong value.
    """
    known = [field.name for field in fields(Precrop)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"precrop has no option {unknown[0]!r}; it has {', '.join(known)}")
    return Precrop(**options)


def _cut(
    image: np.ndarray, low: np.ndarray, high: np.ndarray, zoom: float, shift: np.ndarray
) -> np.ndarray:
    """The part of an image (H, W, 3) between two corners x, y, never enlarged."""
    if zoom == 1:
        return image[low[1] : high[1], low[0] : high[0]]
    width, height = np.maximum(((high - low) * zoom + 1e-6).astype(int), 1)
    affine = np.column_stack([zoom * np.eye(2), shift])
    return warp(image, affine, (int(height), int(width)), with_antialias=True)


def _moved(
    single: Sample, zoom: float, shift: np.ndarray, size_hw: tuple[int, int]
) -> dict[str, np.ndarray]:
    """The labels in pixels after ``x * zoom + shift``."""
    keypoints = single["keypoints_img"].astype(np.float64)
    keypoints[..., :2] = keypoints[..., :2] * zoom + shift
    affine = np.array([[zoom, 0, shift[0]], [0, zoom, shift[1]], [0, 0, 1]])
    intrinsics = single["intrinsics"][0].astype(np.float64)
    if not np.isfinite(intrinsics).all():
        intrinsics = _guess(size_hw)
    return {
        "box_img": (single["box_img"] * np.float64(zoom) + np.tile(shift, 2)).astype(np.float32),
        "keypoints_img": keypoints.astype(np.float32),
        "intrinsics": (affine @ intrinsics)[None].astype(np.float32),
    }


def _guess(size_hw: tuple[int, int]) -> np.ndarray:
    """Camera matrix (3, 3), px, for an image of which nothing is known (Li et al. 2022)."""
    height, width = size_hw
    focal_px = np.hypot(height, width)
    return np.array([[focal_px, 0, width / 2], [0, focal_px, height / 2], [0, 0, 1]])
