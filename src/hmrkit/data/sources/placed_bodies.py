"""SMPL bodies of a world, seen by a camera: parameters in camera axes, and joints in 3D and 2D.

SMPL turns a body about its pelvis, not about the origin of ``transl``. So a rigid motion (R, t)
takes the root's rotation to R times it, and ``transl`` to R (p + transl) + t - p, where p is the
pelvis of the body at rest, which depends on its shape and gender.
"""

from contextlib import suppress

import numpy as np
import simplejpeg
from scipy.spatial.transform import Rotation

from hmrkit.body import joints
from hmrkit.body.gendered import GenderedBodies
from hmrkit.data.record import decode_image
from hmrkit.types import Sample

JOINT_SET = "all"
BODY_JOINTS = joints.index(joints.names("smpl45"), JOINT_SET)  # those that span a person's box
_CAMERA_PRECISION_PX = 0.01  # cameras nearer to each other are the same


def bodies_to_camera(
    bodies: GenderedBodies,
    pose: np.ndarray,
    betas: np.ndarray,
    transl: np.ndarray,
    gender: np.ndarray,
    world_to_camera: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Pose (P, 24, 3) and translation (P, 3) of people in the axes of a camera.

    Args:
        bodies: of the genders.
        pose: (P, 24, 3) axis-angle, in the world.
        betas: (P, 10).
        transl: (P, 3) metres, in the world.
        gender: (P,) -1 neutral, 0 male, 1 female.
        world_to_camera: (4, 4) rigid, or (P, 4, 4) one per person.
    """
    motion = np.asarray(world_to_camera, np.float64)
    at_rest = bodies.joints(np.zeros_like(pose), betas, np.zeros_like(transl), gender, "smpl24")
    pelvis = at_rest[:, joints.index("pelvis", "smpl24")].astype(np.float64)  # (P, 3)
    moved = pose.astype(np.float64)
    root = Rotation.from_matrix(motion[..., :3, :3]) * Rotation.from_rotvec(moved[:, 0])
    moved[:, 0] = root.as_rotvec()
    place = (motion[..., :3, :3] @ (pelvis + transl)[..., None])[..., 0]
    place += motion[..., :3, 3] - pelvis
    return moved.astype(np.float32), place.astype(np.float32)


def body_labels(
    bodies: GenderedBodies,
    pose: np.ndarray,
    betas: np.ndarray,
    transl: np.ndarray,
    gender: np.ndarray,
    intrinsics: np.ndarray,
) -> Sample:
    """What a record of joint set ``all`` says of people in the axes of its only camera.

    Args:
        bodies: of the genders.
        pose: (P, 24, 3) axis-angle.
        betas: (P, 10).
        transl: (P, 3) metres.
        gender: (P,) -1 neutral, 0 male, 1 female.
        intrinsics: (3, 3) px, or (P, 3, 3): each person before a camera of their own.

    Returns:
        Everything but key, image, boxes and index vectors. All joints have confidence 1; in 2D,
        those behind the camera are absent.
    """
    points = bodies.joints(pose, betas, transl, gender, JOINT_SET)  # (P, K, 3)
    ones = np.ones_like(points[..., :1])
    rays = points.astype(np.float64) @ np.swapaxes(np.asarray(intrinsics, np.float64), -1, -2)
    is_before = rays[..., 2:] > 0
    pixels = rays[..., :2] / np.where(is_before, rays[..., 2:], np.nan)
    has = np.ones(len(points), bool)
    return {
        **_cameras(np.float32(intrinsics)),
        "keypoints_img": np.concatenate([pixels, is_before], axis=-1, dtype=np.float32),
        "keypoints_world": np.concatenate([points, ones], axis=-1),
        "pose": np.float32(pose),
        "betas": np.float32(betas),
        "transl": np.float32(transl),
        "has_pose": has,
        "has_betas": has.copy(),
        "gender": gender,
    }


def _cameras(intrinsics: np.ndarray) -> Sample:
    if intrinsics.ndim == 2:
        return {"intrinsics": intrinsics[None]}
    return {
        "intrinsics": np.full((1, 3, 3), np.nan, np.float32),
        "intrinsics_of_view": intrinsics,
    }


def check_bodies(bodies: GenderedBodies, genders: np.ndarray) -> None:
    """Read the bodies of some genders (P,) now.

    Raises:
        FileNotFoundError, ValueError: naming the file that is missing or wrong.
    """
    present = np.unique(genders)
    num = len(present)
    nothing = np.zeros((num, 24, 3)), np.zeros((num, 10)), np.zeros((num, 3))
    bodies.joints(*nothing, present, JOINT_SET)


def image_size(data: bytes) -> tuple[int, int]:
    """Height and width of a JPEG or PNG file."""
    if data.startswith(b"\xff\xd8"):
        with suppress(ValueError):  # damaged: decode_image says so
            height, width = simplejpeg.decode_jpeg_header(data)[:2]
            return height, width
    height, width = decode_image(data).shape[:2]
    return height, width


def is_inside(box_img: np.ndarray, size_hw: tuple[int, int]) -> bool:
    """Whether a box (4,) is one, finite and not empty, and shows at least a part of an image."""
    height, width = size_hw
    x1, y1, x2, y2 = box_img
    is_box = np.isfinite(box_img).all() and x1 < x2 and y1 < y2
    return bool(is_box and x1 < width and y1 < height and x2 > 0 and y2 > 0)


def cameras_of_people(cameras: np.ndarray) -> dict[str, np.ndarray]:
    """``intrinsics`` of an image, or ``intrinsics_of_view`` where its people disagree.

    Args:
        cameras: (P, 3, 3) px, as the labels of each person say; NaN for those who do not say.
    """
    known = np.isfinite(cameras).all((1, 2))
    if not known.any() or np.ptp(cameras[known], axis=0).max() < _CAMERA_PRECISION_PX:
        return {"intrinsics": cameras[[known.argmax()]].astype(np.float32)}
    return {"intrinsics_of_view": cameras.astype(np.float32)}
