"""Folders of pictures of calibrated cameras, as people give them to the demo."""

import json
from pathlib import Path

import cv2
import numpy as np

from hmrkit.body.free import free_body_data
from hmrkit.data.synth.cast import Studio
from hmrkit.data.synth.generate import draw_record
from hmrkit.data.synth.people import FastBody
from hmrkit.data.synth.recipe import Recipe
from hmrkit.types import Sample


def made_rig(num_instants: int = 1, num_cameras: int = 4, size_px: int = 96) -> list[Sample]:
    """Records of one rig: everybody stands before the cameras of the first."""
    studio = Studio(FastBody(free_body_data()))
    recipe = Recipe(num_cameras=num_cameras, occluder_probability=0.0, max_shapes=1)
    return [draw_record("rigs", studio, recipe, (size_px, size_px), 5, 0)] * num_instants


def write_rig(folder: Path, records: list[Sample]) -> None:
    """``<camera>/<instant>.png`` and ``cameras.json`` in metres."""
    cameras = {}
    for camera in range(len(records[0]["images"])):
        where = folder / f"cam{camera}"
        where.mkdir(parents=True)
        for instant, record in enumerate(records):
            picture = cv2.cvtColor(record["images"][camera], cv2.COLOR_RGB2BGR)
            cv2.imwrite(str(where / f"{instant:06d}.png"), picture)
        matrix = records[0]["world_to_camera"][camera].astype(float)
        cameras[f"cam{camera}"] = {
            "K": records[0]["intrinsics"][camera].astype(float).tolist(),
            "R": orthogonal(matrix[:3, :3]).tolist(),
            "t": matrix[:3, 3].tolist(),
        }
    content = {"unit": "m", "cameras": cameras}
    (folder / "cameras.json").write_text(json.dumps(content))


def orthogonal(matrix: np.ndarray) -> np.ndarray:
    u, _, v = np.linalg.svd(matrix)
    return u @ v
