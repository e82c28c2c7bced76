"""Posed meshes and named joints of a few people, in plain NumPy.

The same function as ``hmrkit.body.smpl.SMPL`` (a test holds them together), for one to a few people
at a time on one core: pose correctives are a sparse matrix, and no call waits for torch.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import sparse

from hmrkit.body.joints import SOURCES, names

if TYPE_CHECKING:
    from hmrkit.body.smpl import BodyData


class Posed(NamedTuple):
    """Result of ``FastBody.pose`` for P people."""

    vertices: np.ndarray  # (P, V, 3) float32 m
    keypoints: np.ndarray  # (P, K, 3) float32 m, joint set "all"
    skinning: np.ndarray  # (P, V, 3, 3) float32, what turns a rest-pose direction at each vertex
    bones: np.ndarray  # (P, 24, 3, 4) float32, what moves rest-pose points with each bone


class FastBody:
    """Linear blend skinning of a body model given as arrays."""

    def __init__(self, data: "BodyData") -> None:
        self.name = data.name
        self.template = np.asarray(data.v_template, np.float32)
        num = len(self.template)
        self.faces = np.asarray(data.faces, np.int64)
        self.weights = np.asarray(data.weights, np.float32)
        self.shape_dirs = np.asarray(data.shapedirs, np.float32)[..., :10].reshape(num * 3, 10)
        self._pose_dirs = sparse.csr_matrix(np.asarray(data.posedirs, np.float32).reshape(-1, 207))
        regressor = _dense(data.J_regressor)
        self.joints_template = (regressor @ self.template).astype(np.float32)
        shape_dirs = np.asarray(data.shapedirs, np.float64)[..., :10].reshape(num, 30)
        self._joints_shape = (regressor @ shape_dirs).reshape(-1, 10).astype(np.float32)
        self._levels = _tree_levels(np.asarray(data.parents))
        self._parents = np.asarray(data.parents)
        self._from_joint, self._from_vertex = _keypoint_sources(data)

    def joints_rest(self, betas: np.ndarray) -> np.ndarray:
        """Rest joints (P, 24, 3), m, of shapes (P, 10)."""
        moved = (self._joints_shape @ betas.T).T.reshape(len(betas), -1, 3)
        return self.joints_template + moved.astype(np.float32)

    def bone_transforms(
        self, rotmat: np.ndarray, betas: np.ndarray, transl: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Forward kinematics.

        Args:
            rotmat: (P, 24, 3, 3) relative rotations, the root's to the frame of the result.
            betas: (P, 10).
            transl: (P, 3) m.

        Returns:
            Transforms (P, 24, 3, 4) that act on rest-pose points, and joints (P, 24, 3), m.
        """
        rest = self.joints_rest(betas)
        rotation = rotmat.astype(np.float32).copy()
        joints = rest.copy()
        for level in self._levels:  # one step per depth of the tree, not per joint
            parent = self._parents[level]
            offset = rest[:, level] - rest[:, parent]
            joints[:, level] = joints[:, parent] + rotate(rotation[:, parent], offset)
            rotation[:, level] = rotation[:, parent] @ rotation[:, level]
        joints = joints + transl[:, None].astype(np.float32)
        shift = joints - rotate(rotation, rest)
        return np.concatenate([rotation, shift[..., None]], axis=-1), joints

    def pose(self, rotmat: np.ndarray, betas: np.ndarray, transl: np.ndarray) -> Posed:
        """Vertices and keypoints of P people; arguments as ``bone_transforms``."""
        num = len(rotmat)
        bones, joints = self.bone_transforms(rotmat, betas, transl)
        feature = (rotmat[:, 1:] - np.eye(3)).reshape(num, 207).astype(np.float32)
        rest = self.shape_dirs @ betas.T.astype(np.float32) + self._pose_dirs @ feature.T
        rest = rest.T.reshape(num, -1, 3) + self.template
        blended = (self.weights @ bones.reshape(num, 24, 12)).reshape(num, -1, 3, 4)
        skinning = blended[..., :3]
        vertices = rotate(skinning, rest) + blended[..., 3]
        flat = vertices.transpose(1, 0, 2).reshape(len(self.template), -1)
        keypoints = (self._from_vertex @ flat).reshape(-1, num, 3).transpose(1, 0, 2)
        keypoints = keypoints + self._from_joint @ joints
        return Posed(vertices, keypoints, skinning, bones)

    def points(self, rotmat: np.ndarray, betas: np.ndarray, vertices: list[int]) -> np.ndarray:
        """Some vertices (P, n, 3), m, of P people at translation 0, without pose correctives."""
        num = len(rotmat)
        bones, _ = self.bone_transforms(rotmat, betas, np.zeros((num, 3)))
        dirs = self.shape_dirs.reshape(-1, 3, 10)[vertices]
        rest = self.template[vertices] + np.einsum("nik,pk->pni", dirs, betas.astype(np.float32))
        blended = (self.weights[vertices] @ bones.reshape(num, 24, 12)).reshape(num, -1, 3, 4)
        return rotate(blended[..., :3], rest) + blended[..., 3]


def bounds(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest coordinates (..., C) of points (..., N, C)."""
    rows = np.ascontiguousarray(points.swapaxes(-1, -2))  # five times faster than over short rows
    return rows.min(axis=-1), rows.max(axis=-1)


def rotate(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Matrices (..., 3, 3) times vectors (..., 3)."""
    result = matrix[..., 0] * vector[..., :1]
    result += matrix[..., 1] * vector[..., 1:2]
    result += matrix[..., 2] * vector[..., 2:]
    return result


def _dense(matrix: np.ndarray) -> np.ndarray:
    """A regressor as a float64 array, whether it came dense or sparse."""
    return np.asarray(matrix.toarray() if sparse.issparse(matrix) else matrix, np.float64)


def _tree_levels(parents: np.ndarray) -> list[np.ndarray]:
    """Joints below the root, grouped by their depth in the tree."""
    depth = np.zeros(len(parents), int)
    for joint in range(1, len(parents)):
        depth[joint] = depth[int(parents[joint])] + 1
    return [np.flatnonzero(depth == level) for level in range(1, depth.max() + 1)]


def _keypoint_sources(data: "BodyData") -> tuple[np.ndarray, sparse.csr_matrix]:
    """Linear maps to the joint set "all": from the 24 joints (dense), from vertices (sparse)."""
    joint_names = names("all")
    extra, h36m = _dense(data.J_regressor_extra), _dense(data.J_regressor_h36m)
    from_joint = np.zeros((len(joint_names), len(data.parents)), np.float32)
    from_vertex = sparse.lil_matrix((len(joint_names), len(data.v_template)), dtype=np.float32)
    for row, name in enumerate(joint_names):
        kind, number = SOURCES[name]
        if kind == "smpl":
            from_joint[row, number] = 1
        elif kind == "vertex":
            from_vertex[row, number] = 1
        else:
            from_vertex[row] = (extra if kind == "extra" else h36m)[number]
    return from_joint, from_vertex.tocsr()
