"""The 24-joint tree, joints from MakeHuman's helper cubes, bone weights and surface joints."""

import numpy as np
from scipy import sparse
from scipy.optimize import nnls

from free_body.source import Source

JOINTS = (
    "pelvis",
    "left_hip",
    "right_hip",
    "spine1",
    "left_knee",
    "right_knee",
    "spine2",
    "left_ankle",
    "right_ankle",
    "spine3",
    "left_foot",
    "right_foot",
    "neck",
    "left_collar",
    "right_collar",
    "head",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hand",
    "right_hand",
)
PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
TRUNK = ("pelvis", "spine1", "spine2", "spine3")
MIRROR_POSITION = np.array([-1.0, 1.0, 1.0])

# joint -> {helper cube: share}; "l" cubes serve the left side, mirrored for the right one
CUBES = {
    "pelvis": {"spine-4": 0.7, "spine-3": 0.3},
    "spine1": {"spine-3": 0.3, "spine-2": 0.7},
    "spine2": {"spine-2": 0.45, "spine-1": 0.55},
    "spine3": {"spine-1": 1.0},
    "neck": {"neck": 0.55, "head": 0.45},
    "head": {"head": 0.92, "head-2": 0.08},
    "left_collar": {"l-clavicle": 0.58, "l-shoulder": 0.42},
    "left_shoulder": {"l-shoulder": 1.0},
    "left_elbow": {"l-elbow": 1.0},
    "left_wrist": {"l-hand": 1.0},
    "left_hand": {f"l-finger-{finger}-1": 0.25 for finger in (2, 3, 4, 5)},
    "left_hip": {"l-upper-leg": 0.91, "r-upper-leg": 0.09},
    "left_knee": {"l-knee": 1.0},
    "left_ankle": {"l-ankle": 1.0},
    "left_foot": {f"l-toe-{toe}-1": 0.2 for toe in (1, 2, 3, 4, 5)},
}
# beginning of a bone's name -> joint (of the bone's side); first match wins
BONES = {
    "clavicle": "collar",
    "shoulder01": "collar",
    "upperarm": "shoulder",
    "lowerarm": "elbow",
    "wrist": "wrist",
    "metacarpal": "wrist",
    "finger1-1": "wrist",
    "finger": "hand",
    "upperleg": "hip",
    "lowerleg": "knee",
    "foot": "ankle",
    "toe": "foot",
    "neck": "neck",
    **dict.fromkeys(("root", "pelvis", "spine", "breast"), "trunk"),
}


def joint_pair() -> np.ndarray:
    """Mirror partner (24,) of every joint."""
    swapped = [
        name.replace("left", "-").replace("right", "left").replace("-", "right") for name in JOINTS
    ]
    return np.array([JOINTS.index(name) for name in swapped])


def cube_joints(source: Source) -> sparse.csr_matrix:
    """(24, 19158) averages of helper cubes that place the joints of the sculpted A pose."""
    matrix = sparse.lil_matrix((24, len(source.vertices)))
    for name, shares in CUBES.items():
        for cube, share in shares.items():
            corners = np.unique(source.group_faces[f"joint-{cube}"])
            matrix[JOINTS.index(name), corners] = share / len(corners)
    matrix = matrix.tocsr()
    pair = joint_pair()
    mirrored = matrix[pair][:, source.pair]
    is_right = np.array([name.startswith("right") for name in JOINTS])
    is_side = pair != np.arange(24)
    blend = 0.5 * (matrix + mirrored)
    rows = [
        mirrored[j] if is_right[j] else (matrix[j] if is_side[j] else blend[j]) for j in range(24)
    ]
    return sparse.vstack(rows).tocsr()


def cube_centre(source: Source, positions: np.ndarray, cube: str) -> np.ndarray:
    """Centre (3,) of one helper cube at ``positions`` (19158, 3)."""
    return positions[np.unique(source.group_faces[f"joint-{cube}"])].mean(0)


def neighbour_average(edges: np.ndarray, num: int) -> sparse.csr_matrix:
    """(num, num) row-stochastic average over the neighbours given by ``edges`` (E, 2)."""
    rows, columns = np.concatenate([edges, edges[:, ::-1]]).T
    matrix = sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(num, num))
    matrix.data[:] = 1
    return (sparse.diags(1 / np.maximum(matrix.sum(1).A1, 1)) @ matrix).tocsr()


def mesh_edges(faces: np.ndarray) -> np.ndarray:
    """Unique undirected edges (E, 2) of faces (F, 3 or 4)."""
    edges = np.stack([faces, np.roll(faces, -1, axis=1)], axis=-1).reshape(-1, 2)
    return np.unique(np.sort(edges, axis=1), axis=0)


