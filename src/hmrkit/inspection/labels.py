"""Labels of some records as arrays, and what the checks and the statistics derive from them.

One check of a thousand people costs little more than one of a single person, so records are looked
at in bundles.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np

from hmrkit.body import joints
from hmrkit.inspection.skeleton import Skeleton, axis_angle_to_rotmat
from hmrkit.types import Sample

LIMBS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
TRUNK = ("left_shoulder", "right_shoulder", "left_hip", "right_hip")
_SINGLE = ("pelvis", "neck", "head_top", "nose", "jaw")
_PAIRED = (*LIMBS, "eye", "ear", "heel", "big_toe")
PARTS = (*_SINGLE, *(f"{side}_{part}" for side in ("left", "right") for part in _PAIRED))
_PREFIXES = ("", "openpose_", "spin_", "h36m_")  # who measured a part: the first that has it counts
_NEAR_M = 0.3  # joints whose bounding box is nearer to the camera's centre have no place before it
_MIN_JOINTS = 3
_PER_PERSON = (
    "pose", "betas", "transl", "has_pose", "has_betas", "gender", "is_self_intersecting", "time_s",
)  # fmt: skip


@dataclass(frozen=True)
class Labels:
    """R records one after the other: I images, O views, P people, K joints of ``joint_set``.

    Rows that name rows (``image_of_view``, ...) count over all records. Frames and units are those
    of docs/shards.md; everything derived is float64.
    """

    joint_set: str
    skeleton: Skeleton
    kind: str | None  # crops, scenes, rigs or motion, as the manifest says
    is_precropped: bool  # the images are parts of larger ones, and their cameras say so
    numbers: np.ndarray  # (R,) of the records in their set
    keys: list[str]  # R
    record_of_image: np.ndarray  # (I,)
    record_of_view: np.ndarray  # (O,)
    record_of_person: np.ndarray  # (P,)
    size_wh: np.ndarray  # (I, 2) px
    intrinsics: np.ndarray  # (I, 3, 3)
    world_to_camera: np.ndarray  # (I, 4, 4)
    image_of_view: np.ndarray  # (O,)
    person_of_view: np.ndarray  # (O,)
    box_img: np.ndarray  # (O, 4)
    keypoints_img: np.ndarray  # (O, K, 3)
    visible_fraction: np.ndarray  # (O,)
    intrinsics_of_view: np.ndarray  # (O, 3, 3) the view's own, or its image's
    keypoints_world: np.ndarray  # (P, K, 4)
    pose: np.ndarray  # (P, 24, 3)
    betas: np.ndarray  # (P, 10)
    transl: np.ndarray  # (P, 3)
    has_pose: np.ndarray  # (P,)
    has_betas: np.ndarray  # (P,)
    gender: np.ndarray  # (P,)
    is_self_intersecting: np.ndarray  # (P,)
    time_s: np.ndarray  # (P,)

    # views in their images

    @cached_property
    def has_keypoint_img(self) -> np.ndarray:
        """(O, K) bool, the joint is labelled."""
        return self.keypoints_img[..., 2] > 0

    @cached_property
    def num_keypoints_img(self) -> np.ndarray:
        """(O,) labelled joints of every view."""
        return self.has_keypoint_img.sum(axis=1)

    @cached_property
    def size_of_view(self) -> np.ndarray:
        """(O, 2) width and height of the image, px."""
        return self.size_wh[self.image_of_view]

    @cached_property
    def box_side(self) -> np.ndarray:
        """(O,) the longer side of the box, px."""
        return (self.box_img[:, 2:] - self.box_img[:, :2]).max(axis=1, initial=0)

    @cached_property
    def keypoint_box(self) -> np.ndarray:
        """(O, 4) x1 y1 x2 y2 px around the labelled joints; infinite without any."""
        return np.concatenate(bounds(self.keypoints_img[..., :2], self.has_keypoint_img), axis=1)

    @cached_property
    def parts_img(self) -> np.ndarray:
        """(O, parts, 2) px of ``PARTS``, NaN where they are not labelled."""
        return to_parts(self.keypoints_img, self.joint_set)

    # people in their world

    @cached_property
    def has_keypoint_world(self) -> np.ndarray:
        """(P, K) bool, the joint is labelled."""
        return self.keypoints_world[..., 3] > 0

    @cached_property
    def extent_world(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest coordinates (P, 3) m of the 3D joints; infinite without any."""
        return bounds(self.keypoints_world[..., :3], self.has_keypoint_world)

    @cached_property
    def parts_world(self) -> np.ndarray:
        """(P, parts, 3) m of ``PARTS``, NaN where they are not labelled."""
        return to_parts(self.keypoints_world, self.joint_set)

    @cached_property
    def longest_rotation(self) -> np.ndarray:
        """(P,) the longest rotation vector of ``pose``."""
        return np.linalg.norm(self.pose, axis=2).max(axis=1, initial=0)

    @cached_property
    def is_pose_sound(self) -> np.ndarray:
        """(P,) bool: ``pose`` is a label, is axis-angle, and is no T-pose."""
        is_rest = np.abs(self.pose[:, 1:]).max(axis=(1, 2), initial=0) < 1e-6
        return self.has_pose & (self.longest_rotation < 2 * np.pi + 1e-3) & ~is_rest

    @cached_property
    def rotations(self) -> np.ndarray:
        """(P, 24, 3, 3) of ``pose``, NaN where it is not sound."""
        is_sound = self.is_pose_sound[:, None, None]
        found = axis_angle_to_rotmat(np.where(is_sound, self.pose, 0))
        return np.where(is_sound[..., None], found, np.nan)

    @cached_property
    def _shape(self) -> np.ndarray:
        return np.clip(np.where(self.has_betas[:, None], self.betas, 0), -5, 5)

    @cached_property
    def posed_parts(self) -> np.ndarray:
        """(P, parts, 3) m of ``PARTS`` as ``pose`` has them, in world axes about some origin."""
        posed = self.skeleton.pose(self.rotations, self._shape)
        return to_parts(np.concatenate([posed, np.ones_like(posed[..., :1])], axis=-1), "smpl24")

    @cached_property
    def pelvis_world(self) -> np.ndarray:
        """(P, 3) m, the pelvis as ``transl`` has it; NaN without."""
        return self.transl + self.skeleton.rest_joints(self._shape)[:, 0]

    @cached_property
    def facing(self) -> tuple[np.ndarray, np.ndarray]:
        """(P, 3) unit vectors ahead of and up along the trunk, in world axes: pose, else joints."""
        ahead, up = trunk_axes(self.parts_world)
        is_sound, root = self.is_pose_sound[:, None], self.rotations[:, 0]
        return np.where(is_sound, root[..., 2], ahead), np.where(is_sound, root[..., 1], up)

    # people before the cameras of their views

    @cached_property
    def camera_of_view(self) -> np.ndarray:
        """(O, 4, 4) world to camera."""
        return self.world_to_camera[self.image_of_view].astype(np.float64)

    def turn(self, vectors_world: np.ndarray) -> np.ndarray:
        """Vectors (P, ..., 3) of people in the axes of their views' cameras, (O, ..., 3)."""
        own = vectors_world[self.person_of_view]
        num = int(np.prod(own.shape[1:-1]))
        flat = own.reshape(len(own), num, 3) @ self.camera_of_view[:, :3, :3].swapaxes(1, 2)
        return flat.reshape(own.shape)

    @cached_property
    def points_cam(self) -> np.ndarray:
        """(O, K, 3) m, the 3D joints in the camera, NaN where they are not labelled."""
        points = np.where(self.has_keypoint_world[..., None], self.keypoints_world[..., :3], np.nan)
        return self.turn(points) + self.camera_of_view[:, None, :3, 3]

    @cached_property
    def is_placed(self) -> np.ndarray:
        """(O,) bool: the 3D joints are where the person is, not about some joint as origin."""
        seen = np.isfinite(self.points_cam).all(axis=2)
        low, high = bounds(self.points_cam, seen)
        gap = np.maximum(np.maximum(low, -high), 0)
        is_far = np.linalg.norm(np.where(np.isfinite(gap), gap, 0), axis=1) > _NEAR_M
        return is_far & (seen.sum(axis=1) >= _MIN_JOINTS)

    @cached_property
    def pelvis_cam(self) -> np.ndarray:
        """(O, 3) m, by ``transl``, else by the 3D joints; NaN if neither says where it is."""
        shift = self.camera_of_view[:, :3, 3]
        by_joints = self.turn(middle_of(self.parts_world, "pelvis", "hip")) + shift
        by_joints = np.where(self.is_placed[:, None], by_joints, np.nan)
        by_transl = self.turn(self.pelvis_world) + shift
        return np.where(np.isfinite(by_transl), by_transl, by_joints)

    @cached_property
    def reprojection(self) -> np.ndarray:
        """(O,) median distance of 3D joints, through the camera, from 2D joints, in box sides.

        NaN where there are fewer than 6 of both, no camera, or no place before it.
        """
        is_both = self.has_keypoint_img & np.isfinite(self.points_cam).all(axis=2)
        is_both &= self.points_cam[..., 2] > 0
        usable = self.is_placed & (is_both.sum(axis=1) >= 2 * _MIN_JOINTS)
        usable &= np.isfinite(self.intrinsics_of_view).all(axis=(1, 2))
        error = np.full(len(usable), np.nan)
        if usable.any():
            px = project(self.points_cam[usable], self.intrinsics_of_view[usable])
            off = np.linalg.norm(px - self.keypoints_img[usable, :, :2], axis=2)
            off = np.where(is_both[usable], off, np.nan)
            error[usable] = np.nanmedian(off, axis=1) / self.box_side[usable]
        return error

    @cached_property
    def is_camera_proven(self) -> np.ndarray:
        """(O,) bool: 3D joints of some view of the image fall on the 2D ones: the camera fits."""
        best = np.full(len(self.size_wh), np.inf)
        np.minimum.at(best, self.image_of_view, np.nan_to_num(self.reprojection, nan=np.inf))
        return best[self.image_of_view] < 0.05


