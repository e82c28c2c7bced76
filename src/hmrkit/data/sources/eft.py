"""EFT's fits as they are distributed (facebookresearch/eft): bodies of 2D datasets, JSON.

A file (``COCO2014-All-ver01.json``, ``COCO2014-Part-ver01.json``, ``MPII_ver01.json``,
``LSPet_ver01.json``) holds ``ver`` and ``data``, a list with, for each person:

* ``imageName``, the file's name without folders;
* ``parm_pose`` (24, 3, 3), rotation matrices with the root in camera axes, ``parm_shape`` (10,);
  ``smpltype`` is "smpl", others are kept without a body;
* ``bbox_center`` (2,) px and ``bbox_scale``, SPIN's box;
* ``gt_keypoint_2d`` (49, 3), px of the image + confidence, in the order of joint set spin49.

Not carried: ``parm_cam``, a weak-perspective camera of the crop; ``joint_validity_openpose18``,
which the confidences say already; ``annotId``.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from hmrkit.data.sources.spin_npz import (
    NUM_OPENPOSE,
    Layout,
    SpinRecords,
    check_rows,
    input_file,
)

_NEEDED = ("imageName", "parm_pose", "parm_shape", "bbox_center", "bbox_scale", "gt_keypoint_2d")


class EftJson:
    """EFT's own format.

    Args:
        annotations: the json, relative to the input or absolute.
        where: where users get it, for the message when it is not there.
        layout: the options of ``spin_npz.Layout``.
    """

    kind = "scenes"

    def __init__(
        self, annotations: str, where: str = "", layout: Mapping[str, Any] | None = None
    ) -> None:
        self.annotations, self.where = annotations, where
        self.layout = Layout(**(layout or {}))
        self.joint_set = self.layout.joint_set

    def open(self, folder: Path) -> SpinRecords:
        """Read the fits and list the images.

        Raises:
            FileNotFoundError: if the file, or every image that it names, is missing.
            ValueError: if it is not EFT's format.
        """
        path = input_file(folder, self.annotations, self.where)
        rows = check_rows(_read(path), path)
        return SpinRecords(folder, rows, self.layout, self.where)


def _read(path: Path) -> dict[str, np.ndarray]:
    """The arrays that SPIN's npz would have."""
    try:
        with path.open() as file:
            content = json.load(file, object_hook=_compact)
        people = content["data"]
        fields = {name: np.stack([one[name] for one in people]) for name in _NEEDED[1:]}
        names = np.array([one["imageName"] for one in people])
        is_smpl = np.array([str(one.get("smpltype", "smpl")).lower() == "smpl" for one in people])
        matrices = fields["parm_pose"].astype(np.float64).reshape(-1, 3, 3)
        pose = Rotation.from_matrix(matrices).as_rotvec().reshape(len(people), 72)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not EFT's JSON ({error!r}); expected ver and data, a list of people with "
            f"{', '.join(_NEEDED)}"
        ) from error
    keypoints = fields["gt_keypoint_2d"]
    return {
        "imgname": names,
        "center": fields["bbox_center"],
        "scale": fields["bbox_scale"],
        "openpose": keypoints[:, :NUM_OPENPOSE],
        "part": keypoints[:, NUM_OPENPOSE:],
        "pose": pose,
        "shape": fields["parm_shape"],
        "has_smpl": is_smpl,
    }


def _compact(entry: dict[str, Any]) -> dict[str, Any]:
    """One person's lists as arrays: the whole file as lists would take gigabytes."""
    if "parm_pose" not in entry:
        return entry
    kept = {name: np.array(entry[name], np.float32) for name in _NEEDED[2:4] + _NEEDED[5:]}
    kept["parm_pose"] = np.array(entry["parm_pose"], np.float32)
    kept["bbox_scale"] = np.float64(entry["bbox_scale"])
    return {**kept, "imageName": entry["imageName"], "smpltype": entry.get("smpltype", "smpl")}
