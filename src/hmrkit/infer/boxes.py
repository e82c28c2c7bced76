"""Boxes that a user gives, inline or in a file, checked before anything is loaded."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hmrkit.infer.box_files import EVERY, plain, read_box_file
from hmrkit.infer.detectors import Detections


def read_boxes(
    boxes: str | list | None, images: Mapping[str, Path], sizes: Mapping[str, tuple[int, int]]
) -> dict[str, NDArray[np.float32]]:
    """The boxes of each picture, (N, 4) px by name; see ``read_people``."""
    if boxes is None:
        return {name: whole_image_box(size)[None] for name, size in sizes.items()}
    return {n: found.boxes_img for n, found in read_people(boxes, images, sizes).items()}


def read_people(
    boxes: str | list, images: Mapping[str, Path], sizes: Mapping[str, tuple[int, int]]
) -> dict[str, Detections]:
    """Who is in each picture.

    Args:
        boxes: ``[[x1, y1, x2, y2], ...]`` in pixels of the upright picture, for every picture
            alike; or the path of a file, see ``box_files``, whose names may begin with folders.
        images: name -> path, see ``inputs.find_images``.
        sizes: name -> (height, width); pictures without one (undecodable) are left out.

    Returns:
        name -> people; nobody where a file names other pictures only.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a box is malformed or lies outside its picture, or if the file names a
            picture that is not among the inputs.
    """
    given = read_given(boxes)
    nobody = plain(np.zeros((0, 4), np.float32))
    per_name = dict.fromkeys(sizes, given.get(EVERY, nobody))
    per_name |= {_match(key, images): found for key, found in given.items() if key != EVERY}
    return {name: check(per_name[name], str(images[name]), size) for name, size in sizes.items()}


def read_given(boxes: str | list) -> dict[str, Detections]:
    """Unchecked people by name as the file has it; ``EVERY`` for those of every picture."""
    if isinstance(boxes, str):
        return read_box_file(Path(boxes).expanduser())
    return {EVERY: plain(boxes)}


def whole_image_box(size_hw: tuple[int, int]) -> NDArray[np.float32]:
    """The box (4,) of a whole picture, outer edges of its pixels."""
    height, width = size_hw
    return np.array([-0.5, -0.5, width - 0.5, height - 0.5], dtype=np.float32)


def shrink_box(box_img: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """The box (4,) about the same middle with sides ``factor`` times shorter."""
    middle, half = (box_img[:2] + box_img[2:]) / 2, (box_img[2:] - box_img[:2]) / 2
    return np.concatenate([middle - half / factor, middle + half / factor]).astype(np.float32)


def check(found: Detections, picture: str, size_hw: tuple[int, int]) -> Detections:
    """The same people if all boxes make sense.

    Raises:
        ValueError: if a box is malformed or lies outside its picture; names both.
    """
    return replace(found, boxes_img=_check(found.boxes_img, picture, size_hw))


def _match(key: str, images: Mapping[str, Path]) -> str:
    """The name of the one picture whose path ends with ``key``, or that has this name."""
    parts = PurePath(key).parts
    names = [n for n, path in images.items() if parts and path.parts[-len(parts) :] == parts]
    names = names or [n for n in images if n == key]
    if len(names) == 1:
        return names[0]
    if not names:
        raise ValueError(
            f"boxes: the file names {key!r}, which is not among the pictures of input="
        )
    raise ValueError(f"boxes: {key!r} fits {len(names)} pictures; write it with its folder")


def _check(boxes: Any, picture: str, size_hw: tuple[int, int]) -> NDArray[np.float32]:
    remedy = "give [[x1,y1,x2,y2],...] in pixels, x1 < x2 and y1 < y2"
    try:
        array = np.asarray(boxes, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"boxes {boxes} for {picture}: {remedy}") from error
    if array.size == 0:
        return np.zeros((0, 4), dtype=np.float32)
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"boxes {boxes} for {picture}: {remedy}")
    height, width = size_hw
    is_box = np.isfinite(array).all(axis=1) & (array[:, :2] < array[:, 2:]).all(axis=1)
    is_inside = (array[:, 2:] > 0).all(axis=1) & (array[:, :2] < [width, height]).all(axis=1)
    for i, box in enumerate(array.tolist()):
        if not is_box[i]:
            raise ValueError(f"box {box} for {picture}: {remedy}")
        if not is_inside[i]:
            raise ValueError(
                f"box {box} lies outside {picture}, which is {width} wide and {height} high "
                "(after EXIF rotation); correct the box"
            )
    return array
