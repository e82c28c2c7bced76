"""Clips of poses without images: a person who moves from one drawn pose to the next, or walks.

Joint angles are interpolated between key poses by monotone cubics, so that no frame between two
poses within the limits leaves them. The root follows from the feet: whichever point of the feet is
lowest stands still on the floor, so a walk cycle walks and a squat goes down.
"""

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import gaussian_filter1d

from hmrkit.body.joints import LANDMARKS
from hmrkit.data.synth import poses
from hmrkit.data.synth.cast import Studio
from hmrkit.data.synth.people import FastBody
from hmrkit.data.synth.recipe import Recipe
from hmrkit.data.synth.records import JOINT_SET, labels_of_people, with_confidence
from hmrkit.types import Sample

_SECONDS_PER_POSE = (0.5, 1.4)
_WALK_SHARE = 0.4  # clips that walk or run
_FEET = [LANDMARKS[f"{side}_{part}"] for side in ("left", "right") for part in ("heel", "big_toe")]


def draw_motion(
    rng: np.random.Generator, studio: Studio, recipe: Recipe, size_hw: tuple[int, int]
) -> Sample:
    """Draw a clip; P = frames, level world, y up, floor at y = 0. ``size_hw`` plays no part."""
    num, body = max(2, recipe.num_frames), studio.body
    limit = recipe.shape_limit
    betas = np.clip(recipe.shape_sd * rng.standard_normal(10), -limit, limit)
    shape = np.repeat(betas[None], num, axis=0)
    seconds = np.arange(num) / max(recipe.frames_per_second, 1e-6)
    walks = rng.random() < _WALK_SHARE
    draw = _walk if walks else _change_poses
    rotmat = poses.angles_to_rotmat(draw(rng, seconds, recipe.pose_noise))
    rotmat[:, 0] = poses.angles_to_rotmat(_heading(rng, seconds, walks)) @ rotmat[:, 0]
    transl = _stand_on_feet(body, rotmat, shape)
    posed = body.pose(rotmat, shape, transl)
    return {
        "joint_set": JOINT_SET,
        "images": [],
        "image_of_view": np.zeros(0, np.int64),
        "person_of_view": np.zeros(0, np.int64),
        **labels_of_people(rotmat, shape, transl),
        "person_id": np.zeros(num, np.int64),  # the same person in every frame
        "time_s": seconds.astype(np.float32),
        "keypoints_world": with_confidence(posed.keypoints),
        "is_self_intersecting": studio.intersects(rotmat, shape),
    }


def _change_poses(rng: np.random.Generator, seconds: np.ndarray, noise: float) -> np.ndarray:
    """Joint angles (T, 24, 3), degrees, through drawn key poses."""
    num = int(np.ceil(seconds[-1] / _SECONDS_PER_POSE[0])) + 2
    key = poses.sample_angles(rng, num, noise)
    time = np.cumsum(rng.uniform(*_SECONDS_PER_POSE, num)) - _SECONDS_PER_POSE[1]
    return PchipInterpolator(time, key, axis=0)(seconds)


def _walk(rng: np.random.Generator, seconds: np.ndarray, noise: float) -> np.ndarray:
    """Joint angles (T, 24, 3), degrees, of a walk or run: a step, its mirror image, and so on."""
    name = "walk" if rng.random() < 0.7 else "run"
    step = poses.prototype(name)
    step = step * rng.uniform(0.7, 1.15) + 0.3 * noise * poses.noise_deg() * rng.normal(
        size=(24, 3)
    )
    passing = 0.5 * (step + poses.mirror_angles(step))
    swing = poses.prototype("passing")  # the foot of the free leg is lifted halfway
    period = rng.uniform(0.42, 0.62) if name == "walk" else rng.uniform(0.3, 0.4)  # s per step
    cycle = [step, passing + swing, poses.mirror_angles(step), passing + poses.mirror_angles(swing)]
    num = int(np.ceil(seconds[-1] / (0.5 * period))) + 6
    key = np.stack([cycle[i % 4] for i in range(num)])
    key = key + 0.15 * noise * poses.noise_deg() * rng.normal(size=key.shape)
    lower, upper = poses.joint_limits_deg()
    time = 0.5 * period * (np.arange(num) - 2 - rng.random())
    return PchipInterpolator(time, np.clip(key, lower, upper), axis=0)(seconds)


def _heading(rng: np.random.Generator, seconds: np.ndarray, walks: bool) -> np.ndarray:
    """Root angles (T, 3), degrees: a yaw that drifts smoothly."""
    num = int(np.ceil(seconds[-1])) + 3
    turns = rng.normal(0, 14 if walks else 25, num)
    yaw = rng.uniform(-180, 180) + np.cumsum(turns)
    angles = np.zeros((len(seconds), 3))
    angles[:, 1] = PchipInterpolator(np.arange(num) - 1, yaw)(seconds)
    return angles


def _stand_on_feet(body: FastBody, rotmat: np.ndarray, betas: np.ndarray) -> np.ndarray:
    """Translations (T, 3), m, that keep the lowest point of the feet where it is on the floor."""
    feet = body.points(rotmat, betas, _FEET)  # (T, 4, 3)
    height = feet[..., 1]
    # Soft choice of the point that carries the weight: no jump when it changes.
    weight = np.exp(-(height - height.min(axis=1, keepdims=True)) / 0.015)
    weight = weight / weight.sum(axis=1, keepdims=True)
    weight = 0.5 * (weight[1:] + weight[:-1])
    step = -((feet[1:] - feet[:-1]) * weight[..., None]).sum(axis=1)
    transl = np.zeros((len(feet), 3))
    transl[1:] = np.cumsum(step, axis=0)
    transl[:, [0, 2]] = gaussian_filter1d(transl[:, [0, 2]], 1.0, axis=0, mode="nearest")
    transl[:, 1] = -height.min(axis=1)
    return transl
