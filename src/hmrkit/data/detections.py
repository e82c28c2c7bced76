"""Files of 2D detectors in OpenPose's JSON format, and whose detection is whose.

One file for each image: ``people[].pose_keypoints_2d`` are x px, y px and confidence of each joint,
0, 0, 0 where it was not found; 25 joints (BODY_25) or 17 (COCO).
"""

import json
from pathlib import Path

import numpy as np

from hmrkit.body import joints
from hmrkit.geometry.boxes import keypoints_to_box

# Detectors' joint sets by the number of keypoints of a person in their files.
_JOINT_SETS = {len(joints.names(name)): name for name in ("openpose25", "coco17")}
MIN_IOU = 0.3  # of a detection's tight box with a person's box


def read_detections(path: Path) -> tuple[str, np.ndarray]:
    """Joint set and people (D, K, 3), px + confidence; people without any joint are left out.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not of this format.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no keypoints at {path}: the detector writes one for each image")
    try:
        flat = [p["pose_keypoints_2d"] for p in json.loads(path.read_bytes())["people"]]
        people = np.array(flat, np.float32).reshape(len(flat), -1, 3) if flat else _NOBODY
        joint_set = _JOINT_SETS[people.shape[1]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not in OpenPose's format ({error!r}); expected people[].pose_keypoints_2d "
            "with 75 numbers each (BODY_25), or 51 (COCO)"
        ) from error
    if not np.isfinite(people).all():
        raise ValueError(f"{path} holds numbers that are not finite")
    return joint_set, people[(people[..., 2] > 0).any(axis=1)]


_NOBODY = np.zeros((0, len(joints.names("openpose25")), 3), np.float32)


def match(box_img: np.ndarray, people: np.ndarray, min_iou: float = MIN_IOU) -> int | None:
    """Which detection (D, K, 3) px has the largest IoU with a box (4,) px; None if all are low."""
    overlaps = [_iou(box_img, keypoints_to_box(person)) for person in people]
    best = int(np.argmax(overlaps)) if overlaps else None
    return best if best is not None and overlaps[best] >= min_iou else None


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    """Of two boxes (4,); one without area has none in common with anything."""
    shared = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    union = (a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - shared
    return float(shared / union) if union > 0 else 0.0
