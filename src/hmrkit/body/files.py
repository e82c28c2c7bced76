"""Licensed bodies from the files their authors distribute: SMPL of every release, and SMPL+H.

SMPL+H has 30 finger joints where SMPL has two hand joints. It is used as a 24-joint body: the
joints of a hand are folded into ``left_hand`` or ``right_hand``, a child of the wrist placed at the
mean of the four finger bases. With these two at rest, as in 22-joint data, the mesh is exactly
SMPL+H's with flat hands; turning one of them turns all fingers of the hand as one.
"""

import logging
import re
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
import torch

from hmrkit.body import joints
from hmrkit.body.free import relaxed_pose
from hmrkit.body.pickles import load_pickle, to_array
from hmrkit.body.smpl import NUM_SMPL_VERTICES, SMPL, BodyData
from hmrkit.geometry.rotations import rot6d_interleaved_to_rotmat

_log = logging.getLogger(__name__)

_KEYS = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table", "f")
_NUM_BETAS = 10
_LETTER = {"neutral": "neutral", "male": "m", "female": "f"}
_BODY_JOINTS = joints.index(["left_hand", "right_hand"], "smpl24")[0]  # 22 that SMPL+H shares
_WRISTS = joints.index(["left_wrist", "right_wrist"], "smpl24")


def smpl_body(
    folder: str | Path,
    gender: str = "neutral",
    joint_regressor_extra: str | Path | None = None,
    joint_regressor_h36m: str | Path | None = None,
    mean_params: str | Path | None = None,
    kid_template: str | Path | None = None,
) -> SMPL:
    """A licensed SMPL or SMPL+H body.

    Files for which no path is given are looked for in the folder by their distributed names.
    Without the regressors the joint sets that need them raise; without ``smpl_mean_params.npz`` the
    mean pose is the relaxed pose of ``body/free.py``.

    Args:
        folder: where the files are (or one level below), or one model file.
        gender: neutral, male or female.
        joint_regressor_extra: J_regressor_extra.npy, (9, 6890); or SMPL_to_J19.pkl, (19, 6890),
            with which 4D-Humans and TokenHMR also measure the limbs of "spin44" on the surface.
        joint_regressor_h36m: J_regressor_h36m.npy, (17, 6890).
        mean_params: smpl_mean_params.npz with ``pose`` (144,) 6D interleaved and ``shape`` (10,).
        kid_template: AGORA's smpl_kid_template.npy, (6890, 3): the body has an 11th shape
            coefficient, from 0 for an adult to 1 for the template of a small child.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is not what it should be.
    """
    if gender not in _LETTER:
        raise ValueError(f"body.gender={gender!r}: choose neutral, male or female")
    path = _find_model(Path(folder), gender)
    side = path.parent if Path(folder).is_file() else Path(folder)
    arrays = read_body_file(path)
    extra = _side_file(side, joint_regressor_extra, "J_regressor_extra.npy")
    h36m = _side_file(side, joint_regressor_h36m, "J_regressor_h36m.npy")
    mean = _side_file(side, mean_params, "smpl_mean_params.npz")
    family = "smpl" if arrays["weights"].shape[1] == 24 else "smplh"
    data = body_data(
        f"{family}-{gender}",
        arrays,
        J_regressor_extra=read_regressor(extra, (9, 19)) if extra else None,
        J_regressor_h36m=read_regressor(h36m, (17,)) if h36m else None,
        mean_params=_read_npz(mean, ("pose", "shape")) if mean else None,
    )
    _log.info("body %s from %s", data.name, path)
    return SMPL(data if kid_template is None else _with_kid(data, Path(kid_template)))


