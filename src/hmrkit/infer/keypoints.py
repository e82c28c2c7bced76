"""What a 2D detector found in the pictures: boxes, and evidence for test-time optimisation."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hmrkit.data.detections import match, read_detections
from hmrkit.geometry.boxes import keypoints_to_box
from hmrkit.infer.boxes import read_boxes

Boxes = dict[str, NDArray[np.float32]]
Keypoints = dict[str, tuple[str, NDArray[np.float32]]]


def boxes_and_keypoints(
    folder: str | None,
    boxes: str | list | None,
    images: Mapping[str, Path],
    sizes: Mapping[str, tuple[int, int]],
) -> tuple[Boxes, Keypoints]:
    """The boxes of each picture, and the keypoints of who is in them.

    Args:
        folder: of ``<stem of the picture>_keypoints.json``, or None.
        boxes: see ``read_boxes``; with a folder, None stands for the tight boxes of its people.
        images: name -> path.
        sizes: name -> (height, width).

    Returns:
        name -> (N, 4) px, and name -> joint set and (N, K, 3) px + confidence; all 0 for those
        whose box no detection overlaps.

    Raises:
        FileNotFoundError: if there is no such folder, or no file for one of the pictures.
        ValueError: if a file is not in OpenPose's format, or a box is wrong.
    """
    if folder is None:
        return read_boxes(boxes, images, sizes), {}
    if not Path(folder).expanduser().is_dir():
        raise FileNotFoundError(f"keypoints={folder}: no such folder")
    files = {n: Path(folder).expanduser() / f"{images[n].stem}_keypoints.json" for n in sizes}
    detected = {name: read_detections(path) for name, path in files.items()}
    if boxes is None:
        empty = np.zeros((0, 4), np.float32)
        tight = {
            name: np.stack([keypoints_to_box(person) for person in people])
            if len(people)
            else empty
            for name, (_, people) in detected.items()
        }
        return tight, detected
    given = read_boxes(boxes, images, sizes)
    return given, {name: (s, _of_boxes(given[name], p)) for name, (s, p) in detected.items()}


def _of_boxes(boxes_img: NDArray[np.float32], people: np.ndarray) -> NDArray[np.float32]:
    """The detections (N, K, 3) of those in the boxes."""
    chosen = [match(box, people) for box in boxes_img]
    found = np.zeros((len(boxes_img), *people.shape[1:]), np.float32)
    for row, one in enumerate(chosen):
        if one is not None:
            found[row] = people[one]
    return found
