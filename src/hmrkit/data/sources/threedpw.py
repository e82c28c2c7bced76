"""3DPW, the official download: ``sequenceFiles/<split>/<sequence>.pkl`` and ``imageFiles``.

A pickle (Python 2) holds lists with an entry for every person: ``poses`` (F, 72) and ``trans``
(F, 3) in the world, ``betas`` (10 or more), ``genders`` "m" or "f", ``poses2d`` (F, 3, 18) detected
joints x y confidence in OpenPose's COCO order, ``campose_valid`` (F,); and for the sequence
``cam_poses`` (F, 4, 4) world to camera, ``cam_intrinsics`` (3, 3) and ``sequence``. Frame i is
``imageFiles/<sequence>/image_<i, 5 digits>.jpg``; 30 per second. Bodies are SMPL of their gender.

Records are in camera axes. People without a valid camera pose in a frame are left out and counted,
likewise those outside the image.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hmrkit.body import joints
from hmrkit.body.gendered import GenderedBodies
from hmrkit.data.sources.official import (
    Skipped,
    absent_to_nan,
    expect,
    gender_codes,
    image_path,
    read_image,
    record_key,
)
from hmrkit.data.sources.pickles import read_pickle
from hmrkit.data.sources.placed_bodies import (
    BODY_JOINTS,
    JOINT_SET,
    bodies_to_camera,
    body_labels,
    check_bodies,
    image_size,
    is_inside,
)
from hmrkit.geometry.boxes import keypoints_to_box
from hmrkit.types import Sample

WHERE = (
    "It is at virtualhumans.mpi-inf.mpg.de/3DPW: imageFiles.zip and sequenceFiles.zip, unpacked "
    "beside each other."
)
_FRAMES_PER_S = 30.0
_COCO18 = (
    "nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist "
    "right_hip right_knee right_ankle left_hip left_knee left_ankle "
    "right_eye left_eye right_ear left_ear"
)
_DETECTED = joints.index([f"openpose_{name}" for name in _COCO18.split()], JOINT_SET)
_OPENPOSE = joints.index(joints.names("openpose25"), JOINT_SET)
_KEYS = (
    "poses", "trans", "betas", "genders", "poses2d", "campose_valid",
    "cam_poses", "cam_intrinsics", "sequence",
)  # fmt: skip


class Sequence(NamedTuple):
    """One video of P people and F frames."""

    name: str
    pose: np.ndarray  # (P, F, 24, 3), world
    transl: np.ndarray  # (P, F, 3) m, world
    betas: np.ndarray  # (P, 10)
    gender: np.ndarray  # (P,)
    detected: np.ndarray  # (P, F, 18, 3) px, confidence
    is_valid: np.ndarray  # (P, F)
    world_to_camera: np.ndarray  # (F, 4, 4)
    intrinsics: np.ndarray  # (3, 3)


class ThreeDpw:
    """Scenes: every frame of a split.

    Args:
        split: train, validation or test.
        box: ``detected``: tight box of the detected joints, as SPIN takes it; people without any
            are left out; ``projected``: that of the labelled body's joints.
        openpose: what the joints ``openpose_*`` are in 2D: ``detected``, or ``projected`` as all
            the others.
        body_models: folder of the SMPL files.
    """

    kind = "scenes"
    joint_set = JOINT_SET

    def __init__(self, split: str, box: str, openpose: str, body_models: str) -> None:
        if not {box, openpose} <= {"detected", "projected"}:
            raise ValueError(f"box={box}, openpose={openpose}: expected detected or projected")
        self.split, self.box, self.openpose = split, box, openpose
        self.bodies = GenderedBodies(body_models)

    def open(self, folder: Path) -> "ThreeDpwRecords":
        """Read the sequences of the split, and the bodies that they need."""
        paths = expect(folder, f"sequenceFiles/{self.split}/*.pkl", WHERE)
        expect(folder, "imageFiles", WHERE)
        sequences = [_read(path) for path in paths]
        check_bodies(self.bodies, np.concatenate([sequence.gender for sequence in sequences]))
        return ThreeDpwRecords(folder, sequences, self)


class ThreeDpwRecords:
    """One record for every frame.

    Attributes:
        left_out: the people that the record made last lacks.
    """

    def __init__(self, folder: Path, sequences: list[Sequence], options: ThreeDpw) -> None:
        self.folder, self.options = folder, options
        self._sequences = sequences
        self._first = np.cumsum([0] + [len(one.world_to_camera) for one in sequences])
        self.left_out: list[Skipped] = []

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, index: int) -> Sample:
        """Make the record of one frame.

        Raises:
            Skipped: if nobody in it can be used, or there is no such file.
        """
        number = int(np.searchsorted(self._first, index, side="right")) - 1
        sequence, frame = self._sequences[number], int(index - self._first[number])
        name = f"{sequence.name}/image_{frame:05d}.jpg"
        self.left_out = []
        valid = np.flatnonzero(sequence.is_valid[:, frame])
        if not len(valid):
            raise Skipped("nobody has a valid camera pose", name)
        image = read_image(image_path(self.folder / "imageFiles", name))
        sample = self._labels(sequence, frame, valid)
        boxes = [
            self._box(points, sequence.detected[person, frame])
            for points, person in zip(sample["keypoints_img"], valid, strict=True)
        ]
        size_hw = image_size(image)
        kept = [row for row, box in enumerate(boxes) if box is not None and is_inside(box, size_hw)]
        if not kept:
            raise Skipped("nobody is detected or inside the image", name)
        invalid = len(sequence.is_valid) - len(valid)
        self.left_out = [Skipped("somebody in a frame: no valid camera pose", name)] * invalid
        unseen = Skipped("somebody in a frame: not detected or outside the image", name)
        self.left_out += [unseen] * (len(valid) - len(kept))
        num = len(kept)
        return {
            **{field: values[kept] for field, values in sample.items() if field != "intrinsics"},
            "key": record_key(name),
            "images": [image],
            "intrinsics": sample["intrinsics"],
            "image_of_view": np.zeros(num, np.int64),
            "person_of_view": np.arange(num),
            "box_img": np.stack([boxes[row] for row in kept]),
            "person_id": valid[kept],
            "time_s": np.full(num, frame / _FRAMES_PER_S, np.float32),
        }

    def _labels(self, sequence: Sequence, frame: int, people: np.ndarray) -> dict[str, Any]:
        bodies = self.options.bodies
        betas, gender = sequence.betas[people], sequence.gender[people]
        pose, transl = bodies_to_camera(
            bodies,
            sequence.pose[people, frame],
            betas,
            sequence.transl[people, frame],
            gender,
            sequence.world_to_camera[frame],
        )
        sample: Any = body_labels(bodies, pose, betas, transl, gender, sequence.intrinsics)
        if self.options.openpose == "detected":
            sample["keypoints_img"][:, _OPENPOSE] = np.float32([np.nan, np.nan, 0])
            sample["keypoints_img"][:, _DETECTED] = sequence.detected[people, frame]
        return sample

    def _box(self, keypoints_img: np.ndarray, detected: np.ndarray) -> np.ndarray | None:
        """Tight box (4,), or None if nothing spans one."""
        points = detected if self.options.box == "detected" else keypoints_img[BODY_JOINTS]
        if not (points[:, 2] > 0).any():
            return None
        box = keypoints_to_box(points)
        return box if (box[2:] > box[:2]).all() else None


def _read(path: Path) -> Sequence:
    content = read_pickle(path)
    missing = [key for key in _KEYS if key not in content]
    if missing:
        raise ValueError(f"{path} has {sorted(content)}; expected {missing} too. {WHERE}")
    num_frames = len(content["cam_poses"])
    return Sequence(
        name=str(content["sequence"]),
        pose=np.stack(content["poses"]).reshape(-1, num_frames, 24, 3),
        transl=np.stack(content["trans"]),
        betas=np.stack([np.ravel(betas)[:10] for betas in content["betas"]]),
        gender=gender_codes(content["genders"], {"m": 0, "f": 1}, path),
        detected=absent_to_nan(np.stack(content["poses2d"]).transpose(0, 1, 3, 2)),
        is_valid=np.stack(content["campose_valid"]).astype(bool),
        world_to_camera=np.asarray(content["cam_poses"], np.float64),
        intrinsics=np.asarray(content["cam_intrinsics"], np.float64),
    )
