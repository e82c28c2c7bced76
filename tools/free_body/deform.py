"""Deformers: tree transforms, LBS, dual-quaternion skinning with delta mush, the T pose."""

import numpy as np
from scipy import sparse
from scipy.spatial.transform import Rotation

from free_body.skeleton import JOINTS, PARENTS, joint_pair, mesh_edges, neighbour_average

ORIGIN_FROM_PELVIS = np.array([0.0, 0.225, -0.02])  # the origin is off the pelvis, as in SMPL

# joint whose bone is turned -> (end of the bone, direction of the left one in the T pose)
T_DIRECTIONS = {
    "shoulder": ("elbow", (1.0, 0.0, -0.05)),
    "elbow": ("wrist", (1.0, 0.0, 0.04)),
    "wrist": ("hand", (1.0, -0.03, 0.0)),
    "hip": ("knee", (0.06, -1.0, 0.0)),
    "knee": ("ankle", (0.0, -1.0, -0.07)),
}
COLLAR_RAISE_DEG = 9.0

# degrees (x, y, z) low and high of the left side, composed Rz Ry Rx from the T pose
LIMITS_DEG = {
    "left_hip": ((-125, 25), (-35, 40), (-15, 50)),
    "left_knee": ((0, 145), (-8, 8), (-4, 4)),
    "left_ankle": ((-30, 45), (-20, 20), (-15, 15)),
    "left_foot": ((-10, 40), (0, 0), (0, 0)),
    "spine1": ((-20, 40), (-20, 20), (-15, 15)),
    "spine2": ((-10, 30), (-15, 15), (-12, 12)),
    "spine3": ((-10, 25), (-15, 15), (-12, 12)),
    "neck": ((-30, 40), (-35, 35), (-20, 20)),
    "head": ((-25, 30), (-35, 35), (-15, 15)),
    "left_collar": ((-10, 10), (-18, 12), (-10, 28)),
    "left_shoulder": ((-80, 80), (-120, 40), (-88, 85)),
    "left_elbow": ((-60, 60), (-145, 2), (-6, 6)),
    "left_wrist": ((-25, 25), (-25, 25), (-65, 60)),
    "left_hand": ((-5, 5), (-3, 3), (-35, 5)),
}


