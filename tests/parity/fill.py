"""Deterministic tensors for parity checks: same name, shape and salt -> same bytes.

A parity case never ships weights. It ships the names and shapes of a reference
state dict, and both sides fill them with `fill`, so that a full-size model needs
a few kilobytes. Only NumPy's PCG64 bit stream is used, which NumPy guarantees
not to change between releases.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np

SMPL_PARENTS = [-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21]
N_VERTS, N_FACES, N_JOINTS, N_BETAS = 6890, 13776, 24, 10


def unit(name: str, shape: Sequence[int], salt: str = "") -> np.ndarray:
    """Uniform float32 values of zero mean and unit variance, named by `name` and `salt`."""
    n = math.prod(shape)
    seed = int.from_bytes(hashlib.sha256(f"{salt}/{name}".encode()).digest()[:8], "little")
    raw = np.random.PCG64(seed).random_raw((n + 1) // 2).view(np.uint32)[:n]
    values = (raw.astype(np.float32) * np.float32(2.0**-31) - np.float32(1.0)) * np.float32(
        math.sqrt(3.0)
    )
    return values.reshape(tuple(shape))


def fill(name: str, shape: Sequence[int], salt: str = "") -> np.ndarray:
    """The value of the state-dict entry `name`: scaled by its role so activations stay O(1).

    running_var in [1, 1.2); running_mean and every bias std 0.02; 1-D weights
    (norms, layer scales) 1 +- 0.1; everything of two or more dimensions std
    1/sqrt(fan_in) with fan_in = product of shape[1:]; scalars and counters 0.
    """
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(tuple(shape), np.int64)
    if len(shape) == 0:
        return np.zeros((), np.float32)
    u = unit(name, shape, salt)
    if leaf == "running_var":
        return np.abs(u) * np.float32(0.2 / math.sqrt(3.0)) + np.float32(1.0)
    if leaf == "running_mean" or leaf.endswith("bias"):
        return u * np.float32(0.02)
    if len(shape) == 1:
        return u * np.float32(0.1) + np.float32(1.0)
    return u * np.float32(1.0 / math.sqrt(math.prod(shape[1:])))


def fill_state_dict(shapes: Mapping[str, Sequence[int]], salt: str = "") -> dict[str, np.ndarray]:
    """`fill` over a whole table of names and shapes."""
    return {name: fill(name, shape, salt) for name, shape in shapes.items()}


def image(name: str, shape: Sequence[int], salt: str = "") -> np.ndarray:
    """A float32 input image batch (B, 3, H, W): smooth plus noise, mean about 0, variance 1."""
    b, c, h, w = shape
    yy, xx = np.mgrid[0:h, 0:w].astype(np.float32) / max(h, w)
    out = 0.3 * unit(name, shape, salt)
    waves = unit(name + ".waves", (b, c, 3), salt)
    for i in range(b):
        for j in range(c):
            a, p, q = waves[i, j]
            out[i, j] += np.sin(6.0 * (a * xx + p * yy) + q)
    return out.astype(np.float32)


def rotations(name: str, n: int, salt: str = "", angle: float = 0.6) -> np.ndarray:
    """(n, 3) axis-angle vectors in radians, std `angle` per coordinate."""
    return unit(name, (n, 3), salt) * np.float32(angle)


def smpl(salt: str = "") -> dict[str, np.ndarray]:
    """A nonsense body in the layout of a licensed SMPL file, for code that needs one to run.

    Keys, shapes and dtypes are those of the official files: v_template (6890,3),
    shapedirs (6890,3,10), posedirs (6890,3,207), J_regressor (24,6890) with rows
    that sum to 1, weights (6890,24) with rows that sum to 1 and at most 4 non-zero,
    kintree_table (2,24) uint32, f (13776,3) uint32. Metres.
    """
    v = unit("smpl.v_template", (N_VERTS, 3), salt) * np.float32([0.25, 0.5, 0.1])
    reg = np.zeros((N_JOINTS, N_VERTS), np.float32)
    pick = np.random.PCG64(7).random_raw(N_JOINTS * 10).reshape(N_JOINTS, 10) % N_VERTS
    for j in range(N_JOINTS):
        w = np.abs(unit(f"smpl.J_regressor.{j}", (10,), salt)) + np.float32(0.1)
        np.add.at(reg[j], pick[j].astype(np.int64), w / w.sum())
    lbs = np.zeros((N_VERTS, N_JOINTS), np.float32)
    bones = (np.random.PCG64(11).random_raw(N_VERTS * 4).reshape(N_VERTS, 4) % N_JOINTS).astype(
        np.int64
    )
    w = np.abs(unit("smpl.weights", (N_VERTS, 4), salt)) + np.float32(0.05)
    w = w / w.sum(1, keepdims=True)
    for k in range(4):
        np.add.at(lbs, (np.arange(N_VERTS), bones[:, k]), w[:, k])
    faces = (np.random.PCG64(13).random_raw(N_FACES * 3).reshape(N_FACES, 3) % N_VERTS).astype(
        np.uint32
    )
    parents = np.array(SMPL_PARENTS, np.int64)
    parents[0] = 2**32 - 1
    return {
        "v_template": v,
        "shapedirs": unit("smpl.shapedirs", (N_VERTS, 3, N_BETAS), salt) * np.float32(0.01),
        "posedirs": unit("smpl.posedirs", (N_VERTS, 3, 207), salt) * np.float32(0.002),
        "J_regressor": reg,
        "weights": lbs,
        "kintree_table": np.stack([parents, np.arange(N_JOINTS)]).astype(np.uint32),
        "f": faces,
    }


def joint_regressor(name: str, joints: int, salt: str = "") -> np.ndarray:
    """A (joints, 6890) float32 stand-in for J_regressor_extra / J_regressor_h36m: rows sum to 1."""
    out = np.zeros((joints, N_VERTS), np.float32)
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    pick = (np.random.PCG64(seed).random_raw(joints * 8).reshape(joints, 8) % N_VERTS).astype(
        np.int64
    )
    for j in range(joints):
        w = np.abs(unit(f"{name}.{j}", (8,), salt)) + np.float32(0.1)
        np.add.at(out[j], pick[j], w / w.sum())
    return out
