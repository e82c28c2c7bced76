"""Photos with labelled people -> records: what the formats of 2D keypoints have in common."""

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from hmrkit.body import joints
from hmrkit.data.sources.official import (
    Skipped,
    absent_to_nan,
    expect,
    image_path,
    read_image,
    record_key,
)
from hmrkit.data.sources.placed_bodies import cameras_of_people, image_size, is_inside
from hmrkit.geometry.boxes import keypoints_to_box
from hmrkit.types import Sample

# What formats call joints that they do not mean as SPIN or OpenPose do, and our name for it.
_OTHER_NAMES = {
    "head_top": "spin_head_top",
    "head": "spin_head_top",  # CrowdPose's is the top of the head
    "head_bottom": "spin_neck",  # PoseTrack's upper neck
    "neck": "spin_neck",
}
_LIMBS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")


class JointOrder:
    """The joints of a format, in its order, and where they go in a joint set.

    Args:
        names: as the format calls them.
        joint_set: of the records.
        prefix: whose shoulders, hips, eyes ... they are taken for: ``spin`` or ``openpose``.

    Raises:
        ValueError: naming the joint that the joint set lacks.
    """

    def __init__(self, names: Sequence[str], joint_set: str, prefix: str) -> None:
        ours = [_OTHER_NAMES.get(name, f"{prefix}_{name}") for name in names]
        lacking = [name for name in ours if name not in joints.names(joint_set)]
        if lacking:
            raise ValueError(
                f"joint_set={joint_set}, prefix={prefix}: the format labels {', '.join(lacking)}, "
                "which this joint set lacks: choose another one, or another prefix"
            )
        self.num_placed = len(joints.names(joint_set))
        self.positions = np.array(joints.index(ours, joint_set), np.int64)
        self.is_limb = np.array([name.split("_")[-1] in _LIMBS for name in names])

    def place(self, keypoints: np.ndarray) -> np.ndarray:
        """Keypoints (K_format, 3), x y confidence, as (K, 3) of the joint set; others absent."""
        placed = np.zeros((self.num_placed, 3), np.float32)
        placed[self.positions] = keypoints
        return absent_to_nan(placed)

    def num_limb_joints(self, keypoints: np.ndarray) -> int:
        """How many shoulders, elbows, wrists, hips, knees and ankles (of 12) are labelled."""
        return int((keypoints[self.is_limb, 2] > 0).sum())


class People:
    """People of many photos, gathered one by one; those who cannot be used are remembered."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.left_out: dict[str, list[str]] = {}

    def add(
        self, photo: str, keypoints_img: np.ndarray, box_img: np.ndarray | None, **labels: Any
    ) -> None:
        """Add one person, or leave them out for want of a box.

        Args:
            photo: name of the image.
            keypoints_img: (K, 3) px + confidence.
            box_img: (4,) x1 y1 x2 y2 px; None for the tight one of the keypoints.
            labels: more fields of a record, this person's row of each.
        """
        if box_img is None:
            if not (keypoints_img[:, 2] > 0).any():
                return self.leave_out(photo, "no joint is labelled")
            box_img = keypoints_to_box(keypoints_img)
        if not (np.isfinite(box_img).all() and (box_img[2:] > box_img[:2]).all()):
            return self.leave_out(photo, "the box is empty")
        row = {"keypoints_img": keypoints_img, "box_img": np.asarray(box_img, np.float32)}
        self.rows.setdefault(photo, []).append({**row, **labels})
        return None

    def leave_out(self, photo: str, reason: str) -> None:
        """Remember somebody who will be in no record."""
        self.left_out.setdefault(photo, []).append(reason)


class PhotoRecords:
    """One record for every photo on which somebody is annotated, sorted by name.

    Args:
        folder: that the photos' names are relative to.
        people: of all photos. Those of one photo have the same fields, but ``person_id``, which
            some may lack: they get numbers that nobody else there has. ``intrinsics`` (3, 3), if
            there, is that of the photo, NaN for those who do not say; where people disagree, each
            has a camera of their own (``intrinsics_of_view``).

    Attributes:
        left_out: the people that the record made last lacks.
    """

    def __init__(self, folder: Path, people: People) -> None:
        self.folder, self._people = folder, people
        self._names = sorted(people.rows.keys() | people.left_out.keys())
        self.left_out: list[Skipped] = []

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        """Photo of a record."""
        return self._names[index]

    def __getitem__(self, index: int) -> Sample:
        """Make the record of one photo.

        Raises:
            Skipped: if none of its people can be used, or there is no such file.
        """
        name = self._names[index]
        reasons = self._people.left_out.get(name, [])
        self.left_out = []
        if name not in self._people.rows:
            raise Skipped(f"nobody on the photo is usable: {reasons[0]}", name)
        image = read_image(image_path(self.folder, name))
        size_hw, everyone = image_size(image), self._people.rows[name]
        rows = [row for row in everyone if is_inside(row["box_img"], size_hw)]
        reasons = [*reasons, *["no box inside it"] * (len(everyone) - len(rows))]
        if not rows:
            raise Skipped(f"nobody on the photo is usable: {reasons[0]}", name)
        self.left_out = [Skipped(f"somebody on a photo: {reason}", name) for reason in reasons]
        rows = _with_person_ids(rows)
        sample: Any = {"key": record_key(name), "images": [image]}
        for field in rows[0]:
            sample[field] = np.stack([row[field] for row in rows])
        if "intrinsics" in sample:
            sample.update(cameras_of_people(sample.pop("intrinsics")))
        num = len(rows)
        return {
            **sample,
            "image_of_view": np.zeros(num, np.int64),
            "person_of_view": np.arange(num),
        }


def _with_person_ids(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """People of one photo; if some have a ``person_id``, the others get free numbers."""
    taken = {int(row["person_id"]) for row in rows if "person_id" in row}
    if not taken:
        return rows
    free = count(max(taken) + 1)
    return [
        row if "person_id" in row else {**row, "person_id": np.int64(next(free))} for row in rows
    ]


def image_folder(folder: Path, images: str, where: str) -> Path:
    """The folder of images below a download.

    Raises:
        FileNotFoundError: with what was found, what was expected and where it usually is.
    """
    return folder if images == "." else expect(folder, images, where)[0]
