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
from hmrkit.evaluation import Protocol, person_metrics, prefixed, scored_meshes
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
        labelled_joints: ``body``: those of the labelled body; ``annotated``: the annotated ones,
            as 4D-Humans and TokenHMR score 3DPW;
            ``regressed``: SMPL's 24 as its joint regressor reads them off both posed meshes, as
            TokenHMR scores EMDB.
    """

    body_models: str
    unknown_gender: Literal["neutral", "male", "female"] = "neutral"
    pve_origin: Literal["root", "body"] = "root"
    labelled_joints: Literal["body", "annotated", "regressed"] = "body"

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
        if self.labelled_joints not in ("body", "annotated", "regressed"):
            raise ValueError(
                f"protocol {self.name!r}: labelled_joints={self.labelled_joints!r}; choose body, "
                "annotated or regressed"
            )
        if self.labelled_joints == "regressed" and self.measured_set != "smpl24":
            raise ValueError(
                f"protocol {self.name!r}: labelled_joints=regressed is for joint_set=smpl24"
            )

    def measure(self, prediction: Prediction, batch: Batch, body_model: SMPL) -> dict[str, Tensor]:
        """See ``Protocol.measure``; reads ``gender`` of the batch too."""
        labels = self.label_mesh(batch, body_model)
        target = self.target_joints(labels, batch, body_model)
        rows: dict[str, Tensor] = {}
        for prefix, mesh in scored_meshes(prediction, batch, body_model).items():
            rows |= prefixed(prefix, person_metrics(mesh, labels, target, batch, body_model, self))
        return rows

    def mesh_joints(self, mesh: Mesh, body_model: SMPL) -> Tensor:
        """See ``Protocol.mesh_joints`` and ``labelled_joints``."""
        if self.labelled_joints == "regressed":
            return body_model.regress_joints(mesh.vertices)
        return super().mesh_joints(mesh, body_model)

    def target_joints(self, labels: Mesh, batch: Batch, body_model: SMPL) -> Tensor:
        """See ``Protocol.target_joints`` and ``labelled_joints``."""
        if self.labelled_joints == "body":
            return super().target_joints(labels, batch, body_model)
        if self.labelled_joints == "annotated":
            return self.annotated_joints(batch)
        posed = body_model.regress_joints(labels.vertices)
        is_labelled = (batch["has_pose"] & batch["has_betas"])[:, None, None]
        confidence = is_labelled.expand(*posed.shape[:2], 1).to(posed.dtype)
        return torch.cat([posed, confidence], dim=-1)

    def vertex_errors(
        self, mesh: Mesh, labels: Mesh, predicted: Tensor, target: Tensor, body_model: SMPL
    ) -> Tensor:
        """See ``Protocol.vertex_errors`` and ``pve_origin``."""
        if self.pve_origin == "body":
            return metrics.pve_mm(mesh.vertices, labels.vertices)
        if self.labelled_joints == "annotated":  # whose origin need not be the body's
            target = self.mesh_joints(labels, body_model)
        return super().vertex_errors(mesh, labels, predicted, target, body_model)

    def labels_in_words(self) -> str:
        """See ``Protocol.labels_in_words``."""
        kinds = {
            "body": "joints of the labelled body of everybody's own gender",
            "annotated": "annotated joints; vertices of the body of everybody's own gender",
            "regressed": "joints that the neutral regressor reads off the posed mesh of "
            "everybody's own gender (and off the predicted one)",
        }
        unknown = f", {self.unknown_gender} where none is stated"
        pve = "about the root" if self.pve_origin == "root" else "in the frames of the bodies"
        return f"labels: {kinds[self.labelled_joints]}{unknown}; PVE {pve}"

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
        num = len(gender)
        vertices = label.betas.new_empty(num, body_model.num_vertices, 3)
        skeleton = label.betas.new_empty(num, *body_model.mean_mesh().joints.shape[1:])
        for one in set(gender.tolist()):
            rows = (gender == one).nonzero()[:, 0]
            theirs = Body(*(value[rows] for value in vars(label).values()))
            own_body = body_model
            if one != _GENDERS["neutral"]:
                own_body = _body_of(self.body_models, one, str(rows.device))
            own = own_body(theirs)
            vertices[rows], skeleton[rows] = own.vertices, own.joints
        return Mesh(vertices, skeleton)


@lru_cache(maxsize=8)
def _body_of(folder: str, gender: int, device: str) -> SMPL:
    """The body of a gender, once per process and device."""
    return GenderedBodies(folder)[gender].to(device)
