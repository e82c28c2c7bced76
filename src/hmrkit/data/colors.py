"""Colour augmentation of uint8 images, as the methods' authors compute it."""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

_TRUNCATE = -0.5 + 1e-4  # added to what OpenCV will round
Jitter = tuple[str, float]  # "brightness", "contrast" or "saturation", and its factor


def gain(image: np.ndarray, factors: Sequence[float]) -> np.ndarray:
    """An image (H, W, 3) uint8 with a factor per channel, clipped and truncated back to uint8."""
    levels = np.arange(256)[:, None] * np.array(factors)  # (256, 3)
    table = np.clip(levels, 0, 255).astype(np.uint8)[None]
    return cv2.LUT(image, np.ascontiguousarray(table))


def jitter(image: np.ndarray, steps: Sequence[Jitter]) -> np.ndarray:
    """An image (H, W, 3) uint8 RGB after the steps, in order: torchvision's ColorJitter on uint8.

    Each step blends the image with a dull one, ``dull + factor * (image - dull)``, and truncates:
    black for brightness, the mean grey for contrast, the image's own grey for saturation. The whole
    image counts for the mean, padding included. Where a blend is a whole number but for rounding,
    as factors of few digits make it, saturation may be a level off.
    """
    for name, factor in steps:
        if name == "saturation":
            dull = cv2.cvtColor(_grey(image), cv2.COLOR_GRAY2RGB)
            image = cv2.addWeighted(image, factor, dull, 1 - factor, _TRUNCATE)
        else:
            image = cv2.LUT(image, _blend_table(_dull_level(image, name), factor))
    return image


def _dull_level(image: np.ndarray, name: str) -> int:
    if name == "brightness":
        return 0
    if name == "contrast":
        return int(cv2.mean(_grey(image))[0] + 0.5)
    raise ValueError(f"no colour step {name!r}; there are brightness, contrast and saturation")


def _grey(image: np.ndarray) -> np.ndarray:
    """(H, W) uint8; OpenCV's grey is a level off here and there, which later steps enlarge."""
    return np.asarray(Image.fromarray(image).convert("L"))


def _blend_table(dull: int, factor: float) -> np.ndarray:
    levels = dull + np.float32(factor) * (np.arange(256, dtype=np.float32) - dull)
    return np.clip(levels, 0, 255).astype(np.uint8)
