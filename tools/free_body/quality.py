"""Measure the built body: the numbers the maintainers quote."""

from collections import Counter

import numpy as np

from free_body.deform import apply, blended, mirror_pose, tree_transforms
from free_body.learn import encode, pose_features, volume
from free_body.order import LANDMARKS
from free_body.skeleton import JOINTS, MIRROR_POSITION, mesh_edges


def mesh_quality(points: np.ndarray, faces: np.ndarray, pair: np.ndarray) -> dict:
    """Topology, symmetry and shape of the triangles of a mesh (V, 3), (F, 3)."""
    directed = Counter(
        map(tuple, np.stack([faces, np.roll(faces, -1, 1)], axis=-1).reshape(-1, 2).tolist())
    )
    edges = mesh_edges(faces)
    corner = points[faces]
    sides = np.roll(corner, -1, axis=1) - corner
    length = np.linalg.norm(sides, axis=2)
    cosine = -(sides * np.roll(sides, 1, axis=1)).sum(2) / (length * np.roll(length, 1, axis=1))
    angle = np.degrees(np.arccos(np.clip(cosine, -1, 1))).min(1)
    valence = np.bincount(edges.ravel())
    edge_mm = 1000 * np.linalg.norm(points[edges[:, 0]] - points[edges[:, 1]], axis=1)
    is_closed = all(directed[b, a] == 1 and count == 1 for (a, b), count in directed.items())
    return {
        "vertices": len(points),
        "faces": len(faces),
        "is_watertight": is_closed,
        "euler": len(points) - len(edges) + len(faces),
        "volume_l": 1000 * volume(points, faces),
        "asymmetry_mm": 1000 * float(np.abs(points[pair] * MIRROR_POSITION - points).max()),
        "edge_mm_min_median_max": [float(v) for v in np.percentile(edge_mm, [0, 50, 100])],
        "min_angle_deg_p0_p1_p50": [float(v) for v in np.percentile(angle, [0, 1, 50])],
        "valence_min_max": [int(valence.min()), int(valence.max())],
        "valence_outside_4_to_8": int(((valence < 4) | (valence > 8)).sum()),
    }


def spread_mm(distance: np.ndarray) -> dict:
    """Mean, 95th, 99th percentile and maximum in mm of distances in metres."""
    mm = 1000 * distance
    p95, p99 = np.percentile(mm, [95, 99])
    return {
        "mean": float(mm.mean()),
        "p95": float(p95),
        "p99": float(p99),
        "max": float(mm.max()),
    }


def skin(model: dict[str, np.ndarray], rotations: np.ndarray, betas: np.ndarray) -> np.ndarray:
    """SMPL's own forward pass (V, 3) of an expanded model for local rotations (24, 3, 3)."""
    shaped = model["v_template"] + model["shapedirs"] @ betas
    joints = model["J_regressor"] @ shaped
    features = (rotations[1:] - np.eye(3)).ravel()
    transforms = blended(tree_transforms(rotations, joints), model["weights"])
    return apply(transforms, shaped + model["posedirs"] @ features)


def mirror_gap(model: dict[str, np.ndarray], poses: np.ndarray, pair: np.ndarray) -> np.ndarray:
    """Distances (n,) between mirrored bodies and bodies in mirrored poses."""
    rng, gaps = np.random.default_rng(3), []
    for pose in poses:
        betas = rng.normal(size=10)
        image = skin(model, mirror_pose(pose), betas)
        body = skin(model, pose, betas)[pair] * MIRROR_POSITION
        gaps.append(np.linalg.norm(body - image, axis=1))
    return np.concatenate(gaps)


def level_quality(points: np.ndarray, ids: np.ndarray, faces: np.ndarray, pair: np.ndarray) -> dict:
    """``mesh_quality`` of a coarse level given as sorted vertices of the whole mesh."""
    return mesh_quality(points[ids], np.searchsorted(ids, faces), np.searchsorted(ids, pair[ids]))


def measure(model: dict[str, np.ndarray], arrays: dict[str, np.ndarray], fit: dict) -> dict:
    """The quality table, measured on what the npz gives back.

    Args:
        model: the expanded arrays.
        arrays: those of the npz.
        fit: held-out ``bodies`` (N, V, 3), their ``joints`` (N, 24, 3), held-out ``poses``, the
            ``poser`` that knows the target of the correctives, ``explained`` variance ratios and
            the unrounded ``template``.
    """
    pair, template = arrays["pair"].astype(int), model["v_template"]
    betas = encode(fit["bodies"], template, model["shapedirs"])
    rebuilt = template + np.einsum("vck,nk->nvc", model["shapedirs"], betas)
    joint_error = np.linalg.norm(model["J_regressor"] @ fit["bodies"] - fit["joints"], axis=2)
    poser, poses = fit["poser"], fit["poses"]
    wanted = poser.residuals(poses)
    offsets = np.einsum("vcf,nf->nvc", model["posedirs"], pose_features(poses))
    nonzero = (model["J_regressor"] > 0).sum(1)
    per_joint = (1000 * joint_error.mean(0)).round(2).tolist()
    per_beta = 1000 * np.sqrt((model["shapedirs"] ** 2).sum(1).mean(0))
    half = len(arrays["v"])
    rounding = np.abs(template[:half] - fit["template"][:half]).max()
    return {
        "mesh": mesh_quality(template, model["f"].astype(int), pair),
        "level_1723": level_quality(template, arrays["lv1"], arrays["f1"], pair),
        "level_431": level_quality(template, arrays["lv2"], arrays["f2"], pair),
        "explained_variance": fit["explained"].cumsum().round(4).tolist(),
        "rms_mm_per_beta": per_beta.round(2).tolist(),
        "shape_held_out_mm": spread_mm(np.linalg.norm(rebuilt - fit["bodies"], axis=2)),
        "joints_held_out_mm": spread_mm(joint_error),
        "joints_held_out_mean_mm": dict(zip(JOINTS, per_joint, strict=True)),
        "regressor_nonzeros_per_row": [int(nonzero.min()), int(nonzero.max())],
        "skinning_error_mm": spread_mm(poser.distances(poses, 0 * offsets, wanted)),
        "with_correctives_mm": spread_mm(poser.distances(poses, offsets, wanted)),
        "posedirs_nonzero_share": float((model["posedirs"] != 0).mean()),
        "mirror_mm": spread_mm(mirror_gap(model, poses[:20], pair)),
        "template_rounding_mm": 1000 * float(rounding),
        "landmarks_m": {
            name: template[list(slots)].round(3).tolist() for name, slots in LANDMARKS.items()
        },
    }
