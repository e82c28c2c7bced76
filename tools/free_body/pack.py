"""Write the compact npz (format: top of ``make_free_body.py``) and expand it again for checks."""

import io
import zipfile
from pathlib import Path

import numpy as np

from free_body.skeleton import MIRROR_POSITION, PARENTS, joint_pair

ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # fixed, so that the same arrays give the same bytes


def quantize(values: np.ndarray, axes: tuple[int, ...], dtype: type) -> tuple:
    """Integers of ``dtype`` and float32 scales (kept dims) with one scale over ``axes``."""
    top = np.iinfo(dtype).max
    scale = np.maximum(np.abs(values).max(axis=axes, keepdims=True), 1e-20) / top
    scale = scale.astype(np.float32)
    return np.clip(np.rint(values / scale), -top, top).astype(dtype), scale


def pack_weights(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The four largest weights: joint ids uint8 and shares uint16 that sum to 65535; (n, 4)."""
    joint = np.argsort(-weights, axis=1, kind="stable")[:, :4]
    share = np.take_along_axis(weights, joint, axis=1)
    whole = np.rint(65535 * share / share.sum(1, keepdims=True))
    whole[:, 0] += 65535 - whole.sum(1)
    return np.where(whole > 0, joint, 0).astype(np.uint8), whole.astype(np.uint16)


def pack(model: dict[str, np.ndarray], num_half: int) -> dict[str, np.ndarray]:
    """The arrays of the npz from the expanded ``model``."""
    half = slice(0, num_half)
    positions, position_scale = quantize(model["v_template"][half], (0, 1), np.int16)
    shape, shape_scale = quantize(model["shapedirs"][half].transpose(2, 0, 1), (1, 2), np.int16)
    joint_ids, shares = pack_weights(model["weights"][half])
    blocks = model["posedirs"][half].reshape(num_half, 3, 23, 9).transpose(0, 2, 1, 3)
    vertex, joint = np.nonzero(np.abs(blocks).max(axis=(2, 3)) > 0)
    block_scale = quantize(blocks, (0, 2, 3), np.int8)[1].ravel()
    # one scale for both sides, so that the midline rounds symmetrically
    block_scale = np.maximum(block_scale, block_scale[joint_pair()[1:] - 1])
    values = np.rint(blocks[vertex, joint] / block_scale[joint][:, None, None])
    rows, columns = np.nonzero(model["J_regressor"])
    is_stored = rows <= joint_pair()[rows]
    rows, columns = rows[is_stored], columns[is_stored]
    return {
        "v": positions,
        "v_s": position_scale,
        "sd": shape,
        "sd_s": shape_scale,
        "w_i": joint_ids,
        "w_v": shares,
        "f": model["half_faces"].astype(np.uint16),
        "pd_v": vertex.astype(np.uint16),
        "pd_j": joint.astype(np.uint8),
        "pd": values.astype(np.int8),
        "pd_s": block_scale,
        "jr_r": rows.astype(np.uint8),
        "jr_c": columns.astype(np.uint16),
        "jr_v": model["J_regressor"][rows, columns].astype(np.float32),
        "pair": model["pair"].astype(np.uint16),
        "lv1": model["lv1"].astype(np.uint16),
        "lv2": model["lv2"].astype(np.uint16),
        "f1": model["f1"].astype(np.uint16),
        "f2": model["f2"].astype(np.uint16),
        "betas_female": model["betas_female"].astype(np.float32),
        "betas_male": model["betas_male"].astype(np.float32),
    }


def unpack(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """SMPL's own arrays from those of the npz, in float64."""
    pair, partner = arrays["pair"].astype(int), joint_pair()
    num, num_half = len(pair), len(arrays["v"])
    twin = pair[:num_half]
    is_side = twin >= num_half

    def both(half: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
        whole = np.zeros((num, *half.shape[1:]))
        whole[:num_half] = half
        whole[twin[is_side]] = mirrored[is_side]
        return whole

    template = arrays["v"] * arrays["v_s"].astype(float)
    shape = (arrays["sd"] * arrays["sd_s"].astype(float)).transpose(1, 2, 0)
    weights = np.zeros((num_half, 24))
    rows = np.arange(num_half)[:, None]
    np.add.at(weights, (rows, arrays["w_i"]), arrays["w_v"] / 65535)
    blocks = np.zeros((num_half, 24, 3, 9))
    joint = arrays["pd_j"].astype(int)
    scaled = arrays["pd"] * arrays["pd_s"][joint][:, None, None].astype(float)
    blocks[arrays["pd_v"], joint + 1] = scaled
    turned = np.outer(MIRROR_POSITION, MIRROR_POSITION).ravel()
    mirrored_blocks = blocks[:, partner] * MIRROR_POSITION[:, None] * turned
    posedirs = both(blocks, mirrored_blocks)[:, 1:].transpose(0, 2, 1, 3).reshape(num, 3, 207)
    regressor = np.zeros((24, num))
    regressor[arrays["jr_r"], arrays["jr_c"]] = arrays["jr_v"]
    is_right = np.arange(24) > partner
    regressor[is_right] = regressor[partner[is_right]][:, pair]
    half_faces = arrays["f"].astype(int)
    parents = np.array([2**32 - 1, *PARENTS[1:]], dtype=np.uint32)
    return {
        "v_template": both(template, template * MIRROR_POSITION),
        "shapedirs": both(shape, shape * MIRROR_POSITION[:, None]),
        "posedirs": posedirs,
        "weights": both(weights, weights[:, partner]),
        "J_regressor": regressor / regressor.sum(1, keepdims=True),
        "f": np.concatenate([half_faces, pair[half_faces][:, ::-1]]).astype(np.uint32),
        "kintree_table": np.stack([parents, np.arange(24, dtype=np.uint32)]),
    }


def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write the npz, best deflate, with fixed dates: same arrays, same bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", ZIP_DATE)
            archive.writestr(info, buffer.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=9)
