"""OpenPose's JSON files -> the OpenPose joints of labelled people.

OpenPose writes one file for each image, ``<stem>_keypoints.json``: ``people``, a list with
``pose_keypoints_2d``, the 75 numbers of BODY_25 (x px, y px, confidence; 0, 0, 0 where nothing was
found).

Who is who. Every detection goes to one labelled person at most, and the other way round, so that
the total cost is least (Hungarian method). The cost of a pair is the mean distance of the limb
joints that both have (shoulders, elbows, wrists, hips, knees, ankles), over the longer side of the
person's box; a pair that shares fewer than 4 of these has half of 1 - IoU of the box and the tight
box of the detection instead. Pairs that cost more than ``max_cost`` are no pairs, and a person
without a detection has no OpenPose joints.
"""

import json
from pathlib import Path, PurePosixPath

import numpy as np
from scipy.optimize import linear_sum_assignment

from hmrkit.body import joints
from hmrkit.data.sources.official import Skipped
from hmrkit.geometry.boxes import keypoints_to_box

_NUM_JOINTS = len(joints.names("openpose25"))
_LIMBS = [
    f"{side}_{joint}"
    for side in ("left", "right")
    for joint in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
]
_DETECTED = joints.index([f"openpose_{name}" for name in _LIMBS], "openpose25")
_LABELLED = joints.index([f"spin_{name}" for name in _LIMBS], "spin24")
_MIN_SHARED = 4  # limb joints that make a distance


class OpenPose:
    """The detections of a folder of OpenPose's files.

    Args:
        folder: relative to the input or absolute.
        name: of an image's file below the folder; ``{path}`` is the image's path without its
            extension, ``{stem}`` the last part of that.
        max_cost: see the top of this file.
    """

    def __init__(
        self, folder: str, name: str = "{stem}_keypoints.json", max_cost: float = 0.3
    ) -> None:
        self.folder, self.name, self.max_cost = folder, name, max_cost

    def of_people(
        self, folder: Path, image: str, boxes_img: np.ndarray, part: np.ndarray
    ) -> np.ndarray:
        """Joints (P, 25, 3), px + confidence, of labelled people; 0 for those without a detection.

        Args:
            folder: the input.
            image: path of the image below it.
            boxes_img: (P, 4) px, tight.
            part: (P, 24, 3) px + confidence, labels of the set spin24.

        Raises:
            Skipped: if the image has no OpenPose file.
            ValueError: if it is not BODY_25.
        """
        path = PurePosixPath(image)
        name = self.name.format(path=path.with_suffix(""), stem=path.stem)
        detections = read_people(folder / self.folder / name)
        found = np.zeros((len(boxes_img), _NUM_JOINTS, 3), np.float32)
        if not len(detections):
            return found
        cost = np.array(
            [
                [_cost(box, labels, one) for one in detections]
                for box, labels in zip(boxes_img, part, strict=True)
            ]
        )
        for person, detection in zip(*linear_sum_assignment(cost), strict=True):
            if cost[person, detection] <= self.max_cost:
                found[person] = detections[detection]
        return found


def read_people(path: Path) -> np.ndarray:
    """Detections (D, 25, 3), px + confidence, of a file; people without any joint are left out.

    Raises:
        Skipped: if there is no such file.
        ValueError: if it is not OpenPose's JSON of BODY_25.
    """
    try:
        people = json.loads(path.read_bytes())["people"]
        flat = [person["pose_keypoints_2d"] for person in people]
        found = np.array(flat, np.float32).reshape(len(flat), _NUM_JOINTS, 3)
    except FileNotFoundError:
        raise Skipped("OpenPose file is missing", str(path)) from None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not OpenPose's JSON ({error!r}); expected people[].pose_keypoints_2d with "
            "75 numbers each: run OpenPose with --model_pose BODY_25 --write_json"
        ) from error
    return found[(found[..., 2] > 0).any(axis=1)]


def _cost(box: np.ndarray, labels: np.ndarray, detection: np.ndarray) -> float:
    ours, theirs = labels[_LABELLED], detection[_DETECTED]
    is_shared = (ours[:, 2] > 0) & (theirs[:, 2] > 0)
    if is_shared.sum() >= _MIN_SHARED:
        distances = np.linalg.norm((ours - theirs)[is_shared, :2], axis=1)
        return float(distances.mean() / (box[2:] - box[:2]).max())
    return (1 - _iou(box, keypoints_to_box(detection))) / 2


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    """Of two boxes (4,); one without area has none in common with anything."""
    shared = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    union = (a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - shared
    return float(shared / union) if union > 0 else 0.0
