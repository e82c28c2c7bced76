"""Made-up people in a level world (y up, metres, floor at y = 0): pose, shape, clothes, place."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from hmrkit.data.synth import poses
from hmrkit.data.synth.intersections import SelfIntersection
from hmrkit.data.synth.looks import Anatomy, Look, draw_look, measure
from hmrkit.data.synth.people import FastBody, rotate
from hmrkit.data.synth.recipe import Recipe
from hmrkit.render.shading import vertex_normals


class Studio:
    """What every sample needs of a body model, made once per process."""

    def __init__(self, body: FastBody) -> None:
        self.body = body
        self.normals = vertex_normals(body.template, body.faces)  # (V, 3) of the template
        self.anatomy: Anatomy = measure(body)
        self.intersects = SelfIntersection(body, self.normals)


@dataclass(frozen=True)
class Cast:
    """P people; ``vertices`` are dressed, ``keypoints`` are the body's own."""

    rotmat: np.ndarray  # (P, 24, 3, 3) float64, the root's to the world
    betas: np.ndarray  # (P, 10)
    transl: np.ndarray  # (P, 3) m
    pelvis_rest: np.ndarray  # (P, 3) m, what the root turns about
    vertices: np.ndarray  # (P, V, 3) float32 m
    keypoints: np.ndarray  # (P, K, 3) float32 m, joint set "all"
    normals: np.ndarray  # (P, V, 3) float32
    looks: list[Look]
    is_self_intersecting: np.ndarray  # (P,) bool


def draw_cast(
    rng: np.random.Generator, studio: Studio, recipe: Recipe, root_yaw_deg: np.ndarray
) -> Cast:
    """Draw people who stand, sit or jump on the floor, each above the origin of the world.

    Args:
        rng: source of all randomness.
        studio: the body model.
        recipe: pose noise, shapes.
        root_yaw_deg: (P,) turn of each person about the vertical; 0 looks along +z.
    """
    num = len(root_yaw_deg)
    betas = np.clip(recipe.shape_sd * rng.standard_normal((num, 10)), *_pm(recipe.shape_limit))
    rotmat, is_crossed = draw_poses(rng, studio, recipe, betas)
    zero = np.zeros(num)
    turn = poses.angles_to_rotmat(np.stack([zero, root_yaw_deg, zero], axis=-1))
    rotmat[:, 0] = turn @ rotmat[:, 0]
    looks = [draw_look(rng, studio.anatomy) for _ in range(num)]
    return dress(studio, rotmat, betas, looks, is_crossed)


def _pm(limit: float) -> tuple[float, float]:
    return -limit, limit


def draw_poses(
    rng: np.random.Generator, studio: Studio, recipe: Recipe, betas: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one pose per shape (P, 10), again while it intersects itself, up to ``max_pose_tries``.

    Returns:
        Rotations (P, 24, 3, 3) of people who face +z, and the flags (P,) of those that still do.
    """
    num, tries = len(betas), max(1, recipe.max_pose_tries)
    angles = poses.sample_angles(rng, num * tries, recipe.pose_noise)
    candidates = poses.angles_to_rotmat(angles).reshape(num, tries, 24, 3, 3)
    rotmat = candidates[:, 0].copy()
    is_crossed = studio.intersects(rotmat, betas)
    for attempt in range(1, tries):  # most people are done after the first
        again = np.flatnonzero(is_crossed)
        if len(again) == 0:
            break
        rotmat[again] = candidates[again, attempt]
        is_crossed[again] = studio.intersects(rotmat[again], betas[again])
    return rotmat, is_crossed


def dress(
    studio: Studio,
    rotmat: np.ndarray,
    betas: np.ndarray,
    looks: list[Look],
    is_crossed: np.ndarray,
) -> Cast:
    """Pose people, put their clothes on and their lowest point on the floor."""
    body = studio.body
    zero = np.zeros((len(rotmat), 3))
    posed = body.pose(rotmat, betas, zero)
    thick = np.stack([look.thickness(body.template) for look in looks])  # (P, V)
    stand_off = thick[..., None] * studio.normals
    vertices = posed.vertices + rotate(posed.skinning, stand_off)
    transl = zero.copy()
    transl[:, 1] = -vertices[:, :, 1].min(axis=1)
    shift = transl[:, None].astype(np.float32)
    return Cast(
        rotmat=rotmat,
        betas=betas,
        transl=transl,
        pelvis_rest=body.joints_rest(betas)[:, 0].astype(np.float64),
        vertices=vertices + shift,
        keypoints=posed.keypoints + shift,
        normals=vertex_normals(vertices, body.faces),
        looks=looks,
        is_self_intersecting=is_crossed,
    )


def moved(cast: Cast, matrix: np.ndarray) -> Cast:
    """The cast in another frame.

    Args:
        cast: people in frame a.
        matrix: (4, 4) rigid motion, a to b, or (P, 4, 4), one per person.

    Returns:
        The same people in frame b; root rotation and translation follow.
    """
    rotation, shift = matrix[..., :3, :3], matrix[..., :3, 3]
    rotmat = cast.rotmat.copy()
    rotmat[:, 0] = rotation @ rotmat[:, 0]
    pivot = cast.pelvis_rest + cast.transl  # (P, 3)
    transl = np.einsum("...ij,...j->...i", rotation, pivot) + shift - cast.pelvis_rest
    turn = np.broadcast_to(rotation, (len(rotmat), 3, 3)).astype(np.float32).swapaxes(1, 2)
    offset = np.broadcast_to(shift, (len(rotmat), 3)).astype(np.float32)[:, None]
    return Cast(
        rotmat=rotmat,
        betas=cast.betas,
        transl=transl,
        pelvis_rest=cast.pelvis_rest,
        vertices=cast.vertices @ turn + offset,
        keypoints=cast.keypoints @ turn + offset,
        normals=cast.normals @ turn,
        looks=cast.looks,
        is_self_intersecting=cast.is_self_intersecting,
    )


def axis_angle(rotmat: np.ndarray) -> np.ndarray:
    """Rotations (P, 24, 3, 3) to axis-angle (P, 24, 3) float32."""
    vectors = Rotation.from_matrix(rotmat.reshape(-1, 3, 3)).as_rotvec()
    return vectors.reshape(*rotmat.shape[:-2], 3).astype(np.float32)
