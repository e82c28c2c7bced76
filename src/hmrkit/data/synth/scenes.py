"""Several people on one floor in one full image."""

import numpy as np

from hmrkit.data.synth import poses
from hmrkit.data.synth.cast import Studio, draw_cast, moved
from hmrkit.data.synth.recipe import Recipe
from hmrkit.data.synth.records import assemble
from hmrkit.data.synth.view import draw_place, take
from hmrkit.types import Sample

_APART = 0.75  # m between people, at least
_TALL = 1.7  # m
_CANDIDATES = 60  # places tried per person


def draw_scene(
    rng: np.random.Generator, studio: Studio, recipe: Recipe, size_hw: tuple[int, int]
) -> Sample:
    """Draw a group of people before one camera; the record's world is the camera frame.

    Everyone stands where the camera can see the middle of the body, unless the room is too small
    for the number drawn: then there are fewer. People hide each other and may leave the image.
    """
    height, width = size_hw
    focal_px = float(rng.uniform(0.7, 0.6 * recipe.focal[1])) * max(size_hw)
    intrinsics = np.array(
        [[focal_px, 0, (width - 1) / 2], [0, focal_px, (height - 1) / 2], [0, 0, 1]]
    )
    nearest = 0.8 * focal_px * _TALL / height  # where 0.8 of a standing person fill the height
    level_to_camera = _hold_camera(rng, recipe, 1.6 * nearest)
    spots = _spots(rng, recipe, level_to_camera, intrinsics, size_hw, nearest)
    cast = draw_cast(rng, studio, recipe, rng.uniform(-recipe.yaw_deg, recipe.yaw_deg, len(spots)))
    onto_spots = np.tile(np.eye(4), (len(spots), 1, 1))
    onto_spots[:, [0, 2], 3] = spots
    cast_cam = moved(moved(cast, onto_spots), level_to_camera)
    place = draw_place(rng, recipe)
    photo = take(rng, studio, cast_cam, place, level_to_camera, intrinsics, size_hw, recipe)
    return assemble(cast_cam, [photo], intrinsics[None], np.eye(4)[None])


def _hold_camera(rng: np.random.Generator, recipe: Recipe, depth: float) -> np.ndarray:
    """Level world to camera (4, 4): above the origin, looks along -z at people ``depth`` m away."""
    camera_height = rng.uniform(0.9, 2.6)
    pitch = np.rad2deg(np.arctan2(camera_height - _TALL / 2, depth))
    pitch += 0.2 * recipe.pitch_sd_deg * rng.normal()
    tilt = poses.angles_to_rotmat(np.array([pitch, 0.0, 0.5 * rng.normal() * recipe.roll_sd_deg]))
    level_to_camera = np.eye(4)
    level_to_camera[:3, :3] = tilt @ poses.FACING_CAMERA
    level_to_camera[:3, 3] = -level_to_camera[:3, :3] @ np.array([0.0, camera_height, 0.0])
    return level_to_camera


def _spots(
    rng: np.random.Generator,
    recipe: Recipe,
    level_to_camera: np.ndarray,
    intrinsics: np.ndarray,
    size_hw: tuple[int, int],
    nearest: float,
) -> np.ndarray:
    """Places (P, 2), x and z m on the floor, apart from each other and in view."""
    wanted = int(rng.integers(recipe.num_people[0], recipe.num_people[1] + 1))
    depth = nearest * rng.uniform(*recipe.distance, (_CANDIDATES, wanted))
    column = rng.uniform(0.06, 0.94, depth.shape) * size_hw[1]
    x = (column - intrinsics[0, 2]) / intrinsics[0, 0] * depth
    candidate = np.stack([x, -depth], axis=-1)  # (_CANDIDATES, wanted, 2)
    belly = np.stack([x, np.full_like(x, 0.9), -depth], axis=-1)
    ray = (belly @ level_to_camera[:3, :3].T + level_to_camera[:3, 3]) @ intrinsics.T
    pixel = ray[..., :2] / ray[..., 2:]
    is_seen = ((pixel > 0) & (pixel < [size_hw[1], size_hw[0]])).all(axis=-1) & (ray[..., 2] > 1)
    spots = np.empty((0, 2))
    for person in range(wanted):
        gap = np.linalg.norm(candidate[:, person, None] - spots, axis=-1)
        is_free = is_seen[:, person] & (gap > _APART).all(axis=-1)
        if is_free.any():
            spots = np.concatenate([spots, candidate[is_free.argmax(), person][None]])
    return spots if len(spots) else candidate[0, :1]