def stack_labels(
    samples: Sequence[Sample],
    numbers: Sequence[int],
    skeleton: Skeleton,
    kind: str | None = None,
    is_precropped: bool = False,
) -> Labels:
    """Put complete samples of one joint set in a row.

    Args:
        samples: at least one; of the images only the shape is looked at.
        numbers: of the records in their set.
        skeleton: of the body that poses are looked at with.
        kind: as the manifest says.
        is_precropped: see ``Labels``.
    """
    counts = np.array(
        [[len(s["images"]), len(s["image_of_view"]), len(s["has_pose"])] for s in samples]
    )
    first = np.cumsum(counts, axis=0) - counts
    of_image, of_view, of_person = (np.repeat(np.arange(len(samples)), n) for n in counts.T)
    sizes = [image.shape[1::-1] for sample in samples for image in sample["images"]]

    def joined(name: str) -> Any:
        return np.concatenate([sample[name] for sample in samples])

    intrinsics, image_of_view = joined("intrinsics"), joined("image_of_view") + first[of_view, 0]
    own = joined("intrinsics_of_view")
    has_own = np.isfinite(own).all(axis=(1, 2))[:, None, None]
    return Labels(
        joint_set=samples[0]["joint_set"],
        skeleton=skeleton,
        kind=kind,
        is_precropped=is_precropped,
        numbers=np.asarray(numbers, np.int64),
        keys=[sample["key"] for sample in samples],
        record_of_image=of_image,
        record_of_view=of_view,
        record_of_person=of_person,
        size_wh=np.array(sizes, np.float64).reshape(-1, 2),
        intrinsics=intrinsics.astype(np.float64),
        world_to_camera=joined("world_to_camera"),
        image_of_view=image_of_view,
        person_of_view=joined("person_of_view") + first[of_view, 2],
        box_img=joined("box_img").astype(np.float64),
        keypoints_img=joined("keypoints_img"),
        visible_fraction=joined("visible_fraction"),
        intrinsics_of_view=np.where(has_own, own, intrinsics[image_of_view]).astype(np.float64),
        keypoints_world=joined("keypoints_world"),
        **{name: joined(name) for name in _PER_PERSON},
    )


