"""Cheap test whether a posed body runs through itself.

Places on the limbs are tested against balls that fill the body. Each ball touches the skin of the
template from inside (the largest such ball at its place: Ma et al. 2012, "3D medial axis point
approximation using nearest neighbors and the normal field", shrinking ball) and moves with the
bones around it. Segments that share a joint may fold onto each other, as calf and thigh do;
touching, as of a hand that rests on the hip, does not count either.

Held against winding numbers of the whole mesh on 300 drawn poses: 98 % of the flagged do intersect;
81 % of the poses with a limb over 8 mm deep are found, 95 % of those over 20 mm.
"""

import numpy as np

from hmrkit.body.joints import SMPL_PARENTS, names
from hmrkit.data.synth.people import FastBody

_GRID = 0.045  # m between the places tested
_FAR = 0.04  # m in the T pose: nearer places are neighbours
_MIN_RADIUS = 0.016  # m, thinner balls only cost time
_SPACING = 0.4  # least distance of two balls, in radii of the larger
_TRUNK = ("pelvis", "spine1", "spine2", "spine3", "left_collar", "right_collar")
_ENDS = {"neck": "head", "foot": "ankle", "hand": "wrist"}  # moves with, for our purpose


def segment_of_joint() -> tuple[list[str], np.ndarray]:
    """Rigid segments by name, and for each of the 24 joints the segment that hangs on it."""
    joint_names = names("smpl24")
    owner = ["trunk" if name in _TRUNK else name for name in joint_names]
    for end, other in _ENDS.items():
        owner = [name.replace(end, other) for name in owner]
    segments = sorted(set(owner))
    return segments, np.array([segments.index(name) for name in owner])


def may_touch() -> np.ndarray:
    """(S, S) bool: the same segment, or two that share a joint."""
    segments, segment = segment_of_joint()
    touch = np.eye(len(segments), dtype=bool)
    for joint, parent in enumerate(SMPL_PARENTS):
        if parent >= 0:
            touch[segment[joint], segment[parent]] = touch[segment[parent], segment[joint]] = True
    return touch


class SelfIntersection:
    """The detector of one body model."""

    def __init__(self, body: FastBody, normals: np.ndarray) -> None:
        """Fill the template with balls.

        Args:
            body: the body.
            normals: (V, 3) outward unit normals of its template.
        """
        segments, segment_of_bone = segment_of_joint()
        segment = segment_of_bone[body.weights.argmax(axis=1)]
        skin = body.template
        is_limb = ~np.isin(segment, [segments.index("trunk"), segments.index("head")])
        limb = np.flatnonzero(is_limb)
        place = limb[_spread(skin[limb], _GRID)]
        ball, radius, touch = _balls(skin, normals, _spread(skin, 0.02))
        is_pure = segment[touch[:, 0]] == segment[touch[:, 1]]
        ball, radius, touch = ball[is_pure], radius[is_pure], touch[is_pure]
        kept = _cover(ball, radius)
        ball, radius, touch = ball[kept], radius[kept], touch[kept]
        self._body, self._num_places = body, len(place)
        self._weights = np.concatenate([body.weights[place], body.weights[touch].mean(axis=1)])
        dirs = body.shape_dirs.reshape(-1, 3, 10)
        self._rest = np.concatenate([skin[place], ball])
        self._dirs = np.concatenate([dirs[place], dirs[touch].mean(axis=1)]).reshape(-1, 10)
        self._radius = radius
        gap = np.linalg.norm(skin[place][:, None] - ball, axis=-1) - radius
        is_neighbour = may_touch()[segment[place]][:, segment[touch[:, 0]]]
        self._allowance = np.where(is_neighbour | (gap < _FAR), np.inf, 0).astype(np.float32)

    def __call__(self, rotmat: np.ndarray, betas: np.ndarray) -> np.ndarray:
        """Which of P people intersect themselves.

        Args:
            rotmat: (P, 24, 3, 3).
            betas: (P, 10).

        Returns:
            (P,) bool.
        """
        return self.depth(rotmat, betas) > 0

    def depth(self, rotmat: np.ndarray, betas: np.ndarray) -> np.ndarray:
        """How deep, (P,) m, a limb reaches into a ball at most; negative = clear."""
        num = len(rotmat)
        bones, _ = self._body.bone_transforms(rotmat, betas, np.zeros((num, 3)))
        rest = self._rest + (betas.astype(np.float32) @ self._dirs.T).reshape(num, -1, 3)
        blended = (self._weights @ bones.reshape(num, 24, 12)).reshape(num, -1, 3, 4)
        posed = np.einsum("pnij,pnj->pni", blended[..., :3], rest) + blended[..., 3]
        place, ball = np.split(posed, [self._num_places], axis=1)
        # (r^2 - |p - b|^2) / 2r, which is r - |p - b| to first order, as one matrix product
        one = np.ones_like(place[..., :1])
        left = np.concatenate([place, one, (place**2).sum(-1, keepdims=True)], axis=-1)
        constant = self._radius**2 - (ball**2).sum(-1)
        right = [2 * ball, constant[..., None], np.full_like(ball[..., :1], -1)]
        right = np.concatenate(right, axis=-1) / (2 * self._radius[:, None])
        inside = left @ right.swapaxes(1, 2)
        inside -= self._allowance
        return inside.reshape(num, -1).max(axis=1)


def _spread(points: np.ndarray, grid: float) -> np.ndarray:
    """Indices of one point per cell of a grid."""
    cell = np.floor(points / grid).astype(np.int64)
    return np.sort(np.unique(cell, axis=0, return_index=True)[1])


def _balls(
    skin: np.ndarray, normals: np.ndarray, start: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Largest balls inside the skin that touch it at ``start``: centres, radii, touch points."""
    points, inward = skin[start], -normals[start]
    # |q - p|^2 / (2 (q - p) . n) is the radius of the ball through q that touches the skin at p
    ahead = (skin @ inward.T).T - (points * inward).sum(-1)[:, None]
    squared = (points**2).sum(-1)[:, None] + (skin**2).sum(-1) - 2 * points @ skin.T
    radius = np.where(ahead > 1e-3, squared / (2 * np.maximum(ahead, 1e-3)), np.inf)
    other = radius.argmin(axis=1)
    radius = radius[np.arange(len(start)), other]
    return points + radius[:, None] * inward, radius, np.stack([start, other], axis=1)


def _cover(ball: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Indices of balls, largest first, that keep their distance; at build time only."""
    order = np.argsort(-radius, kind="stable")
    kept: list[int] = []
    for i in order[radius[order] > _MIN_RADIUS]:
        gap = np.linalg.norm(ball[kept] - ball[i], axis=1)
        if not (gap < _SPACING * radius[kept]).any():
            kept.append(int(i))
    return np.array(kept)