def minimal_rotation(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rotation matrix (3, 3) that turns one direction to another about their common normal."""
    start, end = source / np.linalg.norm(source), target / np.linalg.norm(target)
    axis, cosine = np.cross(start, end), start @ end
    x, y, z = axis
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + skew + skew @ skew / (1 + cosine)


def a_to_t_transforms(joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rigid transforms (24, 3, 4) from the sculpted A pose to the T pose, and its joints (24, 3).

    Minimal rotations along each limb; trunk, head and feet keep their orientation.
    """
    turn = {name: np.eye(3) for name in JOINTS}
    for side, sign in (("left", 1.0), ("right", -1.0)):
        raised = Rotation.from_euler("z", sign * COLLAR_RAISE_DEG, degrees=True).as_matrix()
        turn[f"{side}_collar"] = raised
        for name, (end, direction) in T_DIRECTIONS.items():
            bone = joints[JOINTS.index(f"{side}_{end}")] - joints[JOINTS.index(f"{side}_{name}")]
            parent = turn[JOINTS[PARENTS[JOINTS.index(f"{side}_{name}")]]]
            wanted = np.array(direction) * [sign, 1, 1]
            turn[f"{side}_{name}"] = minimal_rotation(parent @ bone, wanted) @ parent
        turn[f"{side}_hand"] = turn[f"{side}_wrist"]
    rotations = np.stack([turn[name] for name in JOINTS])
    posed = joints.copy()
    posed[0] = -ORIGIN_FROM_PELVIS
    for child, parent in enumerate(PARENTS[1:], start=1):
        posed[child] = posed[parent] + rotations[parent] @ (joints[child] - joints[parent])
    shift = posed - np.einsum("jab,jb->ja", rotations, joints)
    return np.concatenate([rotations, shift[:, :, None]], axis=2), posed


def tree_transforms(rotations: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """Rigid transforms (24, 3, 4) of the T pose for local ``rotations`` (24, 3, 3)."""
    world, position = rotations.copy(), joints.copy()
    for child, parent in enumerate(PARENTS[1:], start=1):
        world[child] = world[parent] @ rotations[child]
        position[child] = position[parent] + world[parent] @ (joints[child] - joints[parent])
    shift = position - np.einsum("jab,jb->ja", world, joints)
    return np.concatenate([world, shift[:, :, None]], axis=2)


def compose(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """``outer`` after ``inner``, both (24, 3, 4)."""
    linear = outer[:, :, :3] @ inner
    linear[:, :, 3] += outer[:, :, 3]
    return linear


def blended(transforms: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Linear blend (V, 3, 4) of ``transforms`` (24, 3, 4) by ``weights`` (V, 24)."""
    return (weights @ transforms.reshape(24, 12)).reshape(-1, 3, 4)


def apply(transforms: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (V, 3) moved by a transform (V, 3, 4) each."""
    return np.einsum("vab,vb->va", transforms[:, :, :3], points) + transforms[:, :, 3]


def dual_quaternion_skin(
    points: np.ndarray, weights: np.ndarray, transforms: np.ndarray
) -> np.ndarray:
    """Dual-quaternion skinning (Kavan et al. 2007, eq. 2); (V, 3).

    Signs follow the tree, so neighbouring joints never blend across the hemisphere.
    """
    real = np.roll(Rotation.from_matrix(transforms[:, :, :3]).as_quat(), 1, axis=1)  # w first
    for child, parent in enumerate(PARENTS[1:], start=1):
        if real[child] @ real[parent] < 0:
            real[child] = -real[child]
    shift = np.concatenate([np.zeros((24, 1)), transforms[:, :, 3]], axis=1)
    both = weights @ np.concatenate([real, 0.5 * quaternion_product(shift, real)], axis=1)
    both /= np.linalg.norm(both[:, :4], axis=1, keepdims=True)
    w, vector, dual_w, dual = both[:, :1], both[:, 1:4], both[:, 4:5], both[:, 5:]
    turned = points + 2 * np.cross(vector, np.cross(vector, points) + w * points)
    return turned + 2 * (w * dual - dual_w * vector + np.cross(vector, dual))


def quaternion_product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Hamilton product of (N, 4) quaternions, w first."""
    w = left[:, :1] * right[:, :1] - (left[:, 1:] * right[:, 1:]).sum(1, keepdims=True)
    vector = left[:, :1] * right[:, 1:] + right[:, :1] * left[:, 1:]
    return np.concatenate([w, vector + np.cross(left[:, 1:], right[:, 1:])], axis=1)


class Deformer:
    """Dual-quaternion skinning, then delta mush (Mancewicz et al. 2014) to undo its bulges.

    Eight half-way smoothing steps; the lost detail is kept in frames on the smoothed surface.
    """

    def __init__(self, faces: np.ndarray, weights: np.ndarray, pair: np.ndarray) -> None:
        """Prepare for a mesh of triangles ``faces`` (F, 3) with mirror partners ``pair`` (V,)."""
        num = len(weights)
        edges = mesh_edges(faces)
        step = 0.4 * sparse.identity(num) + 0.6 * neighbour_average(edges, num)
        self.step = step.tocsr().astype(np.float32)
        self.weights = weights
        self.faces = faces
        rows = faces.ravel()
        columns = np.repeat(np.arange(len(faces)), 3)
        self.face_to_vertex = sparse.csr_matrix(
            (np.ones(len(rows), np.float32), (rows, columns)), shape=(num, len(faces))
        )
        self.anchor = mirrored_anchor(edges, pair)

    def smooth(self, points: np.ndarray) -> np.ndarray:
        """Eight smoothing steps of (V, 3)."""
        for _ in range(8):
            points = self.step @ points
        return points

    def frames(self, smooth: np.ndarray) -> np.ndarray:
        """Orthonormal frames (V, 3, 3) in columns: normal, tangent to the anchor, their cross."""
        corner = smooth[self.faces]
        normal = self.face_to_vertex @ np.cross(
            corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]
        )
        normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-20
        tangent = smooth[self.anchor] - smooth
        tangent -= (tangent * normal).sum(1, keepdims=True) * normal
        tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-20
        return np.stack([normal, tangent, np.cross(normal, tangent)], axis=2)

    def detail(self, points: np.ndarray) -> np.ndarray:
        """What smoothing loses of the undeformed ``points`` (V, 3), in the smooth frames."""
        smooth = self.smooth(points)
        return np.einsum("vba,vb->va", self.frames(smooth), points - smooth)

    def pose(self, points: np.ndarray, transforms: np.ndarray, detail: np.ndarray) -> np.ndarray:
        """Deform (V, 3) by rigid joint ``transforms`` (24, 3, 4)."""
        skinned = dual_quaternion_skin(points, self.weights, transforms)
        smooth = self.smooth(skinned.astype(np.float32))
        return smooth + np.einsum("vab,vb->va", self.frames(smooth), detail)


def mirrored_anchor(edges: np.ndarray, pair: np.ndarray) -> np.ndarray:
    """A neighbour (V,) of every vertex, mirrored between the sides, on the midline from it."""
    is_mid = pair == np.arange(len(pair))
    both = np.concatenate([edges, edges[:, ::-1]])
    both = both[~is_mid[both[:, 0]] | is_mid[both[:, 1]]]
    anchor = np.zeros(len(pair), int)
    anchor[both[::-1, 0]] = both[::-1, 1]
    smaller = np.minimum(np.arange(len(pair)), pair)
    return np.where(np.arange(len(pair)) == smaller, anchor, pair[anchor[smaller]])


def draw_poses(num: int, rng: np.random.Generator) -> np.ndarray:
    """Local rotations (num, 24, 3, 3) within the joint limits; the root stays put.

    Angles are beta(2, 2): the middle of the range counts more than its corners.
    """
    rotations = np.tile(np.eye(3), (num, 24, 1, 1))
    for row, name in enumerate(JOINTS):
        limits = LIMITS_DEG.get(name.replace("right", "left"))
        if limits is None:
            continue
        low, high = np.array(limits, float).T
        angles = low + (high - low) * rng.beta(2, 2, (num, 3))
        if name.startswith("right"):
            angles *= [1, -1, -1]
        rotations[:, row] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    return rotations


def mirror_pose(rotations: np.ndarray) -> np.ndarray:
    """The mirror image (..., 24, 3, 3) of local rotations."""
    flip = np.diag([-1.0, 1.0, 1.0])
    return flip @ rotations[..., joint_pair(), :, :] @ flip