@cache
def _rows(part: str, joint_set: str) -> tuple[int, ...]:
    """Where a joint set has a part, best first."""
    names = joints.names(joint_set)
    return tuple(names.index(p + part) for p in _PREFIXES if p + part in names)


def to_parts(keypoints: np.ndarray, joint_set: str) -> np.ndarray:
    """Coordinates (N, parts, C) of ``PARTS``, by any of their names, NaN where there is no label.

    Args:
        keypoints: (N, K, C + 1), confidence last.
        joint_set: of the keypoints.
    """
    found = np.full((len(keypoints), len(PARTS), keypoints.shape[2] - 1), np.nan)
    for i, name in enumerate(PARTS):
        for row in reversed(_rows(name, joint_set)):
            is_seen = keypoints[:, row, -1:] > 0
            found[:, i] = np.where(is_seen, keypoints[:, row, :-1], found[:, i])
    return found


def pick(points: np.ndarray, *names: str) -> np.ndarray:
    """Some of ``PARTS`` (N, n, C) of (N, parts, C)."""
    return points[:, [PARTS.index(name) for name in names]]


def middle_of(points: np.ndarray, name: str, pair: str) -> np.ndarray:
    """A part (N, C) of ``PARTS``, else the middle of a pair of parts."""
    middle = pick(points, f"left_{pair}", f"right_{pair}").mean(axis=1)
    own = pick(points, name)[:, 0]
    return np.where(np.isfinite(own), own, middle)


