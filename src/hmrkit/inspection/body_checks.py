"""Checks of people one by one: units, poses, shapes, and fillers that pass for labels."""

import re

import numpy as np

from hmrkit.body import joints
from hmrkit.inspection.checks import NEVER, Check, Outcome
from hmrkit.inspection.labels import Labels, pick

_SPREAD_M, _BONE_M, _FAR_M = (0.05, 10.0), (0.04, 1.0), 500.0
_MAX_BETA = 5.0
_MIN_JOINTS = 6
_BONES = [
    (f"{side}_{upper}", f"{side}_{lower}")
    for side in ("left", "right")
    for upper, lower in (
        ("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle"),
    )
]  # fmt: skip


def units_not_metres(labels: Labels) -> Outcome:
    """People of the size of a house or of a mouse, or half a kilometre away."""
    has_joints = labels.has_keypoint_world.sum(axis=1) >= _MIN_JOINTS
    low, high = labels.extent_world
    spread = np.where(has_joints, (high - low).max(axis=1, initial=-np.inf), np.nan)
    ends = [pick(labels.parts_world, *names) for names in zip(*_BONES, strict=True)]
    bone = mean_known(np.linalg.norm(ends[0] - ends[1], axis=2))
    away = np.linalg.norm(labels.transl, axis=1)
    is_bad = _is_outside(spread, _SPREAD_M) | _is_outside(bone, _BONE_M)
    value = np.where(is_bad, spread, away)
    return Outcome(has_joints | np.isfinite(away), is_bad | (away > _FAR_M), value)


def _is_outside(value: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    return (value < limits[0]) | (value > limits[1])


def mean_known(values: np.ndarray) -> np.ndarray:
    """Mean (N,) over what is finite of (N, n); NaN where nothing is."""
    is_known = np.isfinite(values)
    return np.where(is_known, values, 0).sum(axis=1) / is_known.sum(axis=1)


def pose_not_axis_angle(labels: Labels) -> Outcome:
    """Rotation vectors of more than a full turn."""
    length = labels.longest_rotation
    return Outcome(labels.has_pose, length > 2 * np.pi + 1e-3, length)


def pose_all_zero(labels: Labels) -> Outcome:
    """People whose body joints all have the rotation zero."""
    largest = np.abs(labels.pose[:, 1:]).max(axis=(1, 2))
    return Outcome(labels.has_pose, largest < 1e-6, largest)


def betas_out_of_range(labels: Labels) -> Outcome:
    """Shapes further from the mean than people are."""
    largest = np.abs(labels.betas).max(axis=1)
    return Outcome(labels.has_betas, largest > _MAX_BETA, largest)


def gender_invalid(labels: Labels) -> Outcome:
    """A gender that there is not."""
    gender = labels.gender
    return Outcome(gender != -1, (gender < -1) | (gender > 1), gender.astype(float))


def gender_without_betas(labels: Labels) -> Outcome:
    """A gender of betas that are no label."""
    return Outcome(labels.gender != -1, ~labels.has_betas, labels.gender.astype(float))


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
    """Labelled joints at exactly 0: the filler of a format for what it does not know.

    In three dimensions one place of the body may be the origin, whatever the names it has.
    """
    in_image = (labels.keypoints_img[..., :2] == 0).all(axis=2) & labels.has_keypoint_img
    in_world = (labels.keypoints_world[..., :3] == 0).all(axis=2) & labels.has_keypoint_world
    in_world &= (in_world @ _places(labels.joint_set) > 0).sum(axis=1, keepdims=True) >= 2
    num = len(labels.keys)
    value = np.bincount(labels.record_of_view, in_image.sum(axis=1), num)
    value = value + np.bincount(labels.record_of_person, in_world.sum(axis=1), num)
    return Outcome(np.ones(num, bool), value > 0, value)


def _places(joint_set: str) -> np.ndarray:
    """(K, n) 0 or 1: which joints are the same place of the body, by other annotators' names."""
    bare = [re.sub("^(openpose|spin|h36m)_", "", name) for name in joints.names(joint_set)]
    return (np.array(bare)[:, None] == np.unique(bare)).astype(int)


BODY_CHECKS = (
    Check(
        "units-not-metres",
        "person",
        units_not_metres,
        "{:.4g} m",
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
        "gender-invalid",
        "person",
        gender_invalid,
        "gender {:.0f}",
        "gender is none of -1, 0 and 1.",
        "0 is male, 1 female, -1 neutral or unknown.",
        error_share=0,
    ),
    Check(
        "gender-without-betas",
        "person",
        gender_without_betas,
        "gender {:.0f}",
        "gender is set for people without betas.",
        "It says whose betas these are; harmless, unless betas were meant to be there.",
        error_share=NEVER,
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
