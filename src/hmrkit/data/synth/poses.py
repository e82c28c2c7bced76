"""Poses of made-up people: hand-written prototypes, mixed, disturbed and clipped to joint limits.

Angles are degrees about the axes of the T pose (x to the body's left, y up, z forward), composed as
Rz Ry Rx per joint. In these axes hips and trunk bend forward by -x and +x, knees bend by +x, the
left arm comes down by -z and forward by -y, and the left elbow bends by -y. The right side is the
mirror image: y and z change their sign. Everything is vectorised over people.
"""

from functools import cache

import numpy as np

from hmrkit.body.joints import flip_permutation, index
from hmrkit.data.synth.prototypes import LIMITS_DEG, NOISE_DEG, PROTOTYPES, Angles

_LEGS = [index("pelvis", "smpl24")] + [
    index(f"{side}_{part}", "smpl24")
    for side in ("left", "right")
    for part in ("hip", "knee", "ankle", "foot")
]
_MIRROR_SIGN = np.array([1.0, -1.0, -1.0])
FACING_CAMERA = np.diag([1.0, -1.0, -1.0])  # y up, z forward -> y down, looking at the camera


def _row(angles: Angles) -> np.ndarray:
    """A table of named angles as (24, 3); right-hand entries are given in left-hand axes."""
    row = np.zeros((24, 3))
    for name, value in angles.items():
        sign = _MIRROR_SIGN if name.startswith("right_") else 1.0
        row[index(name, "smpl24")] = np.asarray(value) * sign
    return row


def _both_sides(angles: Angles) -> Angles:
    """Add the right side, in left-hand axes, to a table of the left side and the midline."""
    right = {name.replace("left_", "right_"): value for name, value in angles.items()}
    return angles | right


@cache
def _table() -> tuple[np.ndarray, np.ndarray]:
    """Angles (N, 24, 3) of the prototypes, degrees, and their probabilities (N,)."""
    weight = np.array([w for w, _ in PROTOTYPES.values()])
    return np.stack([_row(angles) for _, angles in PROTOTYPES.values()]), weight / weight.sum()


def prototype(name: str) -> np.ndarray:
    """Joint angles (24, 3), degrees, of a prototype."""
    return _table()[0][list(PROTOTYPES).index(name)].copy()


@cache
def noise_deg() -> np.ndarray:
    """Standard deviations (24, 3), degrees, of the disturbance."""
    return np.abs(_row(_both_sides(NOISE_DEG)))


