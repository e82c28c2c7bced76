"""Joint sets by name: the one file where a joint has a number.

A joint is a name, a joint set an ordered tuple of names. Names without a prefix belong to SMPL's
24 joints and 21 surface landmarks; ``openpose_``, ``spin_`` and ``h36m_`` name the joints of those
annotations. Two names never mean the same label, even where they are measured at the same place of
a body (``right_ankle``, ``openpose_right_ankle``), so a mapping by name cannot mix annotations up.
``SOURCES`` says where on a body each name is measured.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple, overload

import numpy as np

_BODY25 = (
    "nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist pelvis "
    "right_hip right_knee right_ankle left_hip left_knee left_ankle right_eye left_eye right_ear "
    "left_ear left_big_toe left_small_toe left_heel right_big_toe right_small_toe right_heel"
)
_LSP14 = (
    "right_ankle right_knee right_hip left_hip left_knee left_ankle right_wrist right_elbow "
    "right_shoulder left_shoulder left_elbow left_wrist neck head_top"
)
_SPIN24 = f"{_LSP14} pelvis thorax spine jaw head nose left_eye right_eye left_ear right_ear"
_H36M17 = (  # the row order of SPIN's J_regressor_h36m.npy: left before right
    "pelvis left_hip left_knee left_ankle right_hip right_knee right_ankle spine neck jaw head_top "
    "left_shoulder left_elbow left_wrist right_shoulder right_elbow right_wrist"
)
_COCO17 = (
    "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow "
    "right_elbow left_wrist right_wrist left_hip right_hip left_knee right_knee left_ankle "
    "right_ankle"
)
_MPII16 = (  # as SPIN maps them: the upper neck is the neck of LSP
    "right_ankle right_knee right_hip left_hip left_knee left_ankle pelvis thorax neck head_top "
    "right_wrist right_elbow right_shoulder left_shoulder left_elbow left_wrist"
)
_SMPL24 = (
    "pelvis left_hip right_hip spine1 left_knee right_knee spine2 left_ankle right_ankle spine3 "
    "left_foot right_foot neck left_collar right_collar head left_shoulder right_shoulder "
    "left_elbow right_elbow left_wrist right_wrist left_hand right_hand"
)

# Vertices of SMPL's mesh that carry a name, in smplx's order behind the 24 joints.
LANDMARKS = {
    "nose": 332,
    "right_eye": 6260,
    "left_eye": 2800,
    "right_ear": 4071,
    "left_ear": 583,
    "left_big_toe": 3216,
    "left_small_toe": 3226,
    "left_heel": 3387,
    "right_big_toe": 6617,
    "right_small_toe": 6624,
    "right_heel": 6787,
    "left_thumb": 2746,
    "left_index": 2319,
    "left_middle": 2445,
    "left_ring": 2556,
    "left_pinky": 2673,
    "right_thumb": 6191,
    "right_index": 5782,
    "right_middle": 5905,
    "right_ring": 6016,
    "right_pinky": 6133,
}


def _prefixed(prefix: str, joint_names: str) -> tuple[str, ...]:
    return tuple(f"{prefix}_{name}" for name in joint_names.split())


def _all_sets() -> dict[str, tuple[str, ...]]:
    smpl24 = tuple(_SMPL24.split())
    openpose25 = _prefixed("openpose", _BODY25)
    spin24 = _prefixed("spin", _SPIN24)
    h36m17 = _prefixed("h36m", _H36M17)
    return {
        "smpl24": smpl24,
        "smpl45": smpl24 + tuple(LANDMARKS),
        "openpose25": openpose25,
        "spin24": spin24,
        "spin49": openpose25 + spin24,
        "spin44": openpose25 + spin24[:19],  # 4D-Humans, TokenHMR
        "h36m17": h36m17,
        "h36m14": _prefixed("h36m", _LSP14),  # the evaluation joints of 3DPW and Human3.6M
        "lsp14": _prefixed("spin", _LSP14),
        "hmr2_14": (*_prefixed("spin", _LSP14)[:13], "spin_head"),  # 4D-Humans' evaluation joints
        "coco17": _prefixed("spin", _COCO17),
        "mpii16": _prefixed("spin", _MPII16),
        "all": smpl24 + openpose25 + spin24 + h36m17 + tuple(LANDMARKS),  # the superset of Batch
    }


JOINT_SETS: dict[str, tuple[str, ...]] = _all_sets()

SMPL_PARENTS: tuple[int, ...] = (
    -1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21,
)  # fmt: skip


class Source(NamedTuple):
    """Where a joint is measured: an SMPL joint, a vertex, or a row of a joint regressor."""

    kind: Literal["smpl", "vertex", "extra", "h36m"]
    index: int


# Rows of SPIN's J_regressor_extra.npy.
_EXTRA_ROWS = (
    "right_hip",
    "left_hip",
    "neck",
    "head_top",
    "pelvis",
    "thorax",
    "spine",
    "jaw",
    "head",
)


def _all_sources() -> dict[str, Source]:
    """SPIN's 54-joint table, by name (SPIN ``constants.py``; the annotations' own conventions)."""
    sources = {name: Source("smpl", i) for i, name in enumerate(JOINT_SETS["smpl24"])}
    sources |= {name: Source("vertex", vertex) for name, vertex in LANDMARKS.items()}
    # OpenPose's neck is measured at SMPL's; so is its pelvis and every limb joint.
    openpose = {f"openpose_{name}": sources[name] for name in _BODY25.split()}
    spin = {f"spin_{name}": sources[name] for name in _SPIN24.split() if name in sources}
    spin |= {f"spin_{name}": Source("extra", row) for row, name in enumerate(_EXTRA_ROWS)}
    h36m = {name: Source("h36m", row) for row, name in enumerate(JOINT_SETS["h36m17"])}
    return sources | openpose | spin | h36m


SOURCES: dict[str, Source] = _all_sources()


def names(joint_set: str) -> tuple[str, ...]:
    """Names of a joint set in order.

    Raises:
        ValueError: if there is no such set.
    """
    if joint_set not in JOINT_SETS:
        raise ValueError(f"no joint set {joint_set!r}; there are {', '.join(sorted(JOINT_SETS))}")
    return JOINT_SETS[joint_set]


@overload
def index(name: str, joint_set: str = "all") -> int: ...
@overload
def index(name: Iterable[str], joint_set: str = "all") -> list[int]: ...
def index(name: str | Iterable[str], joint_set: str = "all") -> int | list[int]:
    """Position of one joint, or of several, in a joint set.

    Raises:
        ValueError: naming the joint and the set, if the set lacks the joint.
    """
    if not isinstance(name, str):
        return [_position(one, joint_set) for one in name]
    return _position(name, joint_set)


def _position(name: str, joint_set: str) -> int:
    joint_names = names(joint_set)
    if name not in joint_names:
        raise ValueError(
            f"joint set {joint_set!r} has no joint {name!r}; it has {', '.join(joint_names)}"
        )
    return joint_names.index(name)


def regressor_rows(kind: Literal["extra", "h36m"]) -> tuple[str, ...]:
    """Names of the rows of J_regressor_extra.npy (9) or J_regressor_h36m.npy (17), in order."""
    if kind == "h36m":
        return JOINT_SETS["h36m17"]
    return tuple(f"spin_{name}" for name in _EXTRA_ROWS)


def mapping(source_set: str, target_set: str = "all") -> np.ndarray:
    """For each joint of the target set its position in the source set.

    Returns:
        (K_target,) int64, -1 where the source set lacks the joint.
    """
    position = {name: i for i, name in enumerate(names(source_set))}
    return np.array([position.get(name, -1) for name in names(target_set)], dtype=np.int64)


def _mirrored(name: str) -> str:
    if "left_" in name:
        return name.replace("left_", "right_")
    return name.replace("right_", "left_")


def flip_permutation(joint_set: str) -> np.ndarray:
    """Where each joint's value comes from when the image is mirrored: ``flipped = joints[perm]``.

    Returns:
        (K,) int64, its own inverse.
    """
    return np.array([_position(_mirrored(name), joint_set) for name in names(joint_set)], np.int64)


# One side and the trunk of each skeleton, names without prefix; the other side is its mirror image.
_LIMBS = "left_shoulder left_elbow, left_elbow left_wrist, left_hip left_knee, left_knee left_ankle"
_FACE = "left_eye nose, left_ear left_eye"
_TORSO = "left_shoulder right_shoulder, left_hip right_hip, left_shoulder left_hip"
_EDGES = {
    "lsp14": f"{_LIMBS}, neck head_top, neck left_shoulder, left_hip right_hip, neck left_hip",
    "hmr2_14": f"{_LIMBS}, neck head, neck left_shoulder, left_hip right_hip, neck left_hip",
    "coco17": f"{_LIMBS}, {_TORSO}, {_FACE}",
    "openpose25": f"{_LIMBS}, {_FACE}, neck left_shoulder, neck pelvis, neck nose, "
    "pelvis left_hip, left_ankle left_heel, left_ankle left_big_toe, left_big_toe left_small_toe",
    "spin24": f"{_LIMBS}, {_FACE}, neck left_shoulder, pelvis left_hip, pelvis spine, "
    "spine thorax, thorax neck, neck head_top",
    "h36m17": f"{_LIMBS}, neck left_shoulder, pelvis left_hip, pelvis spine, spine neck, neck jaw, "
    "jaw head_top",
    "smpl45": "head nose, left_eye nose, left_ear left_eye, left_ankle left_heel, "
    "left_foot left_big_toe, left_foot left_small_toe, left_hand left_thumb, left_hand left_index, "
    "left_hand left_middle, left_hand left_ring, left_hand left_pinky",
}


def _edges(key: str, prefix: str) -> list[tuple[str, str]]:
    """Named edges of both sides."""
    pairs = [tuple(prefix + name for name in edge.split()) for edge in _EDGES[key].split(",")]
    mirrored = [tuple(_mirrored(name) for name in pair) for pair in pairs]
    seen = {frozenset(pair): pair for pair in [*mirrored, *pairs]}
    return [(a, b) for a, b in seen.values()]


def _tree_edges() -> list[tuple[str, str]]:
    smpl24 = JOINT_SETS["smpl24"]
    return [(smpl24[p], smpl24[i]) for i, p in enumerate(SMPL_PARENTS) if p >= 0]


def skeleton(joint_set: str) -> list[tuple[int, int]]:
    """Edges to draw, as positions in the joint set.

    ``all`` and ``spin49`` hold several skeletons; theirs are drawn beside each other.
    """
    edges = {
        "smpl24": _tree_edges,
        "smpl45": lambda: _tree_edges() + _edges("smpl45", ""),
        "openpose25": lambda: _edges("openpose25", "openpose_"),
        "spin24": lambda: _edges("spin24", "spin_"),
        "lsp14": lambda: _edges("lsp14", "spin_"),
        "hmr2_14": lambda: _edges("hmr2_14", "spin_"),
        "coco17": lambda: _edges("coco17", "spin_"),
        "h36m14": lambda: _edges("lsp14", "h36m_"),
        "h36m17": lambda: _edges("h36m17", "h36m_"),
    }
    parts = {
        "spin49": ("openpose25", "spin24"),
        "spin44": ("openpose25", "lsp14"),
        "mpii16": ("lsp14",),
        "all": ("smpl45", "openpose25", "spin24", "h36m17"),
    }.get(joint_set, (joint_set,))
    joint_names = names(joint_set)
    pairs = [pair for part in parts for pair in edges[part]()]
    return [(joint_names.index(a), joint_names.index(b)) for a, b in pairs]
