"""Synthetic occlusion: small cut-out pictures pasted over a crop (Sarandi et al. 2018).

A patch is (h, w, 4) uint8, RGB and opacity, about as large as it should look in a crop of 256 px.
``GeneratedPatches`` makes patches from nothing; ``read_pascal_patches`` reads the file of objects
cut out of Pascal VOC that Meta-HMR, PARE and mmhuman3d share.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import cv2
import numpy as np

from hmrkit.body.pickles import load_pickle

_REFERENCE_PX = 256  # the size of crop that patches are drawn for


@dataclass(frozen=True)
class Occlusion:
    """One patch and where it goes, in shares of the crop, so that it fits every input size."""

    patch: np.ndarray  # (h, w, 4) uint8
    scale: float  # size factor at a crop of 256 px
    center: tuple[float, float]  # x, y in [0, 1] over the crop


class Patches(Protocol):
    """Where patches come from."""

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """One patch (h, w, 4) uint8."""
        ...


class GeneratedPatches:
    """Ellipses, boxes and polygons with soft edges and a blotchy or striped texture.

    Args:
        min_side_px: smallest side of a patch, at a crop of 256 px.
        max_side_px: largest side.
    """

    def __init__(self, min_side_px: int = 32, max_side_px: int = 128) -> None:
        self.min_side_px = min_side_px
        self.max_side_px = max_side_px

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """One new patch (h, w, 4) uint8."""
        height, width = rng.integers(self.min_side_px, self.max_side_px + 1, size=2)
        patch = np.empty((height, width, 4), np.uint8)
        patch[..., :3] = _texture(rng, int(height), int(width))
        patch[..., 3] = _outline(rng, int(height), int(width))
        return patch


class StoredPatches:
    """Patches given as arrays (h, w, 4) uint8, drawn evenly."""

    def __init__(self, patches: Sequence[np.ndarray]) -> None:
        for i, patch in enumerate(patches):
            if patch.ndim != 3 or patch.shape[2] != 4 or patch.dtype != np.uint8:
                raise ValueError(
                    f"occluder {i} is {patch.dtype} of shape {patch.shape}; "
                    "an occluder is uint8 (height, width, 4), RGB and opacity"
                )
        if not patches:
            raise ValueError("there are no occluders; give at least one or leave occlusion out")
        self.patches = list(patches)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """One of the patches."""
        return self.patches[rng.integers(len(self.patches))]


def read_pascal_patches(path: str) -> StoredPatches:
    """The patches of an official ``pascal_occluders.npy``; nothing in the file is executed.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file holds something else than arrays of pixels.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"no occluders at {path}: pascal_occluders.npy comes with the data of Meta-HMR and "
            "PARE; or take hmrkit.data.occluders.GeneratedPatches, which needs no file"
        )
    with Path(path).open("rb") as file:
        content = _read_object_array(file, Path(path))
    if not (isinstance(content, np.ndarray) and content.ndim == 1):
        raise ValueError(f"{path} holds no list of occluders but {type(content).__name__}")
    return StoredPatches([np.asarray(patch) for patch in content])


def _read_object_array(file: BinaryIO, path: Path) -> object:
    """The array of Python objects of an .npy file, read by the unpickler that runs nothing."""
    headers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(file)  # ValueError for other files
    _, _, dtype = headers[version](file)
    if not dtype.hasobject:
        raise ValueError(f"{path} holds {dtype} numbers; occluders are an array of pictures")
    return load_pickle(file, path)


