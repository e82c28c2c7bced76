"""People inside a ring of calibrated cameras; the world is level, y up, floor at y = 0."""

import numpy as np

from hmrkit.data.synth import poses
from hmrkit.data.synth.cast import Studio, draw_cast, moved
from hmrkit.data.synth.recipe import Recipe
from hmrkit.data.synth.records import assemble
from hmrkit.data.synth.view import draw_place, take
from hmrkit.types import Sample

_RING = 0.55  # m from the middle, where several people stand


def draw_rig(
    rng: np.random.Generator, studio: Studio, recipe: Recipe, size_hw: tuple[int, int]
) -> Sample:
    """Draw people and ``recipe.num_cameras`` photos of them, all at the same moment."""
    low, high = recipe.num_people_rig
    num = max(1, int(rng.integers(low, high + 1)))
    cast = draw_cast(rng, studio, recipe, rng.uniform(-180, 180, num))
    onto_floor = np.tile(np.eye(4), (num, 1, 1))
    onto_floor[:, [0, 2], 3] = _ring(rng, num)
    cast = moved(cast, onto_floor)
    world_to_camera, intrinsics = _cameras(rng, recipe, cast.vertices, size_hw)
    place = draw_place(rng, recipe)
    photos = [
        take(rng, studio, moved(cast, matrix), place, matrix, camera, size_hw, recipe)
        for matrix, camera in zip(world_to_camera, intrinsics, strict=True)
    ]
    return assemble(cast, photos, intrinsics, world_to_camera)


def _ring(rng: np.random.Generator, num: int) -> np.ndarray:
    """Places (P, 2), x and z m: near the middle for one person, on a ring for several."""
    if num == 1:
        return rng.uniform(-0.5, 0.5, (1, 2))
    angle = 2 * np.pi * (np.arange(num) + rng.random()) / num
    radius = _RING * max(1.0, num / 3) * rng.uniform(1, 1.3)
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def _cameras(
    rng: np.random.Generator, recipe: Recipe, vertices: np.ndarray, size_hw: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """World-to-camera matrices (I, 4, 4) and intrinsics (I, 3, 3) px around people (P, V, 3) m."""
    num = max(1, recipe.num_cameras)
    low, high = vertices.min(axis=(0, 1)), vertices.max(axis=(0, 1))
    middle, size = (low + high) / 2, float((high - low).max())
    angle = 2 * np.pi * (np.arange(num) + rng.uniform(-0.25, 0.25, num) + rng.random()) / num
    distance = rng.uniform(2.5, 5.0, num) + size
    height = rng.uniform(0.6, 2.8, num)
    position = np.stack([distance * np.sin(angle), height, distance * np.cos(angle)], axis=-1)
    target = middle + 0.06 * size * rng.standard_normal((num, 3))
    roll = poses.angles_to_rotmat(
        np.stack(
            [np.zeros(num), np.zeros(num), 0.4 * recipe.roll_sd_deg * rng.normal(size=num)], -1
        )
    )
    rotation = roll @ look_at(position, target)
    world_to_camera = np.tile(np.eye(4), (num, 1, 1))
    world_to_camera[:, :3, :3] = rotation
    world_to_camera[:, :3, 3] = -np.einsum("iab,ib->ia", rotation, position)
    coverage = rng.uniform(max(recipe.coverage[0], 0.5), recipe.coverage[1], num)
    away = np.linalg.norm(position - middle, axis=-1)
    focal_px = coverage * min(size_hw) * (away - 0.4 * size) / size
    intrinsics = np.tile(np.eye(3), (num, 1, 1))
    intrinsics[:, [0, 1], [0, 1]] = focal_px[:, None]
    intrinsics[:, 0, 2] = (size_hw[1] - 1) / 2 + 0.02 * size_hw[1] * rng.standard_normal(num)
    intrinsics[:, 1, 2] = (size_hw[0] - 1) / 2 + 0.02 * size_hw[0] * rng.standard_normal(num)
    return world_to_camera, intrinsics


def look_at(position: np.ndarray, target: np.ndarray) -> np.ndarray:
    """World-to-camera rotations (I, 3, 3) of upright cameras that look from (I, 3) at (I, 3)."""
    forward = target - position
    forward = forward / np.linalg.norm(forward, axis=-1, keepdims=True)
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right = right / np.linalg.norm(right, axis=-1, keepdims=True)
    down = np.cross(forward, right)
    return np.stack([right, down, forward], axis=-2)
