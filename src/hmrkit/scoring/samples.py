"""The worst, median and best people of a test: as pictures, and as meshes to turn."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hmrkit import report
from hmrkit.body.smpl import SMPL
from hmrkit.evaluation import Protocol
from hmrkit.module import HMRModule
from hmrkit.render import viewer
from hmrkit.reporting import columns as columns_of_report
from hmrkit.types import Batch, Prediction

_COLORS = {"prediction": (0.43, 0.64, 0.95), "label": (0.56, 0.80, 0.55)}


@dataclass(frozen=True)
class Sample:
    """One person of a test set, as the report shows them.

    Attributes:
        group: ``worst``, ``median`` or ``best``.
        source: the test set.
        caption: who it is, and the error.
        picture: (H, W, 3) uint8 RGB.
        figure: HTML of the predicted and the labelled body, to turn (``render.viewer``), of the
            first of its group and source; "" for the others.
    """

    group: str
    source: str
    caption: str
    picture: np.ndarray
    figure: str


@torch.no_grad()
def pick(
    module: HMRModule,
    datamodule: Any,
    protocols: dict[str, Protocol],
    rows: dict[str, dict[str, np.ndarray]],
    num: int,
) -> list[Sample]:
    """``num`` people of each group of every test source; their batches are read again.

    Args:
        module: predicts.
        datamodule: reads.
        protocols: of the sources.
        rows: of the sources, see ``hmrkit.report``.
        num: per group.
    """
    samples = []
    module.eval()
    for source, columns in rows.items():
        error = "pa_mpjpe" if "pa_mpjpe" in columns else columns_of_report.metric_names(columns)[0]
        measure = columns_of_report.metric(error)
        for group, picked in report.pick_samples(columns[error], num).items():
            for place, row in enumerate(picked):
                unit, person = columns["index"][row], int(columns["person"][row])
                batch = datamodule.test_batch(source, [int(unit)])
                batch = module.transfer_batch_to_device(batch, module.device, 0)
                full = module.predict(batch)
                prediction = protocols[source].shown(full)
                if _has_row_per_view(batch, columns["index"] == unit):
                    view = int((columns["index"][:row] == unit).sum())
                else:
                    view = _first_view(batch, person)
                value = f"{columns[error][row]:.{max(0, measure.decimals - 1)}f} {measure.unit}"
                samples.append(
                    Sample(
                        group,
                        source,
                        f"{columns['key'][row]}: {measure.title} {value}",
                        report.sample_picture(batch, prediction, module.body, view),
                        "" if place else _figure(batch, prediction, module.body, person),
                    )
                )
    return samples


def _figure(batch: Batch, prediction: Prediction, body_model: SMPL, person: int) -> str:
    bodies = _bodies(batch, prediction, body_model, person)
    if not bodies:
        return ""
    colors = np.array([_COLORS[name] for name in bodies])
    faces = body_model.faces.cpu().numpy()
    return viewer.figure([*bodies.values()], faces, colors=colors, names=[*bodies])


def _bodies(
    batch: Batch, prediction: Prediction, body_model: SMPL, person: int
) -> dict[str, np.ndarray]:
    """Predicted and labelled body of a person of the batch; of scenes, who was found nearest."""
    if person < 0:
        return {}
    bodies = {}
    label = body_model(batch["body"])
    mesh = prediction.mesh or body_model(prediction.body)
    row = person
    if prediction.image_of_person is not None:
        image = batch["image_of_view"][_first_view(batch, person)]
        here = label.joints[person, 0] @ batch["world_to_camera"][image, :3, :3].T
        here = here + batch["world_to_camera"][image, :3, 3]
        far = (mesh.joints[:, 0] + prediction.transl_cam - here).norm(dim=-1)
        far = far.where(prediction.image_of_person == image, torch.inf)
        row = int(far.argmin()) if len(far) and bool(far.isfinite().any()) else -1
    if row >= 0:
        bodies["prediction"] = _about_pelvis(mesh.vertices[row], mesh.joints[row])
    if bool(batch["has_pose"][person] & batch["has_betas"][person]):
        bodies["label"] = _about_pelvis(label.vertices[person], label.joints[person])
    if "world_to_camera" in batch:
        image = int(batch["image_of_view"][_first_view(batch, person)])
        turn = batch["world_to_camera"][image, :3, :3].cpu().numpy()
        is_turned = prediction.image_of_person is not None  # found people are in camera axes
        bodies = {
            name: vertices if is_turned and name == "prediction" else vertices @ turn.T
            for name, vertices in bodies.items()
        }
    else:  # of motion, whose y points up
        bodies = {name: vertices * [1, -1, -1] for name, vertices in bodies.items()}
    return {name: v.astype(np.float32) for name, v in bodies.items() if np.isfinite(v).all()}


def _about_pelvis(vertices: Tensor, joints: Tensor) -> np.ndarray:
    return (vertices - joints[:1]).float().cpu().numpy()


def _has_row_per_view(batch: Batch, is_of_unit: np.ndarray) -> bool:
    """Whether the rows of a unit are the views of its people, of which they have several."""
    owner = batch.get("person_of_view")
    is_rig = owner is not None and len(owner) != len(batch["has_pose"])
    return is_rig and int(is_of_unit.sum()) == len(owner)


def _first_view(batch: Batch, person: int) -> int:
    """The row of a person's first view; without images, of the person."""
    if "person_of_view" not in batch or person < 0:
        return person
    return int((batch["person_of_view"] == person).int().argmax())