class Occlude:
    """How often, how many and how large patches are pasted.

    Args:
        patches: where patches come from.
        probability: of a sample to be occluded at all.
        count: least and most patches of an occluded sample.
        scale: least and most size factor of a patch at a crop of 256 px.
        sources: names of the sources that are occluded; None for every source.
    """

    def __init__(
        self,
        patches: Patches,
        probability: float = 1.0,
        count: tuple[int, int] = (1, 7),
        scale: tuple[float, float] = (0.2, 1.0),
        sources: Sequence[str] | None = None,
    ) -> None:
        self.patches = patches
        self.probability = probability
        self.count = count
        self.scale = scale
        self.sources = sources

    def draw(self, rng: np.random.Generator, source: str) -> tuple[Occlusion, ...]:
        """The occlusions of one sample of ``source``."""
        if self.sources is not None and source not in self.sources:
            return ()
        if rng.random() >= self.probability:
            return ()
        count = rng.integers(self.count[0], self.count[1] + 1)
        return tuple(
            Occlusion(
                patch=self.patches.draw(rng),
                scale=rng.uniform(*self.scale),
                center=(rng.random(), rng.random()),
            )
            for _ in range(count)
        )


def paste(image: np.ndarray, occlusions: Sequence[Occlusion]) -> np.ndarray:
    """The image (H, W, 3) uint8 with every occlusion pasted over it, in order.

    A patch is resized by ``scale * min(H, W) / 256`` and centred on the nearest pixel; values are
    truncated to uint8 (the rule of Meta-HMR, which reproduces its crops).
    """
    if not occlusions:
        return image
    image = image.copy()
    height, width = image.shape[:2]
    for occlusion in occlusions:
        patch = _resize(occlusion.patch, occlusion.scale * min(height, width) / _REFERENCE_PX)
        center_px = np.round(np.array(occlusion.center) * (width, height)).astype(int)
        left, top = center_px - np.array(patch.shape[1::-1]) // 2
        _blend(image, patch, left, top)
    return image


def _resize(patch: np.ndarray, factor: float) -> np.ndarray:
    height, width = np.maximum(np.round(np.array(patch.shape[:2]) * factor).astype(int), 1)
    interpolation = cv2.INTER_LINEAR if factor > 1 else cv2.INTER_AREA
    return cv2.resize(patch, (int(width), int(height)), interpolation=interpolation)


def _blend(image: np.ndarray, patch: np.ndarray, left: int, top: int) -> None:
    """Paste ``patch`` into ``image`` with its upper left corner at (left, top), clipped."""
    x1, y1 = max(left, 0), max(top, 0)
    x2 = min(left + patch.shape[1], image.shape[1])
    y2 = min(top + patch.shape[0], image.shape[0])
    if x1 >= x2 or y1 >= y2:
        return
    seen = patch[y1 - top : y2 - top, x1 - left : x2 - left]
    opacity = seen[..., 3:].astype(np.float32) / 255
    image[y1:y2, x1:x2] = opacity * seen[..., :3] + (1 - opacity) * image[y1:y2, x1:x2]


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8: a colour with blotches, or two colours in stripes."""
    color = rng.integers(0, 256, size=3)
    if rng.random() < 0.5:
        cells = rng.normal(color, rng.uniform(5, 45), size=(*rng.integers(2, 9, size=2), 3))
        return cv2.resize(np.clip(cells, 0, 255).astype(np.uint8), (width, height))
    period, angle = rng.uniform(6, 40), rng.uniform(0, math.pi)
    x, y = np.arange(width) * math.cos(angle), np.arange(height) * math.sin(angle)
    is_first = ((x + y[:, None]) % period < period / 2).astype(np.uint8)
    return np.stack([rng.integers(0, 256, size=3), color]).astype(np.uint8)[is_first]


def _outline(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(height, width) uint8 opacity of a random shape that fills most of the patch."""
    mask = np.zeros((height, width), np.uint8)
    kind = rng.integers(3)
    if kind == 0:
        mask[2:-2, 2:-2] = 255
    elif kind == 1:
        axes = (width // 2 - 2, height // 2 - 2)
        cv2.ellipse(mask, (width // 2, height // 2), axes, 0, 0, 360, 255, thickness=-1)
    else:
        angles = np.sort(rng.uniform(0, 2 * math.pi, size=rng.integers(3, 9)))
        radii = rng.uniform(0.5, 1, size=angles.size)
        corners = 0.5 + 0.48 * radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        cv2.fillPoly(mask, [np.round(corners * (width, height)).astype(np.int32)], 255)
    return cv2.blur(mask, (3, 3))
