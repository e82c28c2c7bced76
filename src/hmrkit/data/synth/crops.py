"""One person in one square image, cut from a larger photo that is never drawn.

The camera is that of the full photo (focal length and distance from it), with the exact intrinsics
of the part that is drawn. The image is wider than the box by ``Recipe.crop_margin``, so that a cut
of 1.2 times the box can still be turned, scaled and shifted without empty corners.
"""

import numpy as np

from hmrkit.data.synth import poses
from hmrkit.data.synth.cast import Studio, draw_cast, moved
from hmrkit.data.synth.people import bounds
from hmrkit.data.synth.recipe import Recipe
from hmrkit.data.synth.records import assemble
from hmrkit.data.synth.view import draw_place, take
from hmrkit.types import Sample


def draw_crop(
    rng: np.random.Generator, studio: Studio, recipe: Recipe, size_hw: tuple[int, int]
) -> Sample:
    """Draw one person; the record's world is the camera frame.

    Raises:
        ValueError: if the image is not square.
    """
    if size_hw[0] != size_hw[1]:
        raise ValueError(f"crops are square, image_size {list(size_hw)} is not; give one number")
    cast = draw_cast(rng, studio, recipe, rng.uniform(-recipe.yaw_deg, recipe.yaw_deg, 1))
    tilt = poses.sample_tilt(
        rng, 1, recipe.pitch_mean_deg, recipe.pitch_sd_deg, recipe.roll_sd_deg
    )[0]
    level_to_camera = np.eye(4)
    level_to_camera[:3, :3] = tilt @ poses.FACING_CAMERA
    level_to_camera[:3, 3] = _person_before_camera(rng, cast.vertices[0], level_to_camera, recipe)
    cast_cam = moved(cast, level_to_camera)

    points = cast_cam.vertices[0, :, :2] / cast_cam.vertices[0, :, 2:]
    box = _box(rng, points, recipe.truncation_probability)  # at focal length 1
    side = float(rng.uniform(*recipe.crop_margin)) * float((box[1] - box[0]).max())
    spare = side - (box[1] - box[0])
    center = box.mean(axis=0) + rng.uniform(-0.35, 0.35, 2) * spare
    focal_px = size_hw[0] / side
    intrinsics = np.diag([focal_px, focal_px, 1.0])
    intrinsics[:2, 2] = (size_hw[0] - 1) / 2 - focal_px * center
    place = draw_place(rng, recipe, recipe.ground_probability)
    photo = take(rng, studio, cast_cam, place, level_to_camera, intrinsics, size_hw, recipe)
    box_img = (box * focal_px + intrinsics[:2, 2]).reshape(1, 4)
    return assemble(cast_cam, [photo], intrinsics[None], np.eye(4)[None], box_img)


def _person_before_camera(
    rng: np.random.Generator, vertices: np.ndarray, level_to_camera: np.ndarray, recipe: Recipe
) -> np.ndarray:
    """Translation (3,) m that puts a person (V, 3) at a distance, off the photo's middle."""
    turned = vertices @ level_to_camera[:3, :3].T
    low, high = bounds(turned)
    focal = rng.uniform(*recipe.focal)
    coverage = rng.uniform(*recipe.coverage)
    height = max(high[1] - low[1], high[0] - low[0])
    distance = max(focal * height / coverage, high[2] - low[2] + 0.3)
    room = (1 - coverage) / (2 * focal)  # tangent of the angle, so the person stays in the photo
    ray = np.array([*rng.uniform(-room, room, 2), 1.0])
    return distance * ray - (low + high) / 2


def _box(rng: np.random.Generator, points: np.ndarray, truncation: float) -> np.ndarray:
    """Corners (2, 2) of the box around points (V, 2), or around their upper part."""
    is_cut, share = rng.random() < truncation, rng.uniform(0.4, 0.7)
    low, high = bounds(points)
    if is_cut:
        upper = points[points[:, 1] < low[1] + share * (high[1] - low[1])]
        low, high = bounds(upper)
    return np.stack([low, high]).astype(np.float64)
