"""Checks of whether the labels of one person agree: whose left is where, what faces where."""

from typing import NamedTuple

import numpy as np

from hmrkit.inspection.body_checks import mean_known, units_not_metres
from hmrkit.inspection.checks import Check, Outcome
from hmrkit.inspection.labels import (
    LIMBS,
    TRUNK,
    Labels,
    across,
    middle_of,
    pick,
    trunk_axes,
    trunk_up,
)

_MIRRORED, _AGREES = -0.5, 0.5  # cosine between two sets of right-to-left vectors
_FACE_M = 0.03  # nose before the ears, toes before the heels
_TRANSL_OFF_M, _POSE_OFF_M, _POSE_OFF_IMG = 0.5, 0.2, 0.6
_MIN_PAIRS, _MIN_JOINTS = 2, 6
_LIMB_PARTS = [f"{side}_{limb}" for side in ("left", "right") for limb in LIMBS]


class _Sides(NamedTuple):
    """Whose left and right disagree with whose: cosines, NaN where that cannot be said."""

    joints_pose: np.ndarray  # (P,) 3D joints and pose
    joints_face: np.ndarray  # (P,) m that noses and toes are ahead of the trunk that joints make
    view_pose: np.ndarray  # (O,) 2D joints and pose
    view_joints: np.ndarray  # (O,) 2D joints and 3D joints
    is_pose_bad: np.ndarray  # (P,)
    is_joints_bad: np.ndarray  # (P,)


def _sides(labels: Labels) -> _Sides:
    """Compare left with right in all labels of a person, and find out which one is mirrored."""
    joints_pose = _agreement(labels.parts_world, labels.posed_parts)
    view_pose, view_joints = (
        _agreement_in_image(labels.parts_img, labels.turn(parts))
        for parts in (labels.posed_parts, labels.parts_world)
    )
    face = _face_ahead(labels.parts_world)
    agrees = np.zeros(len(face), bool)
    np.logical_or.at(agrees, labels.person_of_view, view_joints > _AGREES)
    differs = joints_pose < _MIRRORED
    is_pose_bad = differs & ((face > _FACE_M) | (np.isnan(face) & agrees))
    is_joints_bad = (face < -_FACE_M) & ~(joints_pose > _AGREES) | differs & ~is_pose_bad
    return _Sides(joints_pose, face, view_pose, view_joints, is_pose_bad, is_joints_bad)


