"""Rows of SPIN's annotation files (SPIN, CLIFF, PyMAF, Meta-HMR) -> samples; one row per person.

Keys that are read: ``part`` (N, 24, 3) and ``openpose`` (N, 25, 3), px of the image + confidence;
``S`` (N, 24, 4), metres + confidence in camera axes; ``pose`` (N, 72), axis-angle with the root in
camera axes; ``shape`` (N, 10); ``has_smpl`` (N,); ``gender`` (N,), "m" or "f"; ``focal_length``
(N,), px. Only ``part`` must be there. The stored ``center`` and ``scale`` are left alone: the box
is that of the joints of ``part``, as Meta-HMR takes it.
"""

from collections.abc import Mapping

import numpy as np

from hmrkit.data.record import complete_sample
from hmrkit.geometry.boxes import keypoints_to_box
from hmrkit.types import Sample

JOINT_SET = "spin49"
_NUM_OPENPOSE = 25  # spin49 = openpose25 + spin24
_GENDERS = {"m": 0, "f": 1}


def row_to_sample(
    annotation: Mapping[str, np.ndarray], row: int, image: np.ndarray, key: str, source: str
) -> Sample:
    """One person of an annotation file as a record.

    Args:
        annotation: the arrays of the file.
        row: which person.
        image: (H, W, 3) uint8 RGB, the image of that row at its stored size.
        key: of the new record.
        source: name of the source.

    Returns:
        A complete record of joint set ``spin49`` with I = O = P = 1.

    Raises:
        ValueError: if ``part`` holds no labelled joint.
    """
    part = np.asarray(annotation["part"][row], dtype=np.float32)
    has_pose = _has_pose(annotation, row)
    sample: Sample = {
        "key": key,
        "images": [image],
        "intrinsics": _intrinsics(annotation, row, image.shape[:2])[None],
        "image_of_view": np.zeros(1, np.int64),
        "person_of_view": np.zeros(1, np.int64),
        "box_img": keypoints_to_box(part)[None],
        "keypoints_img": _absent_to_nan(_with_openpose(annotation, row, part, "openpose"))[None],
        "has_pose": np.array([has_pose]),
        "has_betas": np.array([has_pose]),
        "gender": np.array([_gender(annotation, row)]),
    }
    if has_pose:
        sample["pose"] = np.float32(annotation["pose"][row]).reshape(1, 24, 3)
        sample["betas"] = np.float32(annotation["shape"][row]).reshape(1, 10)
    if "S" in annotation:
        world = _with_openpose(annotation, row, np.float32(annotation["S"][row]), None)
        sample["keypoints_world"] = _absent_to_nan(world)[None]
    return complete_sample(sample, JOINT_SET, source)


def _with_openpose(
    annotation: Mapping[str, np.ndarray], row: int, spin24: np.ndarray, name: str | None
) -> np.ndarray:
    """The 24 joints behind the 25 of OpenPose, which are absent if the file has none."""
    openpose = np.zeros((_NUM_OPENPOSE, spin24.shape[1]), np.float32)
    if name is not None and name in annotation:
        openpose[:] = annotation[name][row]
    return np.concatenate([openpose, spin24])


def _absent_to_nan(keypoints: np.ndarray) -> np.ndarray:
    """Coordinates NaN where the confidence (last column) is 0."""
    keypoints = keypoints.copy()
    keypoints[keypoints[:, -1] <= 0, :-1] = np.nan
    return keypoints


def _has_pose(annotation: Mapping[str, np.ndarray], row: int) -> bool:
    if "pose" not in annotation or "shape" not in annotation:
        return False
    return "has_smpl" not in annotation or bool(annotation["has_smpl"][row])


def _gender(annotation: Mapping[str, np.ndarray], row: int) -> int:
    return _GENDERS.get(str(annotation["gender"][row]), -1) if "gender" in annotation else -1


def _intrinsics(
    annotation: Mapping[str, np.ndarray], row: int, size_hw: tuple[int, ...]
) -> np.ndarray:
    """(3, 3) px with the principal point in the middle; NaN if the file has no focal length."""
    if "focal_length" not in annotation:
        return np.full((3, 3), np.nan, np.float32)
    focal, (height, width) = float(annotation["focal_length"][row]), size_hw
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], np.float32)
