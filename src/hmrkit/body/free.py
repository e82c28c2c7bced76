"""The free body: CC0 geometry in SMPL's layout, shipped with hmrkit (``tools/make_free_body.py``).

The packaged file holds the left half and the midline; everything else is mirrored or derived here.
It needs no licence and no download. It is not SMPL: parameters of one are not those of the other.

``BodyData.extras`` of the free body is computed when first asked for (``body/surface.py``):

=================== ============== ==========================================================
``pair``            (V,)           mirror partner of each vertex
``part_of_face``    (F,)           1 to 24, numbered like DensePose's parts
``uv_of_corner``    (F, 3, 2)      planar chart of each part in [0, 1]; not DensePose's chart
``level<i>_vertices`` (V_i,)       coarse levels (1723, 431) as vertices of the whole mesh: D
``level<i>_faces``  (F_i, 3)       their faces, numbered within the level: A
``level<i>_corners`` (V, 3)        per vertex of the whole mesh the coarse vertices around it: U
``level<i>_shares`` (V, 3)         and their shares: ``fine = (coarse[corners] * shares).sum(1)``
``betas_female``, ``betas_male`` (10,) mean shapes, where the file has them
=================== ============== ==========================================================
"""

import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hmrkit.body import joints
from hmrkit.body.smpl import SMPL, BodyData
from hmrkit.body.surface import SurfaceExtras

_FILE = Path(__file__).with_name("free_body.npz")
_MIRROR = np.array([-1.0, 1.0, 1.0], dtype=np.float32)  # left is +x


def free_body() -> SMPL:
    """The free body, ready to pose. Has every joint set."""
    return SMPL(free_body_data())


def free_body_data() -> BodyData:
    """The free body as arrays, expanded from the packaged file."""
    with np.load(_FILE) as file:
        packed = dict(file)
    pair, partner = packed["pair"].astype(np.int64), joints.flip_permutation("smpl24")
    template = _whole(packed["v"] * packed["v_s"], pair, _MIRROR)
    shapedirs = (packed["sd"] * packed["sd_s"]).transpose(1, 2, 0)  # (h, 3, 10)
    regressor = _joint_regressor(packed, pair, partner)
    half_faces = packed["f"].astype(np.int64)
    faces = np.concatenate([half_faces, pair[half_faces][:, ::-1]])
    weights = _weights(packed, pair, partner)
    tables = _surface_regressors(regressor, template, pair)
    return BodyData(
        name="free",
        v_template=template,
        shapedirs=_whole(shapedirs, pair, _MIRROR[:, None]),
        posedirs=_posedirs(packed, pair, partner),
        weights=weights,
        J_regressor=regressor,
        faces=faces,
        parents=np.array(joints.SMPL_PARENTS),
        mean_pose=packed.get("mean_pose", relaxed_pose()).astype(np.float32),
        mean_betas=np.zeros(10, np.float32),
        J_regressor_extra=tables["extra"],
        J_regressor_h36m=tables["h36m"],
        extras=SurfaceExtras(template, faces, weights, packed),
    )


def relaxed_pose() -> np.ndarray:
    """Arms hanging beside the body, upright in a camera frame (y down): (24, 3, 3) float32."""
    degrees = {"shoulder": (0, 0, -65), "elbow": (0, -20, 0), "hip": (0, 0, 3), "knee": (5, 0, 0)}
    pose = np.tile(np.eye(3, dtype=np.float32), (24, 1, 1))
    for name, (x, y, z) in degrees.items():
        for side, sign in (("left", 1), ("right", -1)):  # mirroring negates y and z
            joint = joints.index(f"{side}_{name}", "smpl24")
            pose[joint] = _rotation(2, sign * z) @ _rotation(1, sign * y) @ _rotation(0, x)
    pose[0] = np.diag([1.0, -1.0, -1.0])
    return pose


def write_smplx_pickle(path: str | Path) -> None:
    """Write the free body as a file that tools for SMPL read (38 MB, plain NumPy arrays).

    ``smplx.SMPL(path)`` and ``smplx.create(path, model_type="smpl")`` load it unchanged.

    Args:
        path: the file to write, usually ``SMPL_NEUTRAL.pkl``.
    """
    data = free_body_data()
    parents = np.array([2**32 - 1, *data.parents[1:]], dtype=np.uint32)
    content = {
        "v_template": data.v_template,
        "shapedirs": data.shapedirs,
        "posedirs": data.posedirs,
        "weights": data.weights,
        "J_regressor": data.J_regressor,
        "J": data.J_regressor @ data.v_template,
        "f": data.faces.astype(np.uint32),
        "kintree_table": np.stack([parents, np.arange(len(parents), dtype=np.uint32)]),
        "bs_type": "lrotmin",
        "bs_style": "lbs",
    }
    Path(path).write_bytes(pickle.dumps(content, protocol=2))


def _rotation(axis: int, angle_deg: float) -> np.ndarray:
    cosine, sine = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    first, second = (axis + 1) % 3, (axis + 2) % 3
    out = np.eye(3, dtype=np.float32)
    out[first, first] = out[second, second] = cosine
    out[second, first], out[first, second] = sine, -sine
    return out


