"""Checks of people: units, poses, shapes, and whether the labels of one person agree."""

from typing import NamedTuple

import numpy as np

from hmrkit.inspection.checks import Check, Outcome
from hmrkit.inspection.labels import (
    LIMBS,
    TRUNK,
    Labels,
    across,
    middle_of,
    pick,
    trunk_axes,
)

_SPREAD_M, _BONE_M, _FAR_M = (0.05, 10.0), (0.04, 1.0), 500.0
_MAX_BETA = 5.0
_MIRRORED, _AGREES = -0.5, 0.5  # cosine between two sets of right-to-left vectors
_FACE_M = 0.03  # nose before the ears, toes before the heels
_TRANSL_OFF_M, _POSE_OFF_M, _POSE_OFF_IMG = 0.5, 0.2, 0.6
_MIN_PAIRS, _MIN_JOINTS = 2, 6
_SIDES = ("left", "right")
_BONES = [
    (f"{side}_{upper}", f"{side}_{lower}")
    for side in _SIDES
    for upper, lower in (
        ("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle"),
    )
]  # fmt: skip
_LIMB_PARTS = [f"{side}_{limb}" for side in _SIDES for limb in LIMBS]


def units_not_metres(labels: Labels) -> Outcome:
    """People of the size of a house or of a mouse, or half a kilometre away."""
    has_joints = labels.has_keypoint_world.sum(axis=1) >= _MIN_JOINTS
    low, high = labels.extent_world
    spread = np.where(has_joints, (high - low).max(axis=1, initial=-np.inf), np.nan)
    ends = [pick(labels.parts_world, *names) for names in zip(*_BONES, strict=True)]
    bone = _mean(np.linalg.norm(ends[0] - ends[1], axis=2))
    away = np.linalg.norm(labels.transl, axis=1)
    is_bad = _is_outside(spread, _SPREAD_M) | _is_outside(bone, _BONE_M)
    value = np.where(is_bad, spread, away)
    return Outcome(has_joints | np.isfinite(away), is_bad | (away > _FAR_M), value)


