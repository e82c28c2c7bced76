"""People that other programs found: files of boxes and keypoints, brought into one form.

Read are COCO's JSON (a dataset, or a list of results), OpenPose's JSON (one picture), what PHALP
tracked (its dictionary as JSON), and the plain ``{"photo.jpg": [[x1, y1, x2, y2], ...]}``.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hmrkit.body import joints
from hmrkit.data.detections import read_detections
from hmrkit.geometry.boxes import keypoints_to_box
from hmrkit.infer.detectors import Detections

FORMS = (
    "[[x1,y1,x2,y2],...], {\"photo.jpg\": [[x1,y1,x2,y2],...]}, COCO's, OpenPose's or PHALP's JSON"
)
EVERY = ""  # key of boxes that are for every picture alike
_COCO_JOINTS = len(joints.names("coco17"))


def read_box_file(path: Path) -> dict[str, Detections]:
    """People by name of the picture; ``EVERY`` for those of every picture.

    Names are as the file has them: file names, with or without folders; COCO results, which name
    no files, have the numbers of their images.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is in none of the forms.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"boxes={path}: no such file; give a JSON file, [[x1,y1,x2,y2],...], or nothing "
            "for the whole picture"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"boxes={path} is not valid JSON: {error}") from error
    try:
        return _parse(content, path)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"boxes={path}: {error!r} is wrong or missing; expected {FORMS}"
        ) from error


def plain(boxes: Any) -> Detections:
    """Given boxes; whether they make sense is for ``boxes.check`` to say."""
    return Detections(boxes, np.full(len(boxes), np.nan, np.float32))


def _parse(content: Any, path: Path) -> dict[str, Detections]:
    if isinstance(content, list):
        if content and isinstance(content[0], Mapping):
            return _coco(content, {one["image_id"]: str(one["image_id"]) for one in content})
        return {EVERY: plain(content)}
    if "people" in content:
        joint_set, people = read_detections(path)
        return {path.stem.removesuffix("_keypoints"): _of_keypoints(joint_set, people)}
    if "annotations" in content and "images" in content:
        names = {image["id"]: image["file_name"] for image in content["images"]}
        people = [a for a in content["annotations"] if a.get("category_id", 1) == 1]
        return _coco(people, names)
    if content and all(isinstance(v, Mapping) and "tracked_ids" in v for v in content.values()):
        return {name: _phalp(frame) for name, frame in content.items()}
    return {name: plain(boxes) for name, boxes in content.items()}


def _coco(annotations: list[Any], names: Mapping[Any, str]) -> dict[str, Detections]:
    by_name: dict[str, list[Any]] = {name: [] for name in names.values()}
    for annotation in annotations:
        by_name[names[annotation["image_id"]]].append(annotation)
    return {name: _coco_picture(people) for name, people in by_name.items()}


def _coco_picture(people: list[Any]) -> Detections:
    if not people:
        return plain(np.zeros((0, 4), np.float32))
    boxes = np.float32([one["bbox"] for one in people])
    scores = np.float32([one.get("score", np.nan) for one in people])
    has_ids = all("track_id" in one for one in people)
    ids = np.array([one["track_id"] for one in people], np.int64) if has_ids else None
    flat = [one.get("keypoints") or [0.0] * 3 * _COCO_JOINTS for one in people]
    found = np.float32(flat).reshape(len(people), -1, 3)
    if found.shape[1] != _COCO_JOINTS or not (found[..., 2] > 0).any():
        return Detections(_corners(boxes), scores, ids)
    confidence = np.where(found[..., 2] > 1, 1.0, found[..., 2])  # visibility 0, 1, 2, or a score
    keypoints = np.concatenate([found[..., :2], confidence[..., None]], axis=-1)
    return Detections(_corners(boxes), scores, ids, ("coco17", keypoints.astype(np.float32)))


def _phalp(frame: Mapping[str, Any]) -> Detections:
    boxes = np.float32(frame.get("tracked_bbox", frame.get("bbox"))).reshape(-1, 4)
    ids = np.array(frame["tracked_ids"], np.int64).reshape(-1)
    if len(ids) != len(boxes):
        raise KeyError("tracked_bbox")
    return Detections(_corners(boxes), np.full(len(boxes), np.nan, np.float32), ids)


def _of_keypoints(joint_set: str, people: NDArray[np.float32]) -> Detections:
    boxes = [keypoints_to_box(person) for person in people]
    stacked = np.float32(boxes).reshape(-1, 4)
    scores = np.full(len(stacked), np.nan, np.float32)
    return Detections(stacked, scores, None, (joint_set, people))


def _corners(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """X y width height of COCO, whose pixels begin at 0, to corners; pixel centres are integers."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1) - np.float32(0.5)
