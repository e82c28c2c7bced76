"""What the converters of calibrated multi-view datasets share: cameras, moments and their views.

A moment is one instant of one person in front of several cameras. It becomes one record with all
its views (kind ``rigs``), or one record per view in the axes of that camera (kind ``crops``).
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hmrkit.data.augment import move_world
from hmrkit.data.crops import select_view
from hmrkit.data.record import complete_sample
from hmrkit.data.sources.official import Skipped
from hmrkit.geometry.boxes import keypoints_to_box
from hmrkit.types import Sample

KINDS = ("rigs", "crops")
Moment = tuple[int, ...]  # numbers that name an instant: subject, ..., frame


@dataclass(frozen=True)
class Camera:
    """A calibrated pinhole camera; ``x_cam = rotation @ x_world + translation``."""

    intrinsics: np.ndarray  # (3, 3) px
    rotation: np.ndarray  # (3, 3)
    translation: np.ndarray  # (3,) m

    @property
    def world_to_camera(self) -> np.ndarray:
        """(4, 4)."""
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = self.rotation, self.translation
        return matrix

    def to_camera(self, points_world: np.ndarray) -> np.ndarray:
        """Points (K, 3) m of the world in the axes of the camera."""
        return points_world @ np.asarray(self.rotation, np.float64).T + self.translation

    def to_world(self, points_cam: np.ndarray) -> np.ndarray:
        """Points (K, 3) m in the axes of the camera in those of the world."""
        return (points_cam - self.translation) @ np.asarray(self.rotation, np.float64)

    def to_img(self, points_cam: np.ndarray) -> np.ndarray:
        """Points (K, 3) m in the axes of the camera in px (K, 2), without lens distortion."""
        rays = points_cam @ np.asarray(self.intrinsics, np.float64).T
        return rays[:, :2] / rays[:, 2:]


@dataclass(frozen=True)
class Entry:
    """What one record will hold, or why there will be none."""

    moment: Moment
    cameras: tuple[int, ...]
    problem: str = ""


def list_rigs(
    images: Iterable[tuple[Moment, int]],
    cameras: Sequence[int],
    min_views: int,
    sampling_ratio: int = 1,
    dropped: Collection[Moment] = (),
) -> list[Entry]:
    """Group images by moment; moments in order, the views of each in the order of ``cameras``.

    Args:
        images: moment and camera of every image.
        cameras: those that are used.
        min_views: a moment with fewer is a problem.
        sampling_ratio: of the moments without a problem every so many-th stays, from the first on;
            the others leave no trace.
        dropped: sequences that are a problem, as the first numbers of their moments.
    """
    views: dict[Moment, set[int]] = {}
    for moment, camera in images:
        views.setdefault(moment, set()).add(camera)
    entries, num_good = [], 0
    lengths = {len(sequence) for sequence in dropped}
    for moment in sorted(views):
        used = tuple(camera for camera in cameras if camera in views[moment])
        if not used:
            continue
        if any(moment[:length] in dropped for length in lengths):
            entries.append(Entry(moment, used, "sequence is on the list of damaged ones"))
        elif len(used) < min_views:
            entries.append(Entry(moment, used, f"moment has fewer than {min_views} of the views"))
        else:
            if num_good % sampling_ratio == 0:
                entries.append(Entry(moment, used))
            num_good += 1
    return entries


class RigRecords:
    """The records of moments.

    Args:
        entries: the moments in order.
        make: moment and cameras -> record with all these views, the images in the same order.
        kind: ``rigs``, or ``crops`` for a record per view, each in its camera's axes; those of a
            sequence come camera by camera, so that its videos are read once.
        joint_set: of the records.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        make: Callable[[Moment, Sequence[int]], Sample],
        kind: str,
        joint_set: str,
    ) -> None:
        if kind == "crops":
            single = [
                Entry(e.moment, (camera,), e.problem) for e in entries for camera in e.cameras
            ]
            entries = sorted(single, key=lambda e: (e.moment[:-1], e.cameras, e.moment[-1]))
        self.entries, self.make, self.kind, self.joint_set = entries, make, kind, joint_set

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample:
        entry = self.entries[index]
        if entry.problem:
            raise Skipped(entry.problem, "-".join(map(str, entry.moment)))
        rig = self.make(entry.moment, entry.cameras)
        return rig if self.kind == "rigs" else single_view(rig, self.joint_set)


def check_kind(kind: str) -> str:
    """Return a converter's ``kind``.

    Raises:
        ValueError: if it is neither of ``KINDS``.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: say {' or '.join(KINDS)}")
    return kind


def sure(points: np.ndarray) -> np.ndarray:
    """Points (..., C) with confidence 1 behind their coordinates."""
    return np.concatenate([points, np.ones((*points.shape[:-1], 1))], axis=-1)


def rig_sample(
    key: str,
    images: Sequence[bytes | np.ndarray],
    cameras: Sequence[Camera],
    joints_world: np.ndarray,
    keypoints_img: np.ndarray | None = None,
    box_img: np.ndarray | None = None,
    smpl: Mapping[str, Any] | None = None,
) -> Sample:
    """One person in front of I cameras, a view in each.

    Args:
        key: of the record.
        images: I.
        cameras: I.
        joints_world: (K, 4) m and confidence.
        keypoints_img: (I, K, 3) px and confidence; None for the projected joints.
        box_img: (I, 4) px, tight; None for the box of the keypoints.
        smpl: ``pose`` (72,), ``shape`` (10,) and perhaps ``trans`` (3,), m, in the world; or None.
    """
    num = len(cameras)
    if keypoints_img is None:
        points = [camera.to_img(camera.to_camera(joints_world[:, :3])) for camera in cameras]
        confidence = np.broadcast_to(joints_world[:, 3:], (num, len(joints_world), 1))
        keypoints_img = np.concatenate([np.stack(points), confidence], axis=-1)
    keypoints_img = np.float32(keypoints_img)
    if box_img is None:
        box_img = np.stack([keypoints_to_box(view) for view in keypoints_img])
    sample: Sample = {
        "key": key,
        "images": list(images),
        "intrinsics": np.float32([camera.intrinsics for camera in cameras]),
        "world_to_camera": np.float32([camera.world_to_camera for camera in cameras]),
        "image_of_view": np.arange(num),
        "person_of_view": np.zeros(num, np.int64),
        "box_img": np.float32(box_img),
        "keypoints_img": keypoints_img,
        "keypoints_world": np.float32(joints_world)[None],
    }
    if smpl is not None:
        sample["pose"] = np.float32(smpl["pose"]).reshape(1, 24, 3)
        sample["betas"] = np.float32(smpl["shape"]).reshape(1, 10)
        sample["has_pose"] = sample["has_betas"] = np.ones(1, bool)
        if "trans" in smpl:
            sample["transl"] = np.float32(smpl["trans"]).reshape(1, 3)
    return sample


def single_view(rig: Sample, joint_set: str) -> Sample:
    """A record of one view alone: the axes of its camera become the world.

    The translation of a body is lost unless the joint set has SMPL's pelvis (``move_world``).
    """
    view = select_view(complete_sample(rig, joint_set), 0)
    alone = move_world(view, view["world_to_camera"][0].astype(np.float64))
    return {**alone, "world_to_camera": np.eye(4, dtype=np.float32)[None]}