def _agreement(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine (N,) between what goes from right to left in two sets of parts (N, parts, C).

    NaN if they do not agree on what is up: then one of them is turned, which is another mistake.
    """
    is_turned = (trunk_up(a) * trunk_up(b)).sum(axis=1) < 0
    return np.where(is_turned, np.nan, _cosine(across(a), across(b)))


def _agreement_in_image(view: np.ndarray, body_cam: np.ndarray) -> np.ndarray:
    """The same of parts in px and in metres (N, parts, 3); NaN for people seen from the side."""
    squares = np.nan_to_num(across(body_cam)) ** 2
    is_frontal = squares[..., :2].sum(axis=(1, 2)) > squares[..., 2].sum(axis=1)
    return np.where(is_frontal, _agreement(view, body_cam[..., :2]), np.nan)


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine (N,) between sets of vectors (N, n, C), over those that both have."""
    is_both = (np.isfinite(a) & np.isfinite(b)).all(axis=2)
    a, b = (np.where(is_both[..., None], x, 0) for x in (a, b))
    size = np.sqrt((a**2).sum(axis=(1, 2)) * (b**2).sum(axis=(1, 2)))
    cosine = (a * b).sum(axis=(1, 2)) / np.where(size > 0, size, np.nan)
    return np.where(is_both.sum(axis=1) >= _MIN_PAIRS, cosine, np.nan)


def _face_ahead(points: np.ndarray) -> np.ndarray:
    """How far (N,), m, noses are before ears and toes before heels, as the trunk sees it."""
    ahead, _ = trunk_axes(points)
    front = pick(points, "nose", "jaw", "left_big_toe", "right_big_toe")
    back = pick(points, "left_heel", "right_heel", "left_ankle", "right_ankle", "head_top", "neck")
    ears = pick(points, "left_ear", "right_ear").mean(axis=1, keepdims=True)
    heels = np.where(np.isfinite(back[:, :2]), back[:, :2], back[:, 2:4])
    head = back[:, 4:].mean(axis=1, keepdims=True)
    steps = np.concatenate([front[:, :1] - ears, front[:, 1:2] - head, front[:, 2:] - heels], 1)
    return mean_known((steps * ahead[:, None]).sum(axis=2))


def mirrored_keypoints_3d(labels: Labels) -> Outcome:
    """3D joints whose left is on the right."""
    sides = _sides(labels)
    is_judged = np.isfinite(sides.joints_pose) | np.isfinite(sides.joints_face)
    value = np.where(np.isfinite(sides.joints_pose), sides.joints_pose, np.sign(sides.joints_face))
    return Outcome(is_judged, sides.is_joints_bad, value)


def mirrored_keypoints_2d(labels: Labels) -> Outcome:
    """2D joints whose left is on the right."""
    sides, person = _sides(labels), labels.person_of_view
    is_bad = (sides.view_pose < _MIRRORED) & ~sides.is_pose_bad[person]
    is_bad |= (sides.view_joints < _MIRRORED) & ~sides.is_joints_bad[person]
    value = np.fmin(sides.view_pose, sides.view_joints)
    return Outcome(np.isfinite(value), is_bad, value)


def mirrored_torso(labels: Labels) -> Outcome:
    """Trunks seen from behind of people whose nose and eyes are labelled, and who have 2D only."""
    face = np.isfinite(pick(labels.parts_img, "nose", "left_eye", "right_eye")).all(axis=(1, 2))
    shoulders, hips = (pick(labels.parts_img, *TRUNK[i : i + 2]) for i in (0, 2))
    down = hips.mean(axis=1) - shoulders.mean(axis=1)
    side = shoulders[:, 0] - shoulders[:, 1] + hips[:, 0] - hips[:, 1]
    turn = side[:, 0] * down[:, 1] - side[:, 1] * down[:, 0]  # above 0: seen from the front
    size = np.linalg.norm(side, axis=1) * np.linalg.norm(down, axis=1)
    is_known_better = labels.has_pose | labels.has_keypoint_world.any(axis=1)
    is_judged = face & np.isfinite(turn) & ~is_known_better[labels.person_of_view]
    return Outcome(is_judged, turn < 0, turn / size)


def bodies_upside_down(labels: Labels) -> Outcome:
    """Poses whose root has the head below the feet in the image."""
    up = labels.turn(labels.rotations[:, 0, :, 1])[:, 1]
    return Outcome(np.isfinite(up), up > 0.5, up)


def mirrored_pose(labels: Labels) -> Outcome:
    """Poses whose left is on the right, going by 2D and 3D joints."""
    sides = _sides(labels)
    return Outcome(np.isfinite(sides.joints_pose), sides.is_pose_bad, sides.joints_pose)


def pose_disagrees_with_keypoints_3d(labels: Labels) -> Outcome:
    """Posed joints far from the labelled ones, when their middles are put in one place."""
    given, posed = (pick(x, *_LIMB_PARTS) for x in (labels.parts_world, labels.posed_parts))
    is_both = np.isfinite(given + posed).all(axis=2)
    given, posed = (x - _middle(x, is_both) for x in (given, posed))
    off = mean_known(np.where(is_both, np.linalg.norm(given - posed, axis=2), np.nan))
    is_mirrored = _agreement(labels.parts_world, labels.posed_parts) < _MIRRORED
    is_bad = (off > _POSE_OFF_M) & ~is_mirrored & ~units_not_metres(labels).is_bad
    return Outcome(is_both.sum(axis=1) >= _MIN_JOINTS, is_bad, off)


def pose_disagrees_with_keypoints_2d(labels: Labels) -> Outcome:
    """Posed joints, seen from far away, that no shift and zoom brings to the labelled ones."""
    seen, posed = pick(labels.parts_img, *_LIMB_PARTS), pick(labels.posed_parts, *_LIMB_PARTS)
    posed = labels.turn(posed)[..., :2]
    is_both = np.isfinite(seen + posed).all(axis=2)
    seen, posed = (np.where(is_both[..., None], x - _middle(x, is_both), 0) for x in (seen, posed))
    zoom = (seen * posed).sum(axis=(1, 2)) / (posed**2).sum(axis=(1, 2))
    rest = seen - np.maximum(zoom, 0)[:, None, None] * posed
    off = np.sqrt((rest**2).sum(axis=(1, 2)) / (seen**2).sum(axis=(1, 2)))
    sides = _agreement_in_image(labels.parts_img, labels.turn(labels.posed_parts))
    is_bad = (off > _POSE_OFF_IMG) & ~(sides < _MIRRORED)
    return Outcome((is_both.sum(axis=1) >= _MIN_JOINTS) & np.isfinite(off), is_bad, off)


def _middle(points: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean (N, 1, C) of the points (N, n, C) that count (N, n)."""
    total = np.where(counts[..., None], points, 0).sum(axis=1, keepdims=True)
    return total / counts.sum(axis=1)[:, None, None]


def transl_disagrees_with_keypoints(labels: Labels) -> Outcome:
    """A translation that puts the pelvis far from where the 3D joints have it."""
    off = labels.pelvis_world - middle_of(labels.parts_world, "pelvis", "hip")
    off = np.linalg.norm(off, axis=1)
    num_views = np.bincount(labels.person_of_view, minlength=len(off))
    num_placed = np.bincount(labels.person_of_view, labels.is_placed, minlength=len(off))
    is_judged = np.isfinite(off) & ((num_placed > 0) | (num_views == 0))
    is_bad = (off > _TRANSL_OFF_M) & ~units_not_metres(labels).is_bad
    return Outcome(is_judged, is_bad, off)


AGREEMENT_CHECKS = (
    Check(
        "mirrored-keypoints-3d",
        "person",
        mirrored_keypoints_3d,
        "cosine {:.2f}",
        "Left and right of the 3D joints are swapped, going by the pose or by nose and toes.",
        "Swap the names in the joint order of the converter, or undo the mirrored axis.",
        error_share=0.02,
    ),
    Check(
        "mirrored-keypoints-2d",
        "view",
        mirrored_keypoints_2d,
        "cosine {:.2f}",
        "Left and right of the 2D joints are swapped, going by the pose or the 3D joints.",
        "Swap the names in the joint order of the converter; a flipped image flips its labels too.",
        error_share=0.02,
    ),
    Check(
        "mirrored-torso",
        "view",
        mirrored_torso,
        "turned by {:.2f}",
        "Most people with nose and both eyes labelled show their back, going by shoulders and "
        "hips: left and right of the 2D joints are swapped.",
        "Swap the names in the joint order of the converter; a flipped image flips its labels too.",
        min_share=0.75,
    ),
    Check(
        "bodies-upside-down",
        "view",
        bodies_upside_down,
        "up is {:.2f} down",
        "Most bodies stand on their head in the image, going by row 0 of pose.",
        "Camera axes are x right, y down, z forward: turn row 0 of pose by 180 degrees about x if "
        "it comes from axes with y up, and multiply it by the camera's rotation if it is in the "
        "world of the dataset.",
        min_share=0.6,
    ),
    Check(
        "mirrored-pose",
        "person",
        mirrored_pose,
        "cosine {:.2f}",
        "The pose has its left where 2D and 3D joints, which agree, have their right: it is turned "
        "round or mirrored.",
        "Turn row 0 of pose as the joints are turned; or swap the names of both 2D and 3D joints.",
        error_share=0.02,
    ),
    Check(
        "pose-disagrees-with-keypoints-3d",
        "person",
        pose_disagrees_with_keypoints_3d,
        "{:.2f} m",
        "The posed body is more than 20 cm off the 3D joints, with their middles in one place.",
        "Row 0 of pose takes the body to the world of keypoints_world: turn it when the joints are "
        "turned; check the order of the joints.",
    ),
    Check(
        "pose-disagrees-with-keypoints-2d",
        "view",
        pose_disagrees_with_keypoints_2d,
        "{:.2f} of their spread",
        "The posed body, however shifted and zoomed, does not fall on the 2D joints.",
        "Row 0 of pose takes the body to the world: put the camera into it, or into "
        "world_to_camera; check that pose and joints are of the same person.",
    ),
    Check(
        "transl-disagrees-with-keypoints",
        "person",
        transl_disagrees_with_keypoints,
        "{:.2f} m",
        "transl puts the pelvis more than 0.5 m from that of the 3D joints.",
        "transl is SMPL's: pelvis minus the pelvis at rest, in metres, in the same world as "
        "keypoints_world.",
    ),
)