def _is_outside(value: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    return (value < limits[0]) | (value > limits[1])


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean (N,) over what is finite of (N, n); NaN where nothing is."""
    is_known = np.isfinite(values)
    return np.where(is_known, values, 0).sum(axis=1) / is_known.sum(axis=1)


def pose_not_axis_angle(labels: Labels) -> Outcome:
    """Rotation vectors of more than a full turn."""
    length = np.linalg.norm(labels.pose, axis=2).max(axis=1)
    return Outcome(labels.has_pose, length > 2 * np.pi + 1e-3, length)


def pose_all_zero(labels: Labels) -> Outcome:
    """People whose body joints all have the rotation zero."""
    largest = np.abs(labels.pose[:, 1:]).max(axis=(1, 2))
    return Outcome(labels.has_pose, largest < 1e-6, largest)


def betas_out_of_range(labels: Labels) -> Outcome:
    """Shapes further from the mean than people are."""
    largest = np.abs(labels.betas).max(axis=1)
    return Outcome(labels.has_betas, largest > _MAX_BETA, largest)


def gender_inconsistent(labels: Labels) -> Outcome:
    """A gender that there is not, or one of a person without betas."""
    gender = labels.gender
    is_bad = (gender < -1) | (gender > 1) | ~labels.has_betas
    return Outcome(gender != -1, is_bad, gender.astype(float))


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
    joints, pose = across(labels.parts_world), across(labels.posed_parts)
    view = across(labels.parts_img)
    joints_pose = _cosine(joints, pose)
    face = _face_ahead(labels.parts_world)
    view_pose, view_joints = (_cosine_in_image(view, labels.turn(x)) for x in (pose, joints))
    agrees = np.zeros(len(face), bool)
    np.logical_or.at(agrees, labels.person_of_view, view_joints > _AGREES)
    differs = joints_pose < _MIRRORED
    is_pose_bad = differs & ((face > _FACE_M) | (np.isnan(face) & agrees))
    is_joints_bad = (face < -_FACE_M) & ~(joints_pose > _AGREES) | differs & ~is_pose_bad
    return _Sides(joints_pose, face, view_pose, view_joints, is_pose_bad, is_joints_bad)


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine (N,) between sets of vectors (N, n, C), over those that both have."""
    is_both = (np.isfinite(a) & np.isfinite(b)).all(axis=2)
    a, b = (np.where(is_both[..., None], x, 0) for x in (a, b))
    size = np.sqrt((a**2).sum(axis=(1, 2)) * (b**2).sum(axis=(1, 2)))
    cosine = (a * b).sum(axis=(1, 2)) / np.where(size > 0, size, np.nan)
    return np.where(is_both.sum(axis=1) >= _MIN_PAIRS, cosine, np.nan)


def _cosine_in_image(view: np.ndarray, body_cam: np.ndarray) -> np.ndarray:
    """The same of px (O, n, 2) and metres (O, n, 3); NaN for people seen from the side."""
    squares = np.where(np.isfinite(body_cam), body_cam, 0) ** 2
    is_frontal = squares[..., :2].sum(axis=(1, 2)) > squares[..., 2].sum(axis=1)
    return np.where(is_frontal, _cosine(view, body_cam[..., :2]), np.nan)


def _face_ahead(points: np.ndarray) -> np.ndarray:
    """How far (N,), m, noses are before ears and toes before heels, as the trunk sees it."""
    ahead, _ = trunk_axes(points)
    front = pick(points, "nose", "jaw", "left_big_toe", "right_big_toe")
    back = pick(points, "left_heel", "right_heel", "left_ankle", "right_ankle", "head_top", "neck")
    ears = pick(points, "left_ear", "right_ear").mean(axis=1, keepdims=True)
    heels = np.where(np.isfinite(back[:, :2]), back[:, :2], back[:, 2:4])
    head = back[:, 4:].mean(axis=1, keepdims=True)
    steps = np.concatenate([front[:, :1] - ears, front[:, 1:2] - head, front[:, 2:] - heels], 1)
    return _mean((steps * ahead[:, None]).sum(axis=2))


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
    """Poses whose left is on the right, going by the joints."""
    sides = _sides(labels)
    return Outcome(np.isfinite(sides.joints_pose), sides.is_pose_bad, sides.joints_pose)


def pose_disagrees_with_keypoints_3d(labels: Labels) -> Outcome:
    """Posed joints far from the labelled ones, when their middles are put in one place."""
    joints, posed = (pick(x, *_LIMB_PARTS) for x in (labels.parts_world, labels.posed_parts))
    is_both = np.isfinite(joints + posed).all(axis=2)
    joints, posed = (x - _middle(x, is_both) for x in (joints, posed))
    off = _mean(np.where(is_both, np.linalg.norm(joints - posed, axis=2), np.nan))
    is_mirrored = _cosine(across(labels.parts_world), across(labels.posed_parts)) < _MIRRORED
    is_bad = (off > _POSE_OFF_M) & ~is_mirrored
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
    view, pose = across(labels.parts_img), labels.turn(across(labels.posed_parts))
    is_bad = (off > _POSE_OFF_IMG) & ~(_cosine_in_image(view, pose) < _MIRRORED)
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
    return Outcome(is_judged, off > _TRANSL_OFF_M, off)


def confidence_above_one(labels: Labels) -> Outcome:
    """Confidences that are counts or percents."""
    value = np.zeros(len(labels.keys))
    for rows, points in (
        (labels.record_of_view, labels.keypoints_img),
        (labels.record_of_person, labels.keypoints_world),
    ):
        np.maximum.at(value, rows, points[..., -1].max(axis=1))
    return Outcome(value > 0, value > 1 + 1e-4, value)


def keypoints_at_zero(labels: Labels) -> Outcome:
    """Labelled joints at exactly 0: the filler of a format for what it does not know."""
    in_image = (labels.keypoints_img[..., :2] == 0).all(axis=2) & labels.has_keypoint_img
    in_world = (labels.keypoints_world[..., :3] == 0).all(axis=2) & labels.has_keypoint_world
    in_world &= in_world.sum(axis=1, keepdims=True) >= 2  # one may be the origin
    num = len(labels.keys)
    value = np.bincount(labels.record_of_view, in_image.sum(axis=1), num)
    value = value + np.bincount(labels.record_of_person, in_world.sum(axis=1), num)
    return Outcome(np.ones(num, bool), value > 0, value)


BODY_CHECKS = (
    Check(
        "units-not-metres",
        "person",
        units_not_metres,
        "{:.3g} m",
        "3D joints span more than 10 m or less than 5 cm, bones are longer than 1 m or shorter "
        "than 4 cm, or transl is beyond 500 m.",
        "Everything in three dimensions is in metres: divide millimetres by 1000.",
        error_share=0,
    ),
    Check(
        "pose-not-axis-angle",
        "person",
        pose_not_axis_angle,
        "{:.3g} rad",
        "Rotation vectors of pose are longer than 2 pi: they are no axis-angle in radians.",
        "Convert degrees, matrices, quaternions or 6D to axis-angle in radians, length at most pi.",
    ),
    Check(
        "pose-all-zero",
        "person",
        pose_all_zero,
        "largest {:.1g} rad",
        "has_pose is set and every joint of the body has the rotation zero (the T-pose).",
        "Leave pose out where there is no label, and has_pose false.",
    ),
    Check(
        "betas-out-of-range",
        "person",
        betas_out_of_range,
        "{:.1f}",
        "A shape coefficient is beyond 5 standard deviations.",
        "Check that betas are SMPL's, in its order, and that the fit did not fail; leave out those "
        "of failed fits.",
    ),
    Check(
        "gender-inconsistent",
        "person",
        gender_inconsistent,
        "gender {:.0f}",
        "gender is none of -1, 0 and 1, or is set for a person without betas.",
        "gender says whose betas these are: 0 male, 1 female, -1 neutral or no betas.",
    ),
    Check(
        "mirrored-keypoints-3d",
        "person",
        mirrored_keypoints_3d,
        "cosine {:.2f}",
        "Left and right of the 3D joints are swapped, going by the pose or by nose and toes.",
        "Swap the names in the joint order of the converter, or undo the mirrored axis.",
    ),
    Check(
        "mirrored-keypoints-2d",
        "view",
        mirrored_keypoints_2d,
        "cosine {:.2f}",
        "Left and right of the 2D joints are swapped, going by the pose or the 3D joints.",
        "Swap the names in the joint order of the converter; a flipped image flips its labels too.",
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
        "Left and right of the pose are swapped, going by 2D and 3D joints that agree.",
        "If images were flipped, flip pose as well: swap the sides and negate y and z.",
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
    Check(
        "confidence-above-one",
        "record",
        confidence_above_one,
        "{:.3g}",
        "Confidences of joints are above 1.",
        "Map visibility flags and percents to 0..1: losses are multiplied by the confidence.",
    ),
    Check(
        "keypoints-at-zero",
        "record",
        keypoints_at_zero,
        "{:.0f} joints",
        "Labelled joints lie at exactly 0, where formats put what they do not know.",
        "Give them confidence 0.",
    ),
)
