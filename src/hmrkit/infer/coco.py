"""COCO's keypoint format: 17 joints of everybody, as ``pycocotools`` and others read it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hmrkit.body import joints

_VISIBLE = 2  # COCO: labelled and visible; a projected joint may in truth be hidden


@dataclass(frozen=True)
class Shown:
    """Who is in one picture.

    Attributes:
        file_name: of the picture.
        size_hw: its height and width, px.
        keypoints_img: (N, 17, 2) px, joints of ``coco17``.
        ids: (N,) of the people, the same in every frame of a video.
        score: (N,); NaN is written as 1.
    """

    file_name: str
    size_hw: tuple[int, int]
    keypoints_img: np.ndarray
    ids: Sequence[int]
    score: np.ndarray


def write_coco(path: Path, pictures: Sequence[Shown]) -> None:
    """Write a dataset file: images, annotations (with ``track_id`` and ``score``), categories.

    Args:
        path: the file.
        pictures: everything that is to be in it.
    """
    images, annotations = [], []
    for number, shown in enumerate(pictures, start=1):
        height, width = shown.size_hw
        images.append(
            {"id": number, "file_name": shown.file_name, "height": height, "width": width}
        )
        for points, identity, score in zip(
            shown.keypoints_img, shown.ids, shown.score, strict=True
        ):
            annotations.append(
                _annotation(points, number, len(annotations) + 1)
                | {"track_id": int(identity), "score": 1.0 if np.isnan(score) else float(score)}
            )
    names = [name.removeprefix("spin_").removeprefix("coco_") for name in joints.names("coco17")]
    skeleton = [[a + 1, b + 1] for a, b in joints.skeleton("coco17")]
    person = {"id": 1, "name": "person", "keypoints": names, "skeleton": skeleton}
    content = {"images": images, "annotations": annotations, "categories": [person]}
    path.write_text(json.dumps(content), encoding="utf-8")


def _annotation(points: np.ndarray, image: int, number: int) -> dict[str, Any]:
    low, high = points.min(axis=0), points.max(axis=0)
    width, height = (high - low).tolist()
    rows = [[round(float(x), 2), round(float(y), 2), _VISIBLE] for x, y in points]
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "keypoints": [value for row in rows for value in row],
        "num_keypoints": len(rows),
        "bbox": [float(low[0]), float(low[1]), width, height],
        "area": width * height,
        "iscrowd": 0,
    }
