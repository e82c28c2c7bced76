"""Random rectangles of noise over people of a scene (random erasing, Zhong et al. 2020)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_BOX_MARGIN = 1.2


@dataclass(frozen=True)
class Rectangle:
    """What is painted, and where its upper left corner goes, px of the input."""

    left: int
    top: int
    pixels: np.ndarray  # (h, w, 3) uint8


class Erase:
    """Paints at most one rectangle of noise per person, as SAT-HMR draws them.

    A rectangle is placed inside the person's box (larger than it in one direction, it sticks out),
    and drawn anew while it leaves the image.

    Args:
        probability: of a person to be occluded.
        area: least and most area, in shares of the box.
        aspect_hw: least and most height over width.
        num_attempts: after so many the person is left as it is.
    """

    def __init__(
        self,
        probability: float = 0.6,
        area: tuple[float, float] = (0.0, 0.3),
        aspect_hw: tuple[float, float] = (0.5, 2.0),
        num_attempts: int = 6,
    ) -> None:
        self.probability = probability
        self.area = area
        self.aspect_hw = aspect_hw
        self.num_attempts = num_attempts

    def draw(
        self, rng: np.random.Generator, keypoints_px: np.ndarray, size_hw: Sequence[int]
    ) -> tuple[Rectangle, ...]:
        """The rectangles of one image.

        Args:
            rng: source of randomness.
            keypoints_px: (n, K, 3) px of the input + confidence; nothing is painted over people
                without any label.
            size_hw: of the input.
        """
        labelled = [points[points[:, 2] > 0, :2] for points in keypoints_px]
        boxes_px = [_box(points, size_hw) for points in labelled if len(points)]
        places = [self.place(rng, box, size_hw) for box in boxes_px]
        return tuple(
            Rectangle(left, top, rng.integers(0, 256, (height, width, 3), np.uint8))
            for top, height, left, width in filter(None, places)
        )

    def place(
        self, rng: np.random.Generator, box_px: np.ndarray, size_hw: Sequence[int]
    ) -> tuple[int, int, int, int] | None:
        """Top, height, left, width of the rectangle of one person, px; None for no rectangle."""
        if rng.random() > self.probability:
            return None
        x1, y1, x2, y2 = (float(value) for value in box_px)
        box_width, box_height = x2 - x1, y2 - y1
        for _ in range(self.num_attempts):
            area = _between(rng, self.area) * box_width * box_height
            aspect = _between(rng, self.aspect_hw)
            height, width = math.sqrt(area * aspect), math.sqrt(area / aspect)
            left = x1 + rng.random() * (box_width - width - 1)
            top = y1 + rng.random() * (box_height - height - 1)
            if left >= 0 and top >= 0 and left + width < size_hw[1] and top + height < size_hw[0]:
                return int(top), int(height), int(left), int(width)
        return None


def _box(points_px: np.ndarray, size_hw: Sequence[int]) -> np.ndarray:
    """Box (4,) x1 y1 x2 y2 around points (K, 2), with a margin, clipped to the input."""
    low, high = points_px.min(axis=0), points_px.max(axis=0)
    margin = (high - low) * (_BOX_MARGIN - 1) / 2
    limit = np.array([size_hw[1], size_hw[0]]) - 1
    return np.concatenate([np.clip(low - margin, 0, limit), np.clip(high + margin, 0, limit)])


def _between(rng: np.random.Generator, limits: Sequence[float]) -> float:
    return limits[0] + (limits[1] - limits[0]) * rng.random()


def paint(image: np.ndarray, rectangles: Sequence[Rectangle]) -> np.ndarray:
    """The image (H, W, 3) uint8 with the rectangles over it, in order, clipped at its border."""
    if not rectangles:
        return image
    image = image.copy()
    for one in rectangles:
        height, width = one.pixels.shape[:2]
        place = image[one.top : one.top + height, one.left : one.left + width]
        place[:] = one.pixels[: place.shape[0], : place.shape[1]]
    return image