@cache
def joint_limits_deg() -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper limits (24, 3), degrees about x, y, z."""
    table = _both_sides(LIMITS_DEG)  # type: ignore[arg-type]
    first = _row({name: limit[0::2] for name, limit in table.items()})  # type: ignore[misc]
    second = _row({name: limit[1::2] for name, limit in table.items()})  # type: ignore[misc]
    return np.minimum(first, second), np.maximum(first, second)


def mirror_angles(angles_deg: np.ndarray) -> np.ndarray:
    """Swap left and right of joint angles (..., 24, 3), degrees."""
    return angles_deg[..., flip_permutation("smpl24"), :] * _MIRROR_SIGN


def mirror_rotmat(rotmat: np.ndarray) -> np.ndarray:
    """Swap left and right of joint rotations (..., 24, 3, 3)."""
    sign = np.outer([-1.0, 1.0, 1.0], [-1.0, 1.0, 1.0])
    return rotmat[..., flip_permutation("smpl24"), :, :] * sign


def angles_to_rotmat(angles_deg: np.ndarray) -> np.ndarray:
    """Angles (..., 3), degrees about x, y, z, to Rz Ry Rx (..., 3, 3)."""
    sin, cos = np.sin(np.deg2rad(angles_deg)), np.cos(np.deg2rad(angles_deg))
    sx, sy, sz = np.moveaxis(sin, -1, 0)
    cx, cy, cz = np.moveaxis(cos, -1, 0)
    rotmat = np.empty((*angles_deg.shape, 3))
    rotmat[..., 0, 0] = cz * cy
    rotmat[..., 0, 1] = cz * sy * sx - sz * cx
    rotmat[..., 0, 2] = cz * sy * cx + sz * sx
    rotmat[..., 1, 0] = sz * cy
    rotmat[..., 1, 1] = sz * sy * sx + cz * cx
    rotmat[..., 1, 2] = sz * sy * cx - cz * sx
    rotmat[..., 2, 0] = -sy
    rotmat[..., 2, 1] = cy * sx
    rotmat[..., 2, 2] = cy * cx
    return rotmat


def sample_angles(rng: np.random.Generator, num: int, noise_scale: float = 1.0) -> np.ndarray:
    """Draw joint angles of ``num`` people: two prototypes mixed, disturbed, within the limits.

    Args:
        rng: source of all randomness.
        num: number of people.
        noise_scale: factor on ``NOISE_DEG``.

    Returns:
        (num, 24, 3) degrees about x, y, z; the pelvis row is the lean of a person who faces +z.
    """
    table, probability = _table()
    choice = rng.choice(len(table), size=(num, 2), p=probability)
    pair = table[choice]  # (num, 2, 24, 3)
    is_mirrored = rng.random((num, 2)) < 0.5
    pair = np.where(is_mirrored[..., None, None], mirror_angles(pair), pair)
    share = np.repeat(rng.beta(0.6, 0.6, (num, 1)), 24, axis=1)  # (num, 24)
    share[:, _LEGS] = rng.beta(0.4, 0.4, (num, 1))
    mixed = pair[:, 0] * share[..., None] + pair[:, 1] * (1 - share[..., None])
    noise = noise_deg() * rng.standard_normal((num, 24, 3))
    lower, upper = joint_limits_deg()
    return np.clip(mixed + noise_scale * noise, lower, upper)


def sample_tilt(
    rng: np.random.Generator,
    num: int,
    pitch_mean_deg: float = 5.0,
    pitch_sd_deg: float = 12.0,
    roll_sd_deg: float = 6.0,
) -> np.ndarray:
    """Draw how cameras are held: rotations (num, 3, 3), a level camera's axes to the tilted one's.

    Pitch is downward. Both angles are normal. ``tilt @ FACING_CAMERA @ turn @ lean`` is the root
    rotation, in camera axes, of a person who turned by ``turn`` about the vertical.
    """
    pitch = rng.normal(pitch_mean_deg, pitch_sd_deg, num)
    roll = rng.normal(0, roll_sd_deg, num)
    return angles_to_rotmat(np.stack([pitch, np.zeros(num), roll], axis=-1))


def chordal_mean(rotmat: np.ndarray) -> np.ndarray:
    """Rotations (3, 3) nearest to the arithmetic mean over the first axis of (N, ..., 3, 3)."""
    u, _, vt = np.linalg.svd(rotmat.mean(axis=0))
    sign = np.ones(u.shape[:-1])
    sign[..., -1] = np.linalg.det(u @ vt)
    return (u * sign[..., None, :]) @ vt


def mean_pose(seed: int = 0, num: int = 20000, noise_scale: float = 1.0) -> np.ndarray:
    """The sampler's chordal mean pose (24, 3, 3), symmetric; the root faces the camera."""
    rng = np.random.default_rng(seed)
    pose = angles_to_rotmat(sample_angles(rng, num, noise_scale))
    pose[:, 0] = sample_tilt(rng, num) @ FACING_CAMERA @ pose[:, 0]
    return chordal_mean(np.concatenate([pose, mirror_rotmat(pose)]))


def joint_angles_deg(rotmat: np.ndarray) -> np.ndarray:
    """The inverse of ``angles_to_rotmat``: rotations (..., 3, 3) to degrees (..., 3)."""
    x = np.arctan2(rotmat[..., 2, 1], rotmat[..., 2, 2])
    y = -np.arcsin(np.clip(rotmat[..., 2, 0], -1, 1))
    z = np.arctan2(rotmat[..., 1, 0], rotmat[..., 0, 0])
    return np.rad2deg(np.stack([x, y, z], axis=-1))