def _whole(half: np.ndarray, pair: np.ndarray, sign: np.ndarray) -> np.ndarray:
    """All vertices (V, ...) from the first ones and how a mirrored value changes its sign."""
    num_half = len(half)
    mirrored = half[pair[num_half:]]  # partners of the right half lie in the left one
    return np.concatenate([half, mirrored * sign], dtype=np.float32)


def _weights(packed: Mapping[str, np.ndarray], pair: np.ndarray, partner: np.ndarray) -> np.ndarray:
    half = np.zeros((len(packed["w_i"]), 24), np.float32)
    rows = np.arange(len(half))[:, None]
    np.add.at(half, (rows, packed["w_i"]), packed["w_v"] / np.float32(65535))
    return np.concatenate([half, half[pair[len(half) :]][:, partner]])


def _posedirs(
    packed: Mapping[str, np.ndarray], pair: np.ndarray, partner: np.ndarray
) -> np.ndarray:
    """(V, 3, 207) from sparse blocks; a mirrored vertex reads its partner joint's block."""
    num_half = len(packed["v"])
    out = np.zeros((len(pair), 3, 23, 9), np.float32)
    vertex, joint = packed["pd_v"].astype(np.int64), packed["pd_j"].astype(np.int64)
    blocks = packed["pd"] * packed["pd_s"][joint][:, None, None]  # (n, 3, 9)
    out[vertex, :, joint] = blocks
    is_side = pair[vertex] >= num_half  # the midline stores both sides itself
    turned = np.outer(_MIRROR, _MIRROR).ravel()  # R becomes S R S
    mirrored = blocks[is_side] * _MIRROR[:, None] * turned
    out[pair[vertex[is_side]], :, partner[joint[is_side] + 1] - 1] = mirrored
    return out.reshape(len(pair), 3, 207)


def _joint_regressor(
    packed: Mapping[str, np.ndarray], pair: np.ndarray, partner: np.ndarray
) -> np.ndarray:
    """(24, V): the file has the centre and left rows."""
    out = np.zeros((24, len(pair)), np.float32)
    out[packed["jr_r"], packed["jr_c"]] = packed["jr_v"]
    is_right = np.arange(24) > partner
    out[is_right] = out[partner[is_right]][:, pair]
    return out / out.sum(axis=1, keepdims=True)


# Joints of annotations as mixtures of SMPL joints and named vertices; fitted to nothing, placed by
# anatomy. Row orders are SPIN's. A left joint mirrors the right one.
_MIXTURES = {
    "spin_right_hip": {"right_hip": 0.75, "right_side": 0.25},
    "spin_neck": {"left_collar": 0.175, "right_collar": 0.175, "neck": 0.65},
    "spin_head_top": {"crown": 1.0},
    "spin_pelvis": {"left_hip": 0.35, "right_hip": 0.35, "pelvis": 0.3},
    "spin_thorax": {"left_collar": 0.4, "right_collar": 0.4, "neck": 0.2},
    "spin_spine": {"spine1": 0.5, "spine2": 0.5},
    "spin_jaw": {"nose": 0.5, "head": 0.5},
    "spin_head": {"head": 0.35, "crown": 0.65},
    "h36m_pelvis": {"left_hip": 0.25, "right_hip": 0.25, "pelvis": 0.5},
    "h36m_right_hip": {"right_hip": 0.6, "right_side": 0.4},
    "h36m_spine": {"spine1": 0.5, "spine2": 0.5},
    "h36m_neck": {"left_collar": 0.25, "right_collar": 0.25, "neck": 0.5},
    "h36m_jaw": {"nose": 0.5, "head": 0.5},
    "h36m_head_top": {"head": 0.15, "crown": 0.85},
}


def _surface_regressors(
    regressor: np.ndarray, template: np.ndarray, pair: np.ndarray
) -> dict[str, np.ndarray]:
    """Tables ``extra`` (9, V) and ``h36m`` (17, V): convex mixtures, every row sums to 1."""
    rows = dict(zip(joints.names("smpl24"), regressor, strict=True))
    midline = np.flatnonzero(pair == np.arange(len(pair)))
    hip_height = (rows["left_hip"] @ template)[1]
    at_hip = np.flatnonzero(np.abs(template[:, 1] - hip_height) < 0.01)
    side = at_hip[template[at_hip, 0].argmax()]
    vertices = {
        "crown": midline[template[midline, 1].argmax()],
        "nose": joints.LANDMARKS["nose"],
        "left_side": side,
        "right_side": pair[side],
    }
    for name, vertex in vertices.items():
        rows[name] = np.zeros(len(pair), np.float32)
        rows[name][vertex] = 1.0
    kinds = {kind: joints.regressor_rows(kind) for kind in ("extra", "h36m")}
    return {
        kind: np.stack([_mixture(name, rows) for name in order]) for kind, order in kinds.items()
    }


def _mixture(name: str, rows: Mapping[str, np.ndarray]) -> np.ndarray:
    if name in _MIXTURES:
        return sum(np.float32(share) * rows[part] for part, share in _MIXTURES[name].items())
    mirrored = name.replace("left_", "right_")
    if mirrored in _MIXTURES:
        mixture = {part.replace("right_", "left_"): s for part, s in _MIXTURES[mirrored].items()}
        return sum(np.float32(share) * rows[part] for part, share in mixture.items())
    return rows[name.split("_", 1)[1]]  # a limb joint: SMPL's own
