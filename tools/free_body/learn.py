"""What is fitted to samples: the shape space and the pose correctives."""

from dataclasses import dataclass

import numpy as np

from free_body.deform import (
    Deformer,
    apply,
    blended,
    compose,
    mirror_pose,
    tree_transforms,
)
from free_body.skeleton import MIRROR_POSITION, PARENTS, neighbour_average

RIDGE = 0.2  # of the correctives, in units of squared rotation entries summed over the poses
DAMPING = 0.1  # where LBS nearly flattens the skin, huge rest-frame offsets hardly move it
SMALLEST_BLOCK = 0.0002  # m per unit; weaker blocks are dropped


def volume(points: np.ndarray, faces: np.ndarray) -> float:
    """Volume in cubic metres enclosed by a closed mesh."""
    corner = points[faces]
    return float((corner[:, 0] * np.cross(corner[:, 1], corner[:, 2])).sum() / 6)


def shape_space(
    bodies: np.ndarray, faces: np.ndarray, num: int = 10
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean (V, 3), components (V, 3, num) of unit variance, explained variance ratio (num,).

    Signs: beta 0 > 0 is taller, the others > 0 have more volume.
    """
    mean = bodies.mean(0)
    flat = (bodies - mean).reshape(len(bodies), -1)
    variance, vectors = np.linalg.eigh(flat @ flat.T / (len(flat) - 1))
    variance, vectors = variance[::-1], vectors[:, ::-1][:, :num]
    components = (flat.T @ vectors / np.sqrt(len(flat) - 1)).reshape(*mean.shape, num)
    growth = [volume(mean + part, faces) for part in np.moveaxis(components, 2, 0)]
    growth = np.array(growth) - volume(mean, faces)
    growth[0] = np.ptp(mean[:, 1] + components[:, 1, 0]) - np.ptp(mean[:, 1])
    return mean, components * np.sign(growth), variance[:num] / variance.sum()


def encode(bodies: np.ndarray, mean: np.ndarray, components: np.ndarray) -> np.ndarray:
    """Least-squares betas (N, K) of bodies (N, V, 3)."""
    basis = components.reshape(-1, components.shape[2])
    return np.linalg.solve(basis.T @ basis, basis.T @ (bodies - mean).reshape(len(bodies), -1).T).T


@dataclass
class Poser:
    """LBS body in the T pose next to the deformer it shall imitate.

    ``keep`` (n,) are vertices of the full mesh; ``template`` (n, 3), ``weights`` (n, 24) and
    ``joints`` (24, 3) belong to the T pose; ``sculpted`` (skin, 3) is the full mesh in the A pose
    and ``a_to_t`` (24, 3, 4) takes its parts to the T pose.
    """

    keep: np.ndarray
    template: np.ndarray
    weights: np.ndarray
    joints: np.ndarray
    sculpted: np.ndarray
    a_to_t: np.ndarray
    deformer: Deformer

    def residuals(self, poses: np.ndarray, damping: float = 0.0) -> np.ndarray:
        """What LBS lacks (N, n, 3), in the rest frame, for local rotations (N, 24, 3, 3).

        Taken relative to the T pose, where a linear model of rotations has nothing to give.
        ``damping`` > 0 solves for the offset by regularised least squares.
        """
        detail = self.deformer.detail(self.sculpted)
        rows = []
        for rotations in np.concatenate([np.tile(np.eye(3), (1, 24, 1, 1)), poses]):
            transforms = tree_transforms(rotations, self.joints)
            wanted = self.deformer.pose(self.sculpted, compose(transforms, self.a_to_t), detail)
            blend = blended(transforms, self.weights)
            gap = wanted[self.keep] - apply(blend, self.template)
            transposed = np.swapaxes(blend[:, :, :3], 1, 2)
            system = transposed @ blend[:, :, :3] + damping * np.eye(3)
            solved = np.linalg.solve(system, transposed @ gap[..., None])[..., 0]
            rows.append((1 + damping) * solved)
        return np.stack(rows[1:]) - rows[0]

    def distances(self, poses: np.ndarray, offsets: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Distance (N, n) in metres between two rest-frame offsets (N, n, 3) once posed."""
        rows = []
        for rotations, gap in zip(poses, offsets - wanted, strict=True):
            blend = blended(tree_transforms(rotations, self.joints), self.weights)
            blend[:, :, 3] = 0
            rows.append(np.linalg.norm(apply(blend, gap), axis=1))
        return np.stack(rows)


def pose_features(rotations: np.ndarray) -> np.ndarray:
    """SMPL's pose features (N, 207): R - I of every joint but the root, row by row."""
    return (rotations[:, 1:] - np.eye(3)).reshape(len(rotations), -1)


def active_joints(weights: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Mask (V, 24) of joints that may correct a vertex.

    Joint j may where the weight of its subtree is strictly between 0 and 1, or within three
    rings of that.
    """
    subtree = weights.copy()
    for child in range(23, 0, -1):
        subtree[:, PARENTS[child]] += subtree[:, child]
    active = (subtree > 1e-4) & (subtree < 1 - 1e-4)
    active[:, 0] = False
    average = neighbour_average(edges, len(weights))
    for _ in range(3):
        active |= (average @ active.astype(float)) > 0
    return active


def fit_correctives(features: np.ndarray, offsets: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Ridge regression (V, 3, 207) of offsets (N, V, 3) on the features of active joints only."""
    num = offsets.shape[1]
    posedirs = np.zeros((num, 3, 23, 9))
    gram = features.T @ features
    moment = features.T @ offsets.reshape(len(offsets), -1)
    moment = moment.reshape(207, num, 3)
    patterns, pattern_of = np.unique(active[:, 1:], axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        if not pattern.any():
            continue
        columns = np.flatnonzero(np.repeat(pattern, 9))
        members = np.flatnonzero(pattern_of.ravel() == number)
        system = gram[np.ix_(columns, columns)] + RIDGE * np.eye(len(columns))
        solved = np.linalg.solve(system, moment[np.ix_(columns, members)].reshape(len(columns), -1))
        blocks = solved.reshape(-1, 9, len(members), 3).transpose(2, 3, 0, 1)
        posedirs[members[:, None], :, np.flatnonzero(pattern)[None]] = blocks.transpose(0, 2, 1, 3)
    weak = np.abs(posedirs).max(axis=(1, 3)) < SMALLEST_BLOCK
    posedirs[np.broadcast_to(weak[:, None, :, None], posedirs.shape)] = 0
    return posedirs.reshape(num, 3, 207)


def learn_correctives(
    poser: Poser, poses: np.ndarray, partner: np.ndarray, num_half: int, edges: np.ndarray
) -> np.ndarray:
    """Correctives (num_half, 3, 207) of the left half and midline.

    Every pose also serves as its mirror image, which makes the midline symmetric by itself.

    Args:
        poser: the body; its first ``num_half`` vertices are the left half and the midline.
        poses: (N, 24, 3, 3) local rotations.
        partner: (n,) mirror partner among the poser's vertices.
        num_half: number of vertices to fit.
        edges: (E, 2) edges among the poser's vertices.
    """
    offsets = poser.residuals(poses, DAMPING)
    mirrored = offsets[:, partner[:num_half]] * MIRROR_POSITION
    both = np.concatenate([offsets[:, :num_half], mirrored])
    features = pose_features(np.concatenate([poses, mirror_pose(poses)]))
    return fit_correctives(features, both, active_joints(poser.weights, edges)[:num_half])
