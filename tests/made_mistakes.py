"""Mistakes that people make when they write shards, put into good samples."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from hmrkit.body import joints
from hmrkit.types import Sample


@dataclass(frozen=True)
class Mistake:
    """What is done to every so many-th record of a kind, and what may be found.

    The first finding is the one that names the mistake; the others can follow from it.
    """

    kind: str
    make: Callable[[Sample], None]
    found: tuple[str, ...]
    every: int = 3


def swapped(sample: Sample) -> np.ndarray:
    return joints.flip_permutation(sample["joint_set"])


def millimetres(sample: Sample) -> None:
    for name in ("keypoints_world", "transl"):
        sample[name][..., :3] *= 1000


def millimetres_of_transl(sample: Sample) -> None:
    sample["transl"] *= 1000


def centimetres_of_joints(sample: Sample) -> None:
    sample["keypoints_world"][..., :3] *= 100


def left_and_right_of_2d(sample: Sample) -> None:
    sample["keypoints_img"] = sample["keypoints_img"][:, swapped(sample)]


def left_and_right_of_3d(sample: Sample) -> None:
    sample["keypoints_world"] = sample["keypoints_world"][:, swapped(sample)]


def left_and_right_of_both(sample: Sample) -> None:
    left_and_right_of_2d(sample)
    left_and_right_of_3d(sample)


def turned(sample: Sample, axis_angle: tuple[float, float, float], is_before: bool) -> None:
    """Turn row 0 of pose in the world, or about the body's own axes."""
    root = Rotation.from_rotvec(sample["pose"][:, 0].astype(np.float64))
    more = Rotation.from_rotvec(axis_angle)
    sample["pose"][:, 0] = (more * root if is_before else root * more).as_rotvec()


def back_to_front_pose(sample: Sample) -> None:
    turned(sample, (0, np.pi, 0), is_before=False)


def mirrored_x_of_3d(sample: Sample) -> None:
    sample["keypoints_world"][..., 0] *= -1


def no_3d(sample: Sample) -> None:
    sample["keypoints_world"][:] = np.nan
    sample["keypoints_world"][..., 3] = 0
    sample["has_pose"][:] = sample["has_betas"][:] = False
    for name in ("pose", "betas", "transl", "intrinsics"):
        sample[name][:] = np.nan


def shares_of_the_image(sample: Sample) -> None:
    sample["keypoints_img"][..., :2] /= sample["images"][0].shape[0]


def joints_of_a_larger_image(sample: Sample) -> None:
    sample["keypoints_img"][..., :2] *= 2.5


def one_joint_far_outside(sample: Sample) -> None:
    sample["keypoints_img"][:, 3] = [-60, 40, 1]


def box_of_a_larger_image(sample: Sample) -> None:
    sample["box_img"] *= 4


def box_with_the_margin_of_another_unit(sample: Sample) -> None:
    middle = (sample["box_img"][:, :2] + sample["box_img"][:, 2:]) / 2
    half = (sample["box_img"][:, 2:] - sample["box_img"][:, :2]) / 10
    sample["box_img"] = np.concatenate([middle - half, middle + half], axis=1)


def somebody_twice(sample: Sample) -> None:
    last = {"image_of_view": 0, "person_of_view": len(sample["has_pose"])}
    for name in ("box_img", "keypoints_img", "visible_fraction", "intrinsics_of_view", *last):
        sample[name] = np.concatenate([sample[name], sample[name][-1:]])
    for name, value in last.items():
        sample[name][-1] = value
    for name in (
        "keypoints_world", "pose", "betas", "transl", "has_pose", "has_betas", "gender",
        "is_self_intersecting", "time_s", "person_id",
    ):  # fmt: skip
        sample[name] = np.concatenate([sample[name], sample[name][-1:]])


def two_people_in_a_crop(sample: Sample) -> None:
    somebody_twice(sample)
    sample["box_img"][1] += [20, 0, 0, 0]


def percent_visible(sample: Sample) -> None:
    sample["visible_fraction"] *= 100


def degrees(sample: Sample) -> None:
    sample["pose"] = np.degrees(sample["pose"])


def filler_pose(sample: Sample) -> None:
    sample["pose"][:] = 0


def wild_betas(sample: Sample) -> None:
    sample["betas"][:, 2] = -8


def gender_code_of_another_format(sample: Sample) -> None:
    sample["gender"][:] = 2


def gender_without_betas(sample: Sample) -> None:
    sample["gender"][:], sample["has_betas"][:] = 1, False


def intrinsics_of_another_size(sample: Sample) -> None:
    sample["intrinsics"][:, :2] *= 4


def transposed_intrinsics(sample: Sample) -> None:
    sample["intrinsics"] = sample["intrinsics"].swapaxes(1, 2).copy()


def focal_length_of_spin(sample: Sample) -> None:
    no_3d(sample)
    half = sample["images"][0].shape[0] / 2
    sample["intrinsics"][:] = [[5000, 0, half], [0, 5000, half], [0, 0, 1]]


def principal_point_of_a_larger_image(sample: Sample) -> None:
    no_3d(sample)
    height, width = sample["images"][0].shape[:2]
    sample["intrinsics"][:] = [[width, 0, width], [0, width, height], [0, 0, 1]]


def stretched_intrinsics(sample: Sample) -> None:
    no_3d(sample)
    height, width = sample["images"][0].shape[:2]
    sample["intrinsics"][:] = [[width, 0, width / 2], [0, 1.5 * width, height / 2], [0, 0, 1]]


def camera_in_millimetres(sample: Sample) -> None:
    sample["world_to_camera"][:, :3, 3] *= 1000