def across(points: np.ndarray) -> np.ndarray:
    """From right to left, (N, limbs, C), of every pair of ``LIMBS`` of (N, parts, C)."""
    sides = [pick(points, *(f"{side}_{limb}" for limb in LIMBS)) for side in ("left", "right")]
    return sides[0] - sides[1]


def trunk_axes(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors (N, 3) ahead of and up along trunks, from shoulders and hips (N, parts, 3)."""
    left_shoulder, right_shoulder, left_hip, right_hip = np.moveaxis(pick(points, *TRUNK), 1, 0)
    sideways = left_shoulder - right_shoulder + left_hip - right_hip
    up = trunk_up(points)
    return _unit(np.cross(sideways, up)), _unit(up)


def trunk_up(points: np.ndarray) -> np.ndarray:
    """From the hips to the shoulders, (N, C), of (N, parts, C)."""
    trunk = pick(points, *TRUNK)
    return trunk[:, :2].mean(axis=1) - trunk[:, 2:].mean(axis=1)


def bounds(points: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest coordinates (N, C) of the points (N, K, C) that count (N, K).

    Infinite, the wrong way round, where none does.
    """
    counts = counts[..., None]
    low = np.where(counts, points, np.inf).min(axis=1, initial=np.inf)
    return low, np.where(counts, points, -np.inf).max(axis=1, initial=-np.inf)


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, length, out=np.full_like(vectors, np.nan), where=length > 0)


def project(points_cam: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Points (N, K, 3) m to (N, K, 2) px by cameras (N, 3, 3); not finite where they cannot."""
    rays = points_cam @ intrinsics.swapaxes(-1, -2)
    with np.errstate(all="ignore"):
        return rays[..., :2] / rays[..., 2:]