def _with_kid(data: BodyData, path: Path) -> BodyData:
    """The body with one more shape coefficient (Patel et al. 2021, section 4.2)."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: smpl_kid_template.npy is on the download page of "
            "agora.is.tue.mpg.de, after registration"
        )
    template = np.load(path, allow_pickle=False)
    if template.shape != data.v_template.shape:
        raise ValueError(f"{path} has shape {template.shape}, not {data.v_template.shape}")
    step = (template - template.mean(axis=0) - data.v_template).astype(np.float32)
    return replace(
        data,
        name=f"{data.name}-kid",
        shapedirs=np.concatenate([data.shapedirs, step[..., None]], axis=2),
        mean_betas=np.append(data.mean_betas, np.float32(0)),
    )


def read_body_file(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a model file, pickle or npz, without running anything in it.

    Returns:
        ``v_template, shapedirs, posedirs, J_regressor, weights, kintree_table, f`` as distributed;
        sparse and chumpy values as plain arrays.

    Raises:
        ValueError: if it is no such file, or asks for code.
    """
    path = Path(path)
    if zipfile.is_zipfile(path):
        return _read_npz(path, _KEYS)
    with path.open("rb") as file:
        content = load_pickle(file, path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no body model: it holds a {type(content).__name__}")
    return _pick(content, _KEYS, path)


def body_data(
    name: str,
    arrays: Mapping[str, np.ndarray],
    J_regressor_extra: np.ndarray | None = None,
    J_regressor_h36m: np.ndarray | None = None,
    mean_params: Mapping[str, np.ndarray] | None = None,
) -> BodyData:
    """A body from the arrays of a model file.

    Args:
        name: of the body.
        arrays: as ``read_body_file`` gives them.
        J_regressor_extra: (9, 6890).
        J_regressor_h36m: (17, 6890).
        mean_params: ``pose`` (144,) and ``shape`` (10,) of SPIN's file.

    Raises:
        ValueError: if it is neither SMPL nor SMPL+H.
    """
    parents = arrays["kintree_table"][0].astype(np.int64)
    parents[0] = -1
    kept = {key: np.asarray(arrays[key], np.float32) for key in _KEYS if key != "kintree_table"}
    num_vertices, num_joints = kept["weights"].shape
    num_betas = kept["shapedirs"].shape[-1]
    if num_vertices != NUM_SMPL_VERTICES or num_joints not in (24, 52) or num_betas < _NUM_BETAS:
        raise ValueError(
            f"{name} has {num_vertices} vertices, {num_joints} joints and {num_betas} shape "
            f"coefficients; hmrkit poses SMPL (24 joints) and SMPL+H (52) of {NUM_SMPL_VERTICES} "
            f"vertices and at least {_NUM_BETAS} coefficients"
        )
    if num_joints == 52:
        kept |= _fold_hands(kept, parents)
        parents = np.concatenate([parents[:_BODY_JOINTS], _WRISTS])
    if tuple(parents) != joints.SMPL_PARENTS:
        raise ValueError(f"{name} has another kinematic tree than SMPL: parents {parents.tolist()}")
    mean_pose, mean_betas = relaxed_pose(), np.zeros(_NUM_BETAS, np.float32)
    if mean_params is not None:
        rot6d = torch.from_numpy(np.asarray(mean_params["pose"], np.float32).reshape(24, 6))
        mean_pose = rot6d_interleaved_to_rotmat(rot6d).numpy()
        mean_betas = np.asarray(mean_params["shape"], np.float32).reshape(-1)[:_NUM_BETAS]
    return BodyData(
        name=name,
        v_template=kept["v_template"],
        shapedirs=kept["shapedirs"][..., :_NUM_BETAS],
        posedirs=kept["posedirs"],
        weights=kept["weights"],
        J_regressor=kept["J_regressor"],
        faces=np.asarray(arrays["f"]).astype(np.int64),
        parents=parents,
        mean_pose=mean_pose,
        mean_betas=mean_betas,
        J_regressor_extra=J_regressor_extra,
        J_regressor_h36m=J_regressor_h36m,
    )


def _fold_hands(arrays: Mapping[str, np.ndarray], parents: np.ndarray) -> dict[str, np.ndarray]:
    """Weights, regressor and pose blend shapes of SMPL+H for 24 joints: see this file's top."""
    num = _BODY_JOINTS
    weights, regressor = [arrays["weights"][:, :num]], [arrays["J_regressor"][:num]]
    for wrist in _WRISTS:
        fingers = [wrist]
        for joint in range(num, len(parents)):  # parents come first
            if parents[joint] in fingers:
                fingers.append(joint)
        bases = np.flatnonzero(parents == wrist)[:4]  # index, middle, pinky, ring; then the thumb
        weights.append(arrays["weights"][:, fingers[1:]].sum(axis=1, keepdims=True))
        regressor.append(arrays["J_regressor"][bases].mean(axis=0, keepdims=True))
    posedirs = arrays["posedirs"][..., : 9 * (num - 1)]
    rest = np.zeros((*posedirs.shape[:2], 18), posedirs.dtype)
    return {
        "weights": np.concatenate(weights, axis=1),
        "J_regressor": np.concatenate(regressor),
        "posedirs": np.concatenate([posedirs, rest], axis=2),
    }


def model_files(folder: Path, gender: str) -> list[Path]:
    """The model files of a gender by their distributed names: SMPL before SMPL+H, newest first.

    Args:
        folder: where they are, or up to two levels below.
        gender: neutral, male or female.
    """
    patterns = (
        rf"(.*/)?smpl_{gender}\.(npz|pkl)",
        rf"(.*/)?basicmodel_{_LETTER[gender]}_lbs_10_207_0_v\d\.\d\.\d\.pkl",
        rf"(.*/)?smplh_{gender}\.(npz|pkl)",
        rf"(.*/)?{gender}/model\.(npz|pkl)",  # SMPL+H as AMASS distributes it
    )
    found = {
        path.relative_to(folder).as_posix().lower(): path
        for pattern in ("*", "*/*", "*/*/*")
        for path in folder.glob(pattern)
        if path.suffix in (".npz", ".pkl")
    }
    names = sorted(found, reverse=True)
    return [found[n] for pattern in patterns for n in names if re.fullmatch(pattern, n)]


def _find_model(folder: Path, gender: str) -> Path:
    if folder.is_file():
        return folder
    if found := model_files(folder, gender):
        return found[0]
    version = "1.0.0" if gender == "neutral" else "1.1.0"
    raise FileNotFoundError(
        f"no {gender} SMPL body in {folder}. body=smpl needs SMPL_{gender.upper()}.pkl or .npz, "
        f"basicmodel_{_LETTER[gender]}_lbs_10_207_0_v{version}.pkl, or SMPLH_{gender.upper()}.pkl "
        f"there, as downloaded after registration at smpl.is.tue.mpg.de. body=free works without; "
        f"python -m hmrkit.doctor body_models={folder} shows what is there"
    )


def _side_file(folder: Path, given: str | Path | None, name: str) -> Path | None:
    path = Path(given) if given is not None else folder / name
    if path.is_file():
        return path
    if given is None:
        _log.warning("%s has no %s (it is in the SPIN data archive)", folder, name)
        return None
    raise FileNotFoundError(
        f"{path} does not exist: give the path of {name}, which is in the SPIN data archive, or "
        "leave the option out and put the file beside the body's. body=free works without"
    )


def read_regressor(path: Path, num_rows: tuple[int, ...]) -> np.ndarray:
    """A table (K, 6890) that gives joints as mixtures of vertices, from .npy or .pkl.

    Args:
        path: of the file.
        num_rows: numbers of joints K that it may have.

    Raises:
        ValueError: if it is no such table.
    """
    if path.suffix == ".pkl":
        with path.open("rb") as file:
            table = to_array(load_pickle(file, path))
    else:
        table = np.load(path, allow_pickle=False)
    shapes = [(rows, NUM_SMPL_VERTICES) for rows in num_rows]
    if table.shape not in shapes:
        raise ValueError(
            f"{path} has shape {table.shape} instead of {' or '.join(map(str, shapes))}: take the "
            "file of that name from the SPIN data archive"
        )
    return table.astype(np.float32)


def _read_npz(path: Path, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    content = {}
    with zipfile.ZipFile(path) as archive:
        for key in set(keys) & {name.removesuffix(".npy") for name in archive.namelist()}:
            with archive.open(f"{key}.npy") as file:
                content[key] = _read_npy(file, path)
    return _pick(content, keys, path)


def _read_npy(file: IO[bytes], path: Path) -> object:
    """One array of an npz; an object in it goes through the restricted reader."""
    version = np.lib.format.read_magic(file)
    is_old = version == (1, 0)
    read_header = (
        np.lib.format.read_array_header_1_0 if is_old else np.lib.format.read_array_header_2_0
    )
    _, _, dtype = read_header(file)
    if dtype.hasobject:
        return load_pickle(file, path)
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def _pick(content: Mapping, keys: tuple[str, ...], path: Path) -> dict[str, np.ndarray]:
    missing = sorted(set(keys) - content.keys())
    if missing:
        known = ", ".join(sorted(str(key) for key in content)) or "nothing"
        raise ValueError(f"{path} is not the file expected: {missing} missing; it holds {known}")
    arrays = {}
    for key in keys:
        try:
            arrays[key] = to_array(content[key])
        except Exception as error:  # what a damaged file holds in place of numbers can be anything
            raise ValueError(f"{path}: {key} cannot be read: {error!r}") from error
    return arrays
