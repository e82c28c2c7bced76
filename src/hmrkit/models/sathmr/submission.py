"""AGORA's test submission: one pickle per person, zipped."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

_FOLDER = "predictions"
_WIDTH_PX = 3840  # of the images that AGORA counts pixels in


def person_files(
    image: str, joints_px: np.ndarray, pose: np.ndarray, betas: np.ndarray, width_px: float
) -> dict[str, bytes]:
    """The files of the people in one image: name in the archive -> content.

    Args:
        image: name of the image's file, without its ending.
        joints_px: (N, 24, 2) SMPL's joints, px of the input.
        pose: (N, 24, 3) axis-angle.
        betas: (N, 10).
        width_px: of the input, to which AGORA's images are scaled.
    """
    files = {}
    for person, (joints, angles, shape) in enumerate(zip(joints_px, pose, betas, strict=True)):
        content = {
            "joints": (joints * (_WIDTH_PX / width_px)).astype(np.float32),
            "params": {
                "transl": np.zeros((1, 3)),
                "betas": shape[None].astype(np.float32),
                "global_orient": angles[None, :1].astype(np.float32),
                "body_pose": angles[None, 1:].astype(np.float32),
            },
        }
        files[f"{_FOLDER}/{image}_personId_{person}.pkl"] = pickle.dumps(content)
    return files


def write_archive(path: str | Path, files: Mapping[str, bytes]) -> None:
    """Write the files of all images as the zip that AGORA's server takes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
