"""What a closed SMPL-shaped mesh says about its own surface: body parts, charts, coarse levels."""

from collections.abc import Iterator, Mapping

import numpy as np
from scipy.spatial import cKDTree

from hmrkit.body import joints

# DensePose's part numbers (Guler et al. 2018): (faces turned backward, faces turned forward).
_PARTS = {
    "pelvis spine1 spine2 spine3 left_collar right_collar": (1, 2),
    "right_wrist right_hand": (3, 3),
    "left_wrist left_hand": (4, 4),
    "left_ankle left_foot": (5, 5),
    "right_ankle right_foot": (6, 6),
    "right_hip": (7, 9),
    "left_hip": (8, 10),
    "right_knee": (11, 13),
    "left_knee": (12, 14),
    "left_shoulder": (15, 17),
    "right_shoulder": (16, 18),
    "left_elbow": (19, 21),
    "right_elbow": (20, 22),
    "neck head": (23, 24),  # by side instead: right, left
}
_HEAD, _HANDS_AND_FEET = (23, 24), (3, 4, 5, 6)
_DERIVED = (
    "part_of_face",
    "uv_of_corner",
    *(f"level{i}_{what}" for i in (1, 2) for what in ("corners", "shares")),
)
_NUM_CANDIDATES = 24  # coarse faces tried per vertex, by distance of their centres


class SurfaceExtras(Mapping[str, np.ndarray]):
    """Arrays by name, computed when first asked for; ``body/free.py`` lists them.

    Args:
        template: (V, 3) rest positions, metres, T pose.
        faces: (F, 3).
        weights: (V, 24) skinning weights.
        packed: arrays ``pair``, ``lv1``, ``lv2``, ``f1``, ``f2`` and, if known, ``betas_*``.
    """

    def __init__(
        self,
        template: np.ndarray,
        faces: np.ndarray,
        weights: np.ndarray,
        packed: Mapping[str, np.ndarray],
    ) -> None:
        self._rest = (template, faces, weights)
        self._known = {"pair": packed["pair"].astype(np.int64)}
        self._known |= {key: packed[key] for key in packed if key.startswith("betas_")}
        for i in (1, 2):
            vertices = packed[f"lv{i}"].astype(np.int64)
            coarse = np.searchsorted(vertices, packed[f"f{i}"].astype(np.int64))
            assert np.array_equal(vertices[coarse], packed[f"f{i}"])
            self._known |= {f"level{i}_vertices": vertices, f"level{i}_faces": coarse}

    def __getitem__(self, key: str) -> np.ndarray:
        if key not in self._known:
            self._known |= self._derive(key)
        return self._known[key]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._known, *_DERIVED]))

    def __len__(self) -> int:
        return len(set(self))

    def _derive(self, key: str) -> dict[str, np.ndarray]:
        if key not in _DERIVED:
            raise KeyError(key)
        template, faces, weights = self._rest
        if key == "part_of_face":
            return {key: part_of_face(template, faces, weights)}
        if key == "uv_of_corner":
            return {key: uv_of_corner(template, faces, self["part_of_face"])}
        level = key.partition("_")[0]
        corners, shares = upsampling(template, self[f"{level}_vertices"], self[f"{level}_faces"])
        return {f"{level}_corners": corners, f"{level}_shares": shares}


def part_of_face(template: np.ndarray, faces: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Part number 1 to 24 of each face, (F,) uint8, by its main joint and its direction.

    Good for parts of bodies that are drawn with the same labels; not DensePose's own borders.
    """
    corners = template[faces]  # (F, 3, 3)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    joint = weights[faces].sum(axis=1).argmax(axis=1)
    pairs = {name: numbers for group, numbers in _PARTS.items() for name in group.split()}
    numbers = np.array([pairs[name] for name in joints.names("smpl24")])[joint]  # (F, 2)
    is_second = np.where(numbers[:, 0] == _HEAD[0], corners[:, :, 0].mean(axis=1), normal[:, 2]) > 0
    return np.where(is_second, numbers[:, 1], numbers[:, 0]).astype(np.uint8)


def uv_of_corner(template: np.ndarray, faces: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Planar chart of each part: (F, 3, 2) float32 in [0, 1] per face corner.

    Seen from the front, except hands and feet (from above) and the head (from its sides).
    """
    out = np.zeros((*faces.shape, 2), np.float32)
    for part in np.unique(parts):
        axes = [0, 2] if part in _HANDS_AND_FEET else [2, 1] if part in _HEAD else [0, 1]
        flat = template[faces[parts == part]][..., axes]  # (f, 3, 2)
        low, high = flat.min(axis=(0, 1)), flat.max(axis=(0, 1))
        out[parts == part] = (flat - low) / (high - low)
    return out


def upsampling(
    template: np.ndarray, vertices: np.ndarray, coarse_faces: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Each vertex as a mixture of three coarse vertices: the nearest point on the coarse mesh.

    Args:
        template: (V, 3) rest positions.
        vertices: (n,) which of them are coarse vertices; those reproduce themselves.
        coarse_faces: (f, 3) numbered among the coarse vertices.

    Returns:
        (V, 3) int64 coarse vertices and (V, 3) float32 shares, which sum to 1.
    """
    import trimesh  # half a second, and few programs look at surfaces

    triangles = template[vertices][coarse_faces].astype(np.float64)  # (f, 3, 3)
    near = cKDTree(triangles.mean(axis=1)).query(template, k=_NUM_CANDIDATES)[1]  # (V, k)
    points = np.repeat(template.astype(np.float64), _NUM_CANDIDATES, axis=0)
    foot = trimesh.triangles.closest_point(triangles[near.ravel()], points)
    distance = np.nan_to_num(np.linalg.norm(foot - points, axis=1), nan=np.inf)
    rows = np.arange(len(template))
    best = distance.reshape(near.shape).argmin(axis=1)
    face, foot = near[rows, best], foot.reshape(*near.shape, 3)[rows, best]
    shares = _barycentric(triangles[face], foot)
    corners = coarse_faces[face]
    corners[vertices] = np.arange(len(vertices))[:, None]
    shares[vertices] = [1.0, 0.0, 0.0]
    return corners, shares.astype(np.float32)


def _barycentric(triangles: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(n, 3) shares of points in their triangles; of flat triangles, the nearest corner."""
    import trimesh

    with np.errstate(divide="ignore", invalid="ignore"):
        shares = trimesh.triangles.points_to_barycentric(triangles, points)
    nearest = np.linalg.norm(triangles - points[:, None], axis=2).argmin(axis=1)
    is_flat = ~np.isfinite(shares).all(axis=1)
    shares = np.where(is_flat[:, None], np.eye(3)[nearest], shares).clip(0, 1)
    return shares / shares.sum(axis=1, keepdims=True)