def camera_with_a_scale(sample: Sample) -> None:
    sample["world_to_camera"][:, :3] *= 1.5


def camera_inverted(sample: Sample) -> None:
    sample["world_to_camera"] = np.linalg.inv(sample["world_to_camera"])


def opengl_axes(sample: Sample) -> None:
    sample["world_to_camera"][:, 1:3] *= -1


def joints_about_another_origin(sample: Sample) -> None:
    sample["keypoints_world"][..., 2] += 3


def pose_without_the_camera(sample: Sample) -> None:
    turned(sample, (np.pi, 0, 0), is_before=True)


def pose_of_somebody_who_lies(sample: Sample) -> None:
    turned(sample, (0, 0, np.pi / 2), is_before=True)


def transl_in_another_world(sample: Sample) -> None:
    sample["transl"] += np.float32([3, 0, 0])


def visibility_flags(sample: Sample) -> None:
    sample["keypoints_img"][..., 2] *= 2


def zeros_for_absent_2d(sample: Sample) -> None:
    sample["keypoints_img"][:, 5] = [0, 0, 1]


def zeros_for_absent_3d(sample: Sample) -> None:
    sample["keypoints_world"][:, 4:8, :3] = 0


OFF_2D, OFF_3D = "pose-disagrees-with-keypoints-2d", "pose-disagrees-with-keypoints-3d"
LEFT_2D, LEFT_3D = "mirrored-keypoints-2d", "mirrored-keypoints-3d"
OFF_BOX, OFF_TRANSL = "transl-off-box", "transl-disagrees-with-keypoints"
BOX, CAMERA = "box-disagrees-with-keypoints", "reprojection-error"

MISTAKES = (
    Mistake("crops", millimetres, ("units-not-metres",)),
    Mistake("motion", millimetres, ("units-not-metres",)),
    Mistake("crops", millimetres_of_transl, ("units-not-metres",)),
    Mistake("crops", centimetres_of_joints, ("units-not-metres",)),
    Mistake("crops", left_and_right_of_2d, (LEFT_2D, CAMERA, OFF_2D)),
    Mistake("rigs", left_and_right_of_2d, (LEFT_2D, CAMERA, OFF_2D)),
    Mistake("scenes", left_and_right_of_3d, (LEFT_3D, CAMERA)),
    Mistake("motion", left_and_right_of_3d, (LEFT_3D,)),
    Mistake("crops", left_and_right_of_both, (LEFT_3D, LEFT_2D, OFF_2D)),
    Mistake("motion", mirrored_x_of_3d, (LEFT_3D, OFF_3D, OFF_TRANSL)),
    Mistake("crops", back_to_front_pose, ("mirrored-pose", OFF_2D, OFF_3D)),
    Mistake("crops", pose_without_the_camera, ("bodies-upside-down", OFF_2D, OFF_3D), every=1),
    Mistake("scenes", pose_of_somebody_who_lies, (OFF_3D, OFF_2D)),
    Mistake("crops", shares_of_the_image, ("pixels-normalised", BOX, CAMERA)),
    Mistake("crops", joints_of_a_larger_image, ("keypoints-outside-image", BOX, CAMERA)),
    Mistake("crops", one_joint_far_outside, ("keypoints-outside-image", BOX)),
    Mistake("scenes", box_of_a_larger_image, ("box-outside-image", BOX, OFF_BOX)),
    Mistake("crops", box_with_the_margin_of_another_unit, (BOX,)),
    Mistake("scenes", somebody_twice, ("duplicate-people",)),
    Mistake("crops", two_people_in_a_crop, ("kind-mismatch", BOX)),
    Mistake("crops", percent_visible, ("visible-fraction-out-of-range",)),
    Mistake("crops", degrees, ("pose-not-axis-angle",)),
    Mistake("motion", degrees, ("pose-not-axis-angle",)),
    Mistake("crops", filler_pose, ("pose-all-zero",)),
    Mistake("motion", wild_betas, ("betas-out-of-range",)),
    Mistake("crops", gender_code_of_another_format, ("gender-invalid",)),
    Mistake("crops", gender_without_betas, ("gender-without-betas",)),
    Mistake(
        "scenes",
        intrinsics_of_another_size,
        ("principal-point-off-centre", CAMERA, OFF_BOX),
    ),
    Mistake(
        "scenes",
        transposed_intrinsics,
        ("intrinsics-invalid", "principal-point-off-centre", CAMERA, OFF_BOX),
    ),
    Mistake("scenes", focal_length_of_spin, ("implausible-field-of-view",)),
    Mistake("scenes", principal_point_of_a_larger_image, ("principal-point-off-centre",)),
    Mistake("scenes", stretched_intrinsics, ("anisotropic-focal-length",)),
    Mistake("rigs", camera_in_millimetres, (CAMERA,)),
    Mistake("rigs", camera_with_a_scale, ("camera-not-rigid",)),
    Mistake("rigs", camera_inverted, (CAMERA, "behind-camera", OFF_BOX)),
    Mistake("rigs", opengl_axes, ("behind-camera", OFF_2D)),
    Mistake("scenes", joints_about_another_origin, (OFF_TRANSL, CAMERA)),
    Mistake("crops", transl_in_another_world, (OFF_TRANSL, OFF_BOX)),
    Mistake("crops", visibility_flags, ("confidence-above-one",)),
    Mistake("crops", zeros_for_absent_2d, ("keypoints-at-zero", OFF_2D)),
    Mistake("motion", zeros_for_absent_3d, ("keypoints-at-zero", OFF_3D)),
)
