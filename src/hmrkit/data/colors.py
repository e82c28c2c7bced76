"""Colour augmentation of uint8 images, as the methods' authors compute it."""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

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
    image counts for the mean, padding included.
    """
    for name, factor in steps:
        if name == "saturation":
            bright = Image.fromarray(image)
            dull = bright.convert("L").convert("RGB")
            image = np.asarray(Image.blend(dull, bright, factor))
        else:
            image = cv2.LUT(image, _blend_table(_dull_level(image, name), factor))
    return image


def _dull_level(image: np.ndarray, name: str) -> int:
    if name == "brightness":
        return 0
    if name == "contrast":
        return int(np.asarray(Image.fromarray(image).convert("L")).mean() + 0.5)
    raise ValueError(f"no colour step {name!r}; there are brightness, contrast and saturation")


def _blend_table(dull: int, factor: float) -> np.ndarray:
    levels = dull + np.float32(factor) * (np.arange(256, dtype=np.float32) - dull)
    return np.clip(levels, 0, 255).astype(np.uint8)
