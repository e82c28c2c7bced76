"""From people and photos to one record with all its labels."""

import numpy as np

from hmrkit.data.synth.cast import Cast, axis_angle
from hmrkit.data.synth.view import Photo, project
from hmrkit.types import Sample

JOINT_SET = "all"


def assemble(
    cast_world: Cast,
    photos: list[Photo],
    intrinsics: np.ndarray,
    world_to_camera: np.ndarray,
    box_img: np.ndarray | None = None,
) -> Sample:
    """Write down everything that is known of P people in I photos, all people in each.

    Args:
        cast_world: the people in the record's world frame.
        photos: I photos.
        intrinsics: (I, 3, 3) px.
        world_to_camera: (I, 4, 4).
        box_img: (I * P, 4) px instead of the boxes of the photos.
    """
    num_images, num_people = len(photos), len(cast_world.betas)
    turn, shift = world_to_camera[:, None, :3, :3], world_to_camera[:, None, None, :3, 3]
    points_cam = cast_world.keypoints[None] @ turn.swapaxes(-1, -2) + shift  # (I, P, K, 3)
    size_wh = np.array([photo.image.shape[1::-1] for photo in photos])[:, None, None]
    points_img = project(points_cam, intrinsics[:, None])
    is_inside = ((points_img > -0.5) & (points_img < size_wh - 0.5)).all(axis=-1)
    is_inside &= points_cam[..., 2] > 0
    keypoints_img = np.concatenate([points_img, is_inside[..., None]], axis=-1)
    boxes = np.concatenate([photo.box_img for photo in photos]) if box_img is None else box_img
    visible = np.concatenate([photo.visible_fraction for photo in photos])
    return {
        "joint_set": JOINT_SET,
        "images": [photo.image for photo in photos],
        "intrinsics": intrinsics.astype(np.float32),
        "world_to_camera": world_to_camera.astype(np.float32),
        "image_of_view": np.repeat(np.arange(num_images), num_people),
        "person_of_view": np.tile(np.arange(num_people), num_images),
        "box_img": boxes.astype(np.float32),
        "keypoints_img": keypoints_img.reshape(-1, *keypoints_img.shape[2:]).astype(np.float32),
        "visible_fraction": visible.astype(np.float32),
        **labels_of_people(cast_world.rotmat, cast_world.betas, cast_world.transl),
        "keypoints_world": with_confidence(cast_world.keypoints),
        "is_self_intersecting": cast_world.is_self_intersecting,
    }


def labels_of_people(rotmat: np.ndarray, betas: np.ndarray, transl: np.ndarray) -> Sample:
    """Body labels of P people that are all known."""
    num = len(rotmat)
    return {
        "person_id": np.arange(num),
        "pose": axis_angle(rotmat),
        "betas": betas.astype(np.float32),
        "transl": transl.astype(np.float32),
        "has_pose": np.ones(num, bool),
        "has_betas": np.ones(num, bool),
        "gender": np.full(num, -1),
    }


def with_confidence(points: np.ndarray) -> np.ndarray:
    """(..., 3) to (..., 4) float32, confidence 1."""
    one = np.ones((*points.shape[:-1], 1))
    return np.concatenate([points, one], axis=-1).astype(np.float32)
