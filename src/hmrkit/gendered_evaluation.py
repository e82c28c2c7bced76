"""Scores against labelled bodies of people's own gender, as 3DPW's and Human3.6M's are published.

The network predicts the neutral body. A label's pose and shape mean a male, a female or the neutral
body, whose files lie in one folder; each is read when the first person of that gender comes.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from hmrkit import metrics
from hmrkit.body.gendered import GenderedBodies
from hmrkit.body.smpl import SMPL
from hmrkit.evaluation import Protocol, person_metrics, scored_meshes
from hmrkit.types import Batch, Body, Mesh, Prediction

_GENDERS = {"neutral": -1, "male": 0, "female": 1}


@dataclass(frozen=True)
class GenderedProtocol(Protocol):
    """MPJPE, PA-MPJPE and PVE against the labelled body of everybody's own gender.

    Attributes:
        name: see ``Protocol``.
        joint_set: see ``Protocol``.
        root: see ``Protocol``.
        body_models: folder of SMPL's three files; the neutral body is the run's own.
        unknown_gender: whose body somebody without a gender has; Meta-HMR takes the male one.
        pve_origin: ``root``: both meshes are moved to their roots; ``body``: they are compared in
            the frame of the body model, as Meta-HMR does, where a root that is a little off counts.
    """

    body_models: str
    unknown_gender: Literal["neutral", "male", "female"] = "neutral"
    pve_origin: Literal["root", "body"] = "root"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.unknown_gender not in _GENDERS:
            raise ValueError(
                f"protocol {self.name!r}: unknown_gender={self.unknown_gender!r}; choose from "
                f"{', '.join(_GENDERS)}"
            )
        if self.pve_origin not in ("root", "body"):
            raise ValueError(
                f"protocol {self.name!r}: pve_origin={self.pve_origin!r}; choose root or body"
            )

    def measure(self, prediction: Prediction, batch: Batch, body_model: SMPL) -> dict[str, Tensor]:
        """See ``Protocol.measure``; reads ``gender`` of the batch too."""
        labels = self.label_mesh(batch, body_model)
        rows = {}
        for prefix, mesh in scored_meshes(prediction, batch, body_model).items():
            values = person_metrics(mesh, labels, batch, body_model, self)
            if self.pve_origin == "body":
                pve = metrics.pve_mm(mesh.vertices, labels.vertices)
                values["pve"] = torch.where(values["pve"].isnan(), torch.nan, pve)
            rows |= {prefix + metric: value for metric, value in values.items()}
        return rows

    def label_mesh(self, batch: Batch, body_model: SMPL) -> Mesh:
        """The labelled bodies as meshes, each of its gender, at the origin of its own frame.

        Args:
            batch: ``body`` (P,) and ``gender`` (P,).
            body_model: the neutral body.

        Raises:
            FileNotFoundError: naming the body file that is missing.
        """
        body = batch["body"]
        label = replace(body, transl=torch.zeros_like(body.transl))
        unknown = _GENDERS[self.unknown_gender]
        gender = torch.where(batch["gender"] < 0, unknown, batch["gender"])
        mesh = body_model(label)
        vertices, skeleton = mesh.vertices.clone(), mesh.joints.clone()
        for one in set(gender.tolist()) - {-1}:
            rows = (gender == one).nonzero()[:, 0]
            theirs = Body(*(value[rows] for value in vars(label).values()))
            own = _body_of(self.body_models, one, str(rows.device))(theirs)
            vertices[rows], skeleton[rows] = own.vertices, own.joints
        return Mesh(vertices, skeleton)


@lru_cache(maxsize=8)
def _body_of(folder: str, gender: int, device: str) -> SMPL:
    """The body of a gender, once per process and device."""
    return GenderedBodies(folder)[gender].to(device)
