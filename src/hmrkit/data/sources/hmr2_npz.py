"""Evaluation files of 4D-Humans (HMR2.0) and TokenHMR: an npz of people, and folders of images.

Arrays, one row per person: ``imgname``, ``center`` (N, 2) px, ``scale`` (N,) or (N, 2), width and
height of the box with its margin; optional ``body_pose`` (N, 72), axis-angle with the root in
camera axes, and ``betas`` (N, 10), with ``has_body_pose`` and ``has_betas`` (N,); 2D joints (px,
confidence) and 3D joints (metres in camera axes, confidence) of joint set ``spin44``, in one array
``keypoints_2d`` or in two, ``body_keypoints_2d`` (N, 25, 3) and ``extra_keypoints_2d`` (N, 19, 3);
``gender``: "m" or "male" is male, other words for a gender are female, as those codes read it.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hmrkit.body import joints
from hmrkit.body.gendered import GenderedBodies
from hmrkit.data.sources.official import (
    Skipped,
    center_size_to_box,
    expect,
    gender_codes,
    group_rows,
    image_path,
    place_joints,
    read_arrays,
    read_image,
    record_key,
)
from hmrkit.data.sources.photos import image_folder
from hmrkit.data.sources.placed_bodies import image_size, is_inside
from hmrkit.types import Sample

JOINT_SET = "spin44"
_NUM_OPENPOSE = len(joints.names("openpose25"))
_NUM_EXTRA = len(joints.names(JOINT_SET)) - _NUM_OPENPOSE
# OpenPose's trunk and limbs; those codes measure these joints with the 19 others only.
_LIMBS = ("neck", "shoulder", "elbow", "wrist", "pelvis", "hip", "knee", "ankle")
_IS_OPENPOSE_LIMB = np.array(
    [name.startswith("openpose_") and name.endswith(_LIMBS) for name in joints.names(JOINT_SET)]
)
_MALE = {"m": 0, "male": 0}


class Hmr2Npz:
    """All labelled people of an image are one record.

    Args:
        annotations: the npz, relative to the download.
        images: the folder that ``imgname`` is relative to, relative to the download.
        where: where users get it, for messages.
        scale_unit_px: pixels per unit of ``scale``: 1, or 200 where it is SPIN's.
        stored_margin: factor by which the stored box exceeds the tight one.
        with_openpose_limbs_3d: keep the 3D labels of OpenPose's trunk and limbs, which the
            loaders of 4D-Humans drop from these files.
        body_models: folder of the licensed SMPL bodies: the 3D joints are then the 24 that SMPL's
            regressor reads off the gendered mesh, as EMDB is scored, and the records are of joint
            set "all"; None for the stored 3D joints.
    """

    kind = "scenes"

    def __init__(
        self,
        annotations: str,
        images: str,
        where: str,
        scale_unit_px: float,
        stored_margin: float,
        with_openpose_limbs_3d: bool,
        body_models: str | None,
    ) -> None:
        self.annotations, self.images, self.where = annotations, images, where
        self.scale_unit_px, self.stored_margin = scale_unit_px, stored_margin
        self.with_openpose_limbs_3d = with_openpose_limbs_3d
        self.bodies = None if body_models is None else GenderedBodies(body_models)
        self.joint_set = JOINT_SET if body_models is None else "all"

    def open(self, folder: Path) -> "_Images":
        """Read the npz of a download."""
        path = expect(folder, self.annotations, self.where)[0]
        needed = ["imgname", "center", "scale"]
        if self.bodies is not None:
            needed += ["body_pose", "betas", "gender"]
        arrays = read_arrays(path, needed)
        for name, array in arrays.items():
            if len(array) != len(arrays["imgname"]):
                raise ValueError(
                    f"{path}: {name} has {len(array)} rows and imgname {len(arrays['imgname'])}; "
                    f"take the file as it is distributed. {self.where}"
                )
        if "gender" in arrays:
            arrays["gender"] = (gender_codes(arrays["gender"], _MALE, path) != 0).astype(np.int64)
        return _Images(self, arrays, image_folder(folder, self.images, self.where))


class _Images:
    """One record for every image, in the order of the file.

    Attributes:
        left_out: the people that the record made last lacks.
    """

    def __init__(self, converter: Hmr2Npz, arrays: Mapping[str, np.ndarray], folder: Path) -> None:
        self.converter, self.arrays, self.folder = converter, arrays, folder
        self.groups = group_rows(arrays["imgname"].astype(str))
        self.left_out: list[Skipped] = []

    def __len__(self) -> int:
        return len(self.groups)

    def name(self, index: int) -> str:
        """Image of a record."""
        return self.groups[index][0]

    def __getitem__(self, index: int) -> Sample:
        """Make the record of one image.

        Raises:
            Skipped: if its file is missing, or nobody has a box inside it.
        """
        self.left_out = []
        name, rows = self.groups[index]
        image = read_image(image_path(self.folder, name))
        size_px = np.asarray(self.arrays["scale"][rows], np.float64) * self.converter.scale_unit_px
        box = center_size_to_box(self.arrays["center"][rows], size_px, self.converter.stored_margin)
        size_hw = image_size(image)
        is_kept = np.array([is_inside(one, size_hw) for one in box])
        if not is_kept.any():
            raise Skipped("nobody in the image has a box inside it", name)
        left_out = Skipped("somebody in an image: no box inside it", name)
        self.left_out = [left_out] * int((~is_kept).sum())
        rows, box = rows[is_kept], box[is_kept]
        people = {key: array[rows] for key, array in self.arrays.items()}
        labels = _bodies(people)
        return {
            "key": record_key(name),
            "images": [image],
            "image_of_view": np.zeros(len(rows), np.int64),
            "person_of_view": np.arange(len(rows)),
            "box_img": box,
            "keypoints_img": place_joints(
                _keypoints(people, "2d"), JOINT_SET, self.converter.joint_set
            ),
            "keypoints_world": self._joints_3d(people, labels["gender"]),
            **labels,
        }

    def _joints_3d(self, people: Mapping[str, np.ndarray], gender: np.ndarray) -> np.ndarray:
        """(P, K, 4) of the joint set of the records."""
        bodies, joint_set = self.converter.bodies, self.converter.joint_set
        if bodies is None:
            points = _keypoints(people, "3d")
            if not self.converter.with_openpose_limbs_3d:
                points[:, _IS_OPENPOSE_LIMB, 3] = 0
            return place_joints(points, JOINT_SET, joint_set)
        # As upstream: of the stored body, even where it is flagged as no label to train on.
        pose, at_origin = people["body_pose"].reshape(-1, 24, 3), np.zeros((len(gender), 3))
        points = bodies.regressed_joints(pose, people["betas"], at_origin, gender)
        ones = np.ones((*points.shape[:2], 1), np.float32)
        return place_joints(np.concatenate([points, ones], axis=2), "smpl24", joint_set)


def _bodies(people: Mapping[str, np.ndarray]) -> Sample:
    """``pose``, ``betas`` and ``gender``, NaN, false and -1 where they are no labels."""
    num = len(people["imgname"])
    labels: Sample = {"gender": np.full(num, -1, np.int64)}
    if "gender" in people:
        labels["gender"] = people["gender"]
    for stored, ours, shape in (("body_pose", "pose", (24, 3)), ("betas", "betas", (10,))):
        has_label = np.asarray(people.get(f"has_{stored}", np.zeros(num))) > 0
        values = np.asarray(people.get(stored, np.zeros((num, *shape))), np.float32)
        labels[f"has_{ours}"] = has_label
        labels[ours] = np.where(
            has_label.reshape(-1, *[1] * len(shape)), values.reshape(-1, *shape), np.nan
        )
    return labels


def _keypoints(people: Mapping[str, np.ndarray], which: str) -> np.ndarray:
    """(P, 44, 3 or 4) from one array or two; those that the file lacks have confidence 0."""
    num, width = len(people["imgname"]), {"2d": 3, "3d": 4}[which]
    if f"keypoints_{which}" in people:
        return np.array(people[f"keypoints_{which}"], np.float32)
    parts = (("body", _NUM_OPENPOSE), ("extra", _NUM_EXTRA))
    return np.concatenate(
        [
            people.get(f"{part}_keypoints_{which}", np.zeros((num, size, width)))
            for part, size in parts
        ],
        axis=1,
        dtype=np.float32,
    )
