"""AI Challenger 2017, human skeletal keypoints.

One json, a list of images: ``image_id`` (the file's name without ``.jpg``), ``human_annotations``
``{"human1": [x1, y1, x2, y2], ...}`` and ``keypoint_annotations`` ``{"human1": [x, y, v, ...]}`` of
14 joints; v is 1: visible, 2: occluded, 3: not labelled. Visible and
occluded joints have confidence 1.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from hmrkit.data.sources.official import expect
from hmrkit.data.sources.photos import JointOrder, People, PhotoRecords, image_folder

WHERE = (
    "AI Challenger's own site is gone; the archives are ai_challenger_keypoint_train_20170902 "
    "(images) and ai_challenger_keypoint_train_annotations_20170909, unpacked beside each other."
)
_JOINTS = (
    "right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist "
    "right_hip right_knee right_ankle left_hip left_knee left_ankle head_top neck"
)
_LABELLED = (1, 2)


class AiChallenger:
    """Scenes with everyone who is annotated.

    Args:
        annotations: the json, relative to the download (a pattern).
        images: folder of the images, likewise.
        min_joints: people with fewer labelled joints are left out.
    """

    kind = "scenes"
    joint_set = "lsp14"

    def __init__(self, annotations: str, images: str, min_joints: int) -> None:
        self.annotations, self.images, self.min_joints = annotations, images, min_joints

    def open(self, folder: Path) -> PhotoRecords:
        """Read all annotations of a download."""
        path = expect(folder, self.annotations, WHERE)[0]
        photos = image_folder(folder, self.images, WHERE)
        order = JointOrder(_JOINTS.split(), self.joint_set, "spin")
        people = People()
        try:
            for photo in json.loads(path.read_bytes()):
                self._add(photo, order, people)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} is not AI Challenger's annotation ({error!r}). {WHERE}"
            ) from error
        return PhotoRecords(photos, people)

    def _add(self, photo: dict[str, Any], order: JointOrder, people: People) -> None:
        name = f"{photo['image_id']}.jpg"
        boxes, joints = photo["human_annotations"], photo["keypoint_annotations"]
        for human in sorted(joints, key=lambda human: (len(human), human)):  # human2 before human10
            keypoints = np.array(joints[human], np.float32).reshape(len(order.positions), 3)
            keypoints[:, 2] = np.isin(keypoints[:, 2], _LABELLED)
            if keypoints[:, 2].sum() < self.min_joints:
                people.leave_out(name, f"fewer than {self.min_joints} labelled joints")
            else:
                people.add(name, order.place(keypoints), np.array(boxes[human], np.float32))
