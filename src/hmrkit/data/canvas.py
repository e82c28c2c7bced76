"""Where a whole image comes to lie in the network's input: size, maps of pixels and of labels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

import cv2
import numpy as np

from hmrkit.data.augment import AugmentParams, in_plane_matrix
from hmrkit.data.crops import warp_stored


class Canvas(NamedTuple):
    """One image in one input; maps are (3, 3) and act on pixel coordinates x, y, 1."""

    valid_hw: tuple[int, int]  # height and width of the resized image
    resize: np.ndarray  # pixels of the source image to those of the resized one
    mirror: np.ndarray  # then this
    turn: np.ndarray  # and then this: rotation, zoom and shift
    labels: np.ndarray  # labels of the source image to the input, all at once


def exact_canvas(full_hw: Sequence[int], long_side_px: int, params: AugmentParams) -> Canvas:
    """The shorter side rounded, labels moved as the pixels are."""
    factor = long_side_px / max(full_hw)
    valid_hw = (max(round(full_hw[0] * factor), 1), max(round(full_hw[1] * factor), 1))
    resize = _resize(full_hw, valid_hw)
    size = np.array(valid_hw[::-1])
    mirror, turn = _mirror_and_turn(params, size, (size[0] - 1) / 2, (size - 1) / 2)
    return Canvas(valid_hw, resize, mirror, turn, turn @ mirror @ resize)


def sathmr_canvas(full_hw: Sequence[int], long_side_px: int, params: AugmentParams) -> Canvas:
    """SAT-HMR: the shorter side truncated in float32, labels scaled and turned about the middle.

    The image is turned about pixel ``size // 2``, which is half a pixel off.
    """
    height, width = full_hw
    rate = np.float32(long_side_px) * (np.float32(1) / np.float32(max(full_hw)))  # as torch divides
    valid_hw = (
        long_side_px if height >= width else max(int(rate * np.float32(height)), 1),
        long_side_px if height < width else max(int(rate * np.float32(width)), 1),
    )
    size = np.array(valid_hw[::-1])
    mirror, turn = _mirror_and_turn(params, size, (size[0] - 1) / 2, size // 2)
    mirror_labels, turn_labels = _mirror_and_turn(params, size, size[0] / 2, size / 2)
    labels = turn_labels @ mirror_labels @ np.diag([rate, rate, 1.0])
    return Canvas(valid_hw, _resize(full_hw, valid_hw), mirror, turn, labels)


def _resize(full_hw: Sequence[int], valid_hw: Sequence[int]) -> np.ndarray:
    """Outer edges on outer edges, as ``cv2.resize`` does."""
    factor = np.array(valid_hw[::-1]) / np.array(full_hw[::-1])
    matrix = np.diag([*factor, 1.0])
    matrix[:2, 2] = (factor - 1) / 2
    return matrix


def _mirror_and_turn(
    params: AugmentParams, size: np.ndarray, mirror_x: float, middle: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The mirror at column ``mirror_x``; rotation, zoom and shift about the point ``middle``."""
    mirror, turn, shift = np.eye(3), np.eye(3), np.array(params.shift)
    if params.is_flipped:
        mirror[0] = [-1, 0, 2 * mirror_x]
        shift = shift * [-1, 1]  # it is drawn for the image before the mirror
    turn[:2, :2] = in_plane_matrix(replace(params, is_flipped=False))[:2, :2] / params.scale
    turn[:2, 2] = middle - turn[:2, :2] @ (middle + shift * size)
    return mirror, turn


def warp_once(images: Sequence[np.ndarray], canvas: Canvas, with_antialias: bool) -> np.ndarray:
    """The only image of a record on its canvas, (H, W, 3) uint8, black around it, sampled once."""
    affine = (canvas.turn @ canvas.mirror @ canvas.resize)[:2]
    return warp_stored(images, 0, affine, canvas.valid_hw, with_antialias)


def resize_and_warp(
    images: Sequence[np.ndarray], canvas: Canvas, with_antialias: bool
) -> np.ndarray:
    """The same in two samplings, which blur a little, as SAT-HMR's are."""
    height, width = canvas.valid_hw
    if with_antialias:
        image = warp_stored(images, 0, canvas.resize[:2], canvas.valid_hw, with_antialias)
    else:
        image = cv2.resize(images[0], (width, height))
    if canvas.mirror[0, 0] < 0:
        image = cv2.flip(image, 1)
    if not np.array_equal(canvas.turn, np.eye(3)):
        image = cv2.warpAffine(image, canvas.turn[:2], (width, height), flags=cv2.INTER_LINEAR)
    return image


class Geometry(NamedTuple):
    """How images and labels are put on a canvas."""

    place: Callable[[Sequence[int], int, AugmentParams], Canvas]
    sample: Callable[[Sequence[np.ndarray], Canvas, bool], np.ndarray]


GEOMETRIES: Mapping[str, Geometry] = MappingProxyType(
    {
        "exact": Geometry(exact_canvas, warp_once),
        "sathmr": Geometry(sathmr_canvas, resize_and_warp),
    }
)