def smoothstep(value: np.ndarray) -> np.ndarray:
    """Cubic 0 -> 1 ramp over [0, 1]."""
    ramp = np.clip(value, 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def split_trunk(trunk: np.ndarray, height: np.ndarray, joint_height: dict) -> dict:
    """Share the trunk's weight (V,) over its four joints by height, in 12 cm transitions."""
    above = [
        smoothstep((height - joint_height[name] + 0.06) / 0.12)
        for name in ("spine1", "spine2", "spine3")
    ]
    shares = [1 - above[0], above[0] - above[1], above[1] - above[2], above[2]]
    return {name: trunk * share for name, share in zip(TRUNK, shares, strict=True)}


def joint_weights(source: Source, body: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """Symmetric skinning weights (skin, 24), at most four a vertex.

    Args:
        source: the files.
        body: (skin, 3) mean body in the A pose.
        joints: (24, 3) its joints.
    """
    num = source.num_skin
    weights = {name: np.zeros(num) for name in [*JOINTS, "trunk"]}
    for bone, values in source.bone_weights.items():
        part = next((joint for key, joint in BONES.items() if bone.startswith(key)), "head")
        side = {"L": "left_", "R": "right_"}.get(bone.rpartition(".")[2], "")
        name = part if part in weights else side + part
        weights[name] += values[:num]
    heights = {name: joints[JOINTS.index(name), 1] for name in TRUNK}
    weights.update(split_trunk(weights.pop("trunk"), body[:, 1], heights))
    matrix = np.stack([weights[name] for name in JOINTS], axis=1)
    pair = source.pair[:num]
    matrix = 0.5 * (matrix + matrix[pair][:, joint_pair()])
    average = neighbour_average(mesh_edges(source.quads), num)
    for _ in range(3):
        matrix = 0.5 * matrix + 0.5 * (average @ matrix)
    fifth = np.sort(matrix, axis=1)[:, -5][:, None]
    matrix = np.where(matrix > fifth + 1e-9, matrix, 0)  # drops both of a left-right tie
    return matrix / matrix.sum(1, keepdims=True)


def shell(points: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Vertices around a joint in every direction: within three times the 20th nearest distance.

    Only the nearest ones would leave the joint outside their hull, which costs 20 to 70 mm.
    """
    distance = np.linalg.norm(points - centre, axis=1)
    return np.flatnonzero(distance < 3 * np.partition(distance, 20)[20])


def ring_average(points: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Weights (V,) of a slab of +-2.5 cm that average to ``centre``, near vertices preferred."""
    slab = np.flatnonzero((np.abs(points[:, 1] - centre[1]) < 0.025) & (np.abs(points[:, 0]) < 0.3))
    distance = np.linalg.norm(points[slab] - centre, axis=1)
    heavy = 1e3
    rows = np.vstack(
        [np.diag(distance**1.5), heavy * (points[slab] - centre).T, heavy * np.ones((1, len(slab)))]
    )
    target = np.zeros(len(rows))
    target[-1] = heavy
    weights = np.zeros(len(points))
    weights[slab] = nnls(rows, target)[0]
    return weights / weights.sum()


def fit_joint(bodies: np.ndarray, joints: np.ndarray, ridge: float) -> np.ndarray:
    """Weights (V,) >= 0 of sum 1 that give a joint on every sample (NNLS with ridge).

    Args:
        bodies: (N, V, 3) samples.
        joints: (N, 3) the joint on each.
        ridge: added penalty on the squared weights, in metres of the stacked system.
    """
    near = shell(bodies.mean(0), joints.mean(0))
    relative = (bodies[:, near] - joints[:, None]).transpose(0, 2, 1).reshape(-1, len(near))
    gram = relative.T @ relative + ridge**2 * np.eye(len(near))
    heavy = 1e2 * np.trace(gram) / len(near)
    root = np.linalg.cholesky(gram + heavy).T  # + heavy * ones ones^T
    target = np.linalg.solve(root.T, np.full(len(near), heavy))
    weights = np.zeros(bodies.shape[1])
    weights[near] = nnls(root, target, maxiter=20 * len(near))[0]
    return weights / weights.sum()


def fit_joints(
    bodies: np.ndarray, joints: np.ndarray, pair: np.ndarray, ridge: float, skip: tuple = ()
) -> np.ndarray:
    """Symmetric regressor (24, V) of ``joints`` (N, 24, 3); rows named in ``skip`` stay zero."""
    partner = joint_pair()
    matrix = np.zeros((24, bodies.shape[1]))
    for row, name in enumerate(JOINTS):
        if name.startswith("right") or name in skip:
            continue
        matrix[row] = fit_joint(bodies, joints[:, row], ridge)
        if partner[row] == row:
            matrix[row] = 0.5 * (matrix[row] + matrix[row][pair])
        else:
            matrix[partner[row]] = matrix[row][pair]
    return matrix
