"""What a 2D detector found: boxes, and evidence for test-time optimisation."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hmrkit.data.detections import match, read_detections
from hmrkit.geometry.boxes import keypoints_to_box
from hmrkit.infer.box_files import EVERY
from hmrkit.infer.boxes import check, read_given, read_people
from hmrkit.infer.detectors import Detections


def given_people(
    folder: str | None,
    boxes: str | list | None,
    images: Mapping[str, Path],
    sizes: Mapping[str, tuple[int, int]],
) -> dict[str, Detections]:
    """Who is in each picture, from files; at least one of ``folder`` and ``boxes`` is given.

    Args:
        folder: of ``<stem of the picture>_keypoints.json``, or None.
        boxes: see ``read_people``; with a folder, None stands for the tight boxes of its people.
        images: name -> path.
        sizes: name -> (height, width).

    Returns:
        name -> people. With a folder they have keypoints, all 0 where no detection overlaps a box.

    Raises:
        FileNotFoundError: if there is no such folder, or no file for one of the pictures.
        ValueError: if a file is not in its format, or a box is wrong.
    """
    if folder is None:
        assert boxes is not None
        return read_people(boxes, images, sizes)
    files = {n: _folder(folder) / f"{images[n].stem}_keypoints.json" for n in sizes}
    detected = {name: read_detections(path) for name, path in files.items()}
    if boxes is None:
        return {name: _tight(*found) for name, found in detected.items()}
    given = read_people(boxes, images, sizes)
    return {name: _with_evidence(given[name], *found) for name, found in detected.items()}


def given_in_frames(
    folder: str | None, boxes: str | list | None, clip: str
) -> dict[int, Detections] | None:
    """Who is in the frames of a video, unchecked, by number from 0; -1 for who is in every frame.

    Args:
        folder: of ``<name of the video>_<number>_keypoints.json``, as OpenPose writes them from 0.
        boxes: inline, or a file whose names end with frame numbers, ``000001.jpg``; the smallest of
            a file is 0 or, if there is no 0, 1.
        clip: name of the video.

    Returns:
        None if neither is given.

    Raises:
        FileNotFoundError: if there is no such file or folder, or none for this video in it.
        ValueError: if a file is not in its format, or names without numbers.
    """
    if folder is not None:
        pattern = re.compile(rf"{re.escape(clip)}_(\d+)_keypoints\.json")
        files = {p: m for p in _folder(folder).iterdir() if (m := pattern.fullmatch(p.name))}
        if not files:
            raise FileNotFoundError(
                f"keypoints={folder}: no {clip}_<number>_keypoints.json in there, one per frame"
            )
        return {int(m[1]): _tight(*read_detections(path)) for path, m in files.items()}
    if boxes is None:
        return None
    given = read_given(boxes)
    if EVERY in given:
        return {-1: given[EVERY]}
    numbers = {name: re.search(r"(\d+)(\.\w+)?$", name) for name in given}
    without = [name for name, number in numbers.items() if number is None]
    if without:
        raise ValueError(f"boxes={boxes}: {without[0]!r} has no frame number of {clip} at its end")
    by_number = {int(numbers[name][1]): found for name, found in given.items()}  # type: ignore[index]
    first = min(1, *by_number) if by_number else 0
    return {number - first: found for number, found in by_number.items()}


def frame_people(
    given: Mapping[int, Detections], frame: int, clip: str, size_hw: tuple[int, int]
) -> Detections:
    """Who is in one frame, checked.

    Raises:
        ValueError: if a box is wrong.
    """
    nobody = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    found = given.get(frame, given.get(-1, nobody))
    return check(found, f"frame {frame} of {clip}", size_hw)


def _folder(folder: str) -> Path:
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f"keypoints={folder}: no such folder")
    return path


def _tight(joint_set: str, people: NDArray[np.float32]) -> Detections:
    boxes = np.float32([keypoints_to_box(person) for person in people]).reshape(-1, 4)
    scores = np.full(len(boxes), np.nan, np.float32)
    return Detections(boxes, scores, None, (joint_set, people))


def _with_evidence(given: Detections, joint_set: str, people: NDArray[np.float32]) -> Detections:
    """The boxes with the detections (N, K, 3) of those in them."""
    found = np.zeros((len(given.boxes_img), *people.shape[1:]), np.float32)
    for row, box in enumerate(given.boxes_img):
        one = match(box, people)
        if one is not None:
            found[row] = people[one]
    return replace(given, keypoints=(joint_set, found))
