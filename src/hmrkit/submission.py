"""Predictions for servers that keep the labels: AGORA's test set, one pickle per person, zipped."""

import logging
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BasePredictionWriter

from hmrkit.geometry.rotations import rotmat_to_axis_angle
from hmrkit.scene_evaluation import detected, found_joints_px
from hmrkit.types import Batch, Prediction

log = logging.getLogger(__name__)

_FOLDER = "predictions"
_WIDTH_PX = 3840  # of the images that AGORA counts pixels in


class AgoraSubmission(BasePredictionWriter):
    """Collects everybody whom a method finds in whole images, and writes one archive in the end.

    Args:
        path: of the archive.
        min_score: who scores above it is somebody.
    """

    def __init__(self, path: str | Path, min_score: float = 0.5) -> None:
        super().__init__("batch")
        self.path, self.min_score = Path(path), min_score
        self.files: dict[str, bytes] = {}

    @torch.no_grad()
    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: Any,
        prediction: Prediction,
        batch_indices: Sequence[int] | None,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Keep the people of a batch.

        Raises:
            ValueError: if the method does not find people itself, or two images have one name.
        """
        if prediction.image_of_person is None:
            raise ValueError("AGORA's archive is for methods that find people in whole images")
        found = detected(prediction, self.min_score)
        joints_px = found_joints_px(found, pl_module.body(found.body), batch)
        rotmats = torch.cat([found.body.global_orient[:, None], found.body.body_pose], dim=1)
        poses = rotmat_to_axis_angle(rotmats)
        for image, key in enumerate(batch["key"]):
            own = found.image_of_person == image
            people = (joints_px[own], poses[own], found.body.betas[own])
            width_px = float(batch["input_size"][image, 1])
            files = person_files(key, *(part.cpu().numpy() for part in people), width_px)
            if not files.keys().isdisjoint(self.files):
                raise ValueError(f"two images are called {key!r}: AGORA's archive holds one")
            self.files |= files

    def on_predict_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Write what all processes found."""
        parts = [self.files]
        if trainer.world_size > 1:
            parts = [{}] * trainer.world_size
            torch.distributed.all_gather_object(parts, self.files)
        if trainer.is_global_zero:
            files = {name: part[name] for part in parts for name in part}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_archive(self.path, dict(sorted(files.items())))
            log.info("%d people: %s", len(files), self.path)


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
