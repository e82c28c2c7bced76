"""Cameras of a rig from the files that people have: plain JSON, or OpenCV's YAML or XML."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001}
_OPENCV = (".yml", ".yaml", ".xml")
_JSON_HELP = (
    'a plain JSON file is {"unit": "m", "cameras": {"<name>": {"K": 3x3, "R": 3x3, "t": [x, y, z], '
    '"dist": [...]}}}, where x_cam = R x_world + t; unit and dist may be left out'
)
_MAX_SKEW = 1e-3  # of R from a rotation


@dataclass(frozen=True)
class RigCamera:
    """A calibrated camera."""

    intrinsics: np.ndarray  # (3, 3) px
    world_to_camera: np.ndarray  # (4, 4), metres
    distortion: np.ndarray  # (n,) OpenCV's coefficients; empty for a pinhole

    def undistort(self, image: np.ndarray) -> np.ndarray:
        """A picture (H, W, 3) as the pinhole of the same intrinsics would have taken it."""
        if not self.distortion.any():
            return image
        return cv2.undistort(image, self.intrinsics, self.distortion)


def read_calibration(path: Path, unit: str | None = None) -> dict[str, RigCamera]:
    """The cameras by name.

    Args:
        path: a JSON file; one OpenCV file with ``names`` and, for each, ``K_<name>``,
            ``Rot_<name>`` (or the vector ``R_<name>``), ``T_<name>`` and perhaps ``dist_<name>``; a
            folder with these as ``intri.yml`` and ``extri.yml``; or a folder with one OpenCV file
            ``<name>.yml`` per camera: ``camera_matrix``, ``R``, ``T`` and perhaps
            ``distortion_coefficients``.
        unit: of the translations, m, cm or mm; None for what a JSON file says, else metres.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        ValueError: naming the camera and what is wrong with it.
    """
    if unit is not None and unit not in UNITS:
        raise ValueError(f"calibration_unit={unit!r}: choose {', '.join(UNITS)}")
    if not path.exists():
        raise FileNotFoundError(f"calibration={path}: no such file or folder")
    own_unit = None
    if path.is_dir():
        cameras = _read_folder(path)
    elif path.suffix.lower() in _OPENCV:
        cameras = _named_cameras([path])
    else:
        cameras, own_unit = _read_json(path)
    if not cameras:
        raise ValueError(f"calibration={path} names no camera")
    scale = UNITS[unit or own_unit or "m"]
    return {name: _camera(path, name, entry, scale) for name, entry in cameras.items()}


def _read_json(path: Path) -> tuple[dict[str, dict[str, Any]], str | None]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"calibration={path} is not valid JSON: {error}") from error
    cameras = content.get("cameras") if isinstance(content, Mapping) else None
    is_map = isinstance(cameras, Mapping) and all(isinstance(c, Mapping) for c in cameras.values())
    unit = content.get("unit") if isinstance(content, Mapping) else None
    if not is_map or unit not in (None, *UNITS):
        raise ValueError(f"calibration={path} has no cameras or an unknown unit; {_JSON_HELP}")
    for name, entry in cameras.items():
        unknown = sorted(set(entry) - {"K", "R", "t", "dist"})
        if unknown:
            raise ValueError(
                f"calibration={path}, camera {name!r}: unknown {unknown}; {_JSON_HELP}"
            )
    return {name: dict(entry) for name, entry in cameras.items()}, unit


def _read_folder(folder: Path) -> dict[str, dict[str, Any]]:
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in _OPENCV)
    stems = {p.stem: p for p in files}
    if {"intri", "extri"} <= stems.keys():
        return _named_cameras([stems["intri"], stems["extri"]])
    names = {"camera_matrix": "K", "distortion_coefficients": "dist", "R": "R", "T": "t"}
    cameras = {}
    for path in files:
        found = _read_opencv(path, list(names))
        cameras[path.stem] = {ours: found[name] for name, ours in names.items() if name in found}
    return cameras


def _named_cameras(files: list[Path]) -> dict[str, dict[str, Any]]:
    """Cameras of files that list them under ``names``."""
    names = _camera_names(files[0])
    cameras: dict[str, dict[str, Any]] = {}
    for name in names:
        keys = {f"K_{name}": "K", f"dist_{name}": "dist", f"T_{name}": "t"}
        keys |= {f"R_{name}": "R", f"Rot_{name}": "R"}  # the matrix wins
        found: dict[str, Any] = {}
        for path in files:
            found |= _read_opencv(path, list(keys))
        cameras[name] = {ours: found[key] for key, ours in keys.items() if key in found}
    return cameras


def _camera_names(path: Path) -> list[str]:
    storage = _open(path)
    node = storage.getNode("names")
    names = [node.at(i).string() for i in range(node.size())] if node.isSeq() else []
    storage.release()
    if not all(names) or not names:
        raise ValueError(f"{path} has no list `names` of its cameras")
    return names


def _read_opencv(path: Path, keys: list[str]) -> dict[str, np.ndarray]:
    """The matrices of a file under some keys, those that are there."""
    storage = _open(path)
    nodes = {key: storage.getNode(key) for key in keys}
    found = {key: node.mat() for key, node in nodes.items() if not node.empty()}
    storage.release()
    for key, matrix in found.items():
        if matrix is None:
            raise ValueError(f"{path}: {key} is no matrix")
    return found


def _open(path: Path) -> cv2.FileStorage:
    try:
        storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_READ)
    except (cv2.error, SystemError) as error:
        raise ValueError(f"{path} is not a file of OpenCV's FileStorage: {error}") from error
    if not storage.isOpened():
        raise ValueError(f"{path} is not a file of OpenCV's FileStorage, or cannot be read")
    return storage


def _camera(path: Path, name: str, entry: Mapping[str, Any], scale: float) -> RigCamera:
    """Check one camera."""
    where = f"calibration={path}, camera {name!r}"
    missing = [key for key in ("K", "R", "t") if key not in entry]
    if missing:
        raise ValueError(f"{where}: no {' and no '.join(missing)}")
    try:
        arrays = {key: np.asarray(value, np.float64) for key, value in entry.items()}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: not numbers: {error}") from error
    for key, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{where}: {key} is not finite")
    intrinsics, turn, shift = arrays["K"], arrays["R"], arrays["t"].reshape(-1)
    if turn.size == 3:  # an axis-angle vector
        turn = cv2.Rodrigues(turn.reshape(3, 1))[0]
    if intrinsics.shape != (3, 3) or turn.shape != (3, 3) or shift.shape != (3,):
        raise ValueError(f"{where}: K and R are 3x3 (or R a vector of 3), t has 3 entries")
    if abs(turn @ turn.T - np.eye(3)).max() > _MAX_SKEW or np.linalg.det(turn) < 0:
        raise ValueError(f"{where}: R is no rotation")
    if not (intrinsics[0, 0] > 0 and intrinsics[1, 1] > 0):
        raise ValueError(f"{where}: the focal lengths in K are positive")
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn, scale * shift
    return RigCamera(intrinsics, matrix, arrays.get("dist", np.zeros(0)).reshape(-1))
