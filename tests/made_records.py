"""Records made of numbers, for the tests of the data stages: exact cameras, marked pictures."""

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from hmrkit.body import joints
from hmrkit.data.record import check_sample, complete_sample
from hmrkit.types import Sample

DOT_PX = 6  # radius of the dots in the pictures


def forward_kinematics(pose: np.ndarray, transl: np.ndarray) -> np.ndarray:
    """Joints (P, 24, 3) of a skeleton that is its own mirror image, pelvis off the origin."""
    side = np.array([1 if n.startswith("left") else -1 for n in joints.names("smpl24")])
    side *= np.array(["left" in n or "right" in n for n in joints.names("smpl24")])
    depth = np.array([len(_ancestors(j)) for j in range(24)])
    rest = np.stack([0.1 * side * (1 + depth % 3), 0.12 * depth - 0.3, 0.02 * depth], axis=-1)
    rotmats = Rotation.from_rotvec(pose.reshape(-1, 3)).as_matrix().reshape(-1, 24, 3, 3)
    positions, rotations = np.zeros((len(pose), 24, 3)), np.zeros((len(pose), 24, 3, 3))
    for j, parent in enumerate(joints.SMPL_PARENTS):
        if parent < 0:
            positions[:, j], rotations[:, j] = rest[j], rotmats[:, j]
        else:
            bone = rest[j] - rest[parent]
            positions[:, j] = positions[:, parent] + rotations[:, parent] @ bone
            rotations[:, j] = rotations[:, parent] @ rotmats[:, j]
    return positions + transl[:, None]


def _ancestors(j: int) -> list[int]:
    return [] if j < 0 else [j, *_ancestors(joints.SMPL_PARENTS[j])]


def make_record(
    seed: int = 0,
    num_persons: int = 1,
    num_cameras: int = 1,
    size_hw: tuple[int, int] = (360, 480),
    key: str = "record",
    source: str = "made",
) -> Sample:
    """People of joint set ``smpl24`` before cameras, every label present and exact.

    Joint k of a person is a coloured dot in the pictures. One camera is the world itself; several
    stand around it.
    """
    rng = np.random.default_rng(seed)
    pose = rng.normal(0, 0.3, (num_persons, 24, 3))
    transl = rng.normal(0, 0.4, (num_persons, 3))
    transl[:, 2] += 4 if num_cameras == 1 else 0
    world = forward_kinematics(pose, transl)
    cameras, intrinsics, images, keypoints = [], [], [], []
    for i in range(num_cameras):
        camera = np.eye(4)
        if num_cameras > 1:
            turn = Rotation.from_euler("y", 360 * i / num_cameras + 10, degrees=True)
            camera[:3, :3], camera[:3, 3] = turn.as_matrix(), [0.1 * i, 0, 4]
        height, width = size_hw
        focal = 0.8 * width + 20 * i
        matrix = np.array([[focal, 0, width / 2 + 7], [0, focal, height / 2 - 3], [0, 0, 1]])
        points = project(world, camera, matrix)  # (P, 24, 2)
        cameras.append(camera)
        intrinsics.append(matrix)
        keypoints.append(np.concatenate([points, np.ones((num_persons, 24, 1))], axis=-1))
        images.append(_picture(rng, points.reshape(-1, 2), size_hw))
    views = np.stack(keypoints).reshape(-1, 24, 3)  # image by image, all people in each
    low, high = views[..., :2].min(axis=1), views[..., :2].max(axis=1)
    partial: Sample = {
        "key": key,
        "images": images,
        "intrinsics": np.float32(intrinsics),
        "world_to_camera": np.float32(cameras),
        "image_of_view": np.repeat(np.arange(num_cameras), num_persons),
        "person_of_view": np.tile(np.arange(num_persons), num_cameras),
        "box_img": np.float32(np.concatenate([low, high], axis=-1)),
        "keypoints_img": np.float32(views),
        "visible_fraction": np.ones(len(views), np.float32),
        "keypoints_world": np.float32(
            np.concatenate([world, np.ones((num_persons, 24, 1))], axis=-1)
        ),
        "pose": np.float32(pose),
        "betas": np.float32(rng.normal(0, 1, (num_persons, 10))),
        "transl": np.float32(transl),
        "has_pose": np.ones(num_persons, bool),
        "has_betas": np.ones(num_persons, bool),
    }
    sample = complete_sample(partial, "smpl24", source)
    check_sample(sample)
    return sample


def make_motion(seed: int, num_frames: int, key: str = "clip") -> Sample:
    """A clip of poses without images or joints."""
    rng = np.random.default_rng(seed)
    partial: Sample = {
        "key": key,
        "pose": np.float32(rng.normal(0, 0.3, (num_frames, 24, 3))),
        "transl": np.float32(rng.normal(0, 1, (num_frames, 3))),
        "has_pose": np.ones(num_frames, bool),
    }
    return complete_sample(partial, "smpl24", "made")


def project(points: np.ndarray, world_to_camera: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Points (..., 3) of the world in px (..., 2)."""
    camera = points @ world_to_camera[:3, :3].T + world_to_camera[:3, 3]
    image = camera @ intrinsics.T
    return image[..., :2] / image[..., 2:]


def projected_crop(sample: Sample, view: int) -> np.ndarray:
    """The labelled world joints of a view of a cut sample, through its cameras, in crop units."""
    image, person = sample["image_of_view"][view], sample["person_of_view"][view]
    px = project(
        sample["keypoints_world"][person, :, :3].astype(np.float64),
        sample["world_to_camera"][image].astype(np.float64),
        sample["intrinsics"][image].astype(np.float64),
    )
    linear, shift = sample["crop_to_img"][view][:, :2], sample["crop_to_img"][view][:, 2]
    return (px - shift) @ np.linalg.inv(linear.astype(np.float64)).T


def same(a: Sample, b: Sample) -> bool:
    """Whether two samples hold the same keys and the same values."""
    if a.keys() != b.keys():
        return False
    return all(_equal(a[name], b[name]) for name in a)


def _equal(a: object, b: object) -> bool:
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    return a == b


def dot_color(k: int) -> tuple[int, int, int]:
    """Colour of the k-th dot of a picture; no two are near each other."""
    return 255 - 80 * (k % 3), 255 - 80 * (k // 3 % 3), 255 - 80 * (k // 9 % 3)


def _picture(rng: np.random.Generator, points: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    image = rng.integers(0, 40, (*size_hw, 3), dtype=np.uint8)
    for k, (x, y) in enumerate(points):
        center = (round(float(x) * 16), round(float(y) * 16))
        cv2.circle(image, center, DOT_PX * 16, dot_color(k), -1, cv2.LINE_AA, shift=4)
    return image
