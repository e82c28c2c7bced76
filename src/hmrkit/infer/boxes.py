"""Boxes that a user gives, inline or in a JSON file, checked before anything is loaded."""

import json
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray


def read_boxes(
    boxes: str | list | None, images: Mapping[str, Path], sizes: Mapping[str, tuple[int, int]]
) -> dict[str, NDArray[np.float32]]:
    """The boxes of each picture.

    Args:
        boxes: None for the whole picture; ``[[x1, y1, x2, y2], ...]`` in pixels of the upright
            picture, for every picture alike; or the path of a JSON file with such a list or with
            ``{"<file name>": [[x1, y1, x2, y2], ...]}``, where a name may begin with folders.
        images: name -> path, see ``inputs.find_images``.
        sizes: name -> (height, width); pictures without one (undecodable) are left out.

    Returns:
        name -> (N, 4); N is 0 where a JSON file names other pictures only.

    Raises:
        FileNotFoundError: if there is no such JSON file.
        ValueError: if a box is malformed or lies outside its picture, or if the file names a
            picture that is not among the inputs.
    """
    if boxes is None:
        return {name: whole_image_box(size)[None] for name, size in sizes.items()}
    given = _read_json(Path(boxes).expanduser()) if isinstance(boxes, str) else boxes
    if isinstance(given, Mapping):
        per_name: dict[str, Any] = {name: [] for name in sizes}
        per_name |= {_match(key, images): value for key, value in given.items()}
    else:
        per_name = dict.fromkeys(sizes, given)
    return {name: _check(per_name[name], images[name], size) for name, size in sizes.items()}


def whole_image_box(size_hw: tuple[int, int]) -> NDArray[np.float32]:
    """The box (4,) of a whole picture, outer edges of its pixels."""
    height, width = size_hw
    return np.array([-0.5, -0.5, width - 0.5, height - 0.5], dtype=np.float32)


def shrink_box(box_img: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """The box (4,) about the same middle with sides ``factor`` times shorter."""
    middle, half = (box_img[:2] + box_img[2:]) / 2, (box_img[2:] - box_img[:2]) / 2
    return np.concatenate([middle - half / factor, middle + half / factor]).astype(np.float32)


def _read_json(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(
            f"boxes={path}: no such file; give a JSON file, [[x1,y1,x2,y2],...], or nothing "
            "for the whole picture"
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"boxes={path} is not valid JSON: {error}") from error


def _match(key: str, images: Mapping[str, Path]) -> str:
    """The name of the one picture whose path ends with ``key``."""
    parts = PurePath(key).parts
    names = [n for n, path in images.items() if parts and path.parts[-len(parts) :] == parts]
    if len(names) == 1:
        return names[0]
    if not names:
        raise ValueError(
            f"boxes: the file names {key!r}, which is not among the pictures of input="
        )
    raise ValueError(f"boxes: {key!r} fits {len(names)} pictures; write it with its folder")


def _check(boxes: Any, path: Path, size_hw: tuple[int, int]) -> NDArray[np.float32]:
    remedy = "give [[x1,y1,x2,y2],...] in pixels, x1 < x2 and y1 < y2"
    try:
        array = np.asarray(boxes, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"boxes {boxes} for {path}: {remedy}") from error
    if array.size == 0:
        return np.zeros((0, 4), dtype=np.float32)
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"boxes {boxes} for {path}: {remedy}")
    height, width = size_hw
    is_box = np.isfinite(array).all(axis=1) & (array[:, :2] < array[:, 2:]).all(axis=1)
    is_inside = (array[:, 2:] > 0).all(axis=1) & (array[:, :2] < [width, height]).all(axis=1)
    for i, box in enumerate(array.tolist()):
        if not is_box[i]:
            raise ValueError(f"box {box} for {path}: {remedy}")
        if not is_inside[i]:
            raise ValueError(
                f"box {box} lies outside {path}, which is {width} wide and {height} high "
                "(after EXIF rotation); correct the box"
            )
    return array
