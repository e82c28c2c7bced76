"""What Meta-HMR's steps go down: 2D evidence, and distance to the auxiliary network's prediction.

Every term is computed for each person, so that people can be adapted together or alone.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from hmrkit import losses
from hmrkit.body import joints
from hmrkit.body.smpl import SMPL
from hmrkit.geometry.cameras import project
from hmrkit.types import Batch, Body, Prediction


class Term(NamedTuple):
    """A loss term of P people."""

    values: Tensor  # (P,)
    is_valid: Tensor  # (P,) bool: does it count for this person?


class Evidence(nn.Module):
    """Squared distance of projected joints to 2D keypoints, crop units.

    Args:
        joint_set: joints that are compared; all of them stay in the mean's denominator.
        openpose_weight: multiplies the confidence of the ``openpose_...`` joints.
        gt_weight: multiplies the confidence of the others.
    """

    def __init__(
        self, joint_set: str = "spin49", openpose_weight: float = 0.0, gt_weight: float = 1.0
    ) -> None:
        super().__init__()
        self.joint_set = joint_set
        names = joints.names(joint_set)
        is_openpose = torch.tensor([name.startswith("openpose_") for name in names])
        weight = torch.where(is_openpose, openpose_weight, gt_weight)
        self.register_buffer("joint_weight", weight, persistent=False)  # (K,)
        in_batch = torch.tensor(joints.index(names, "all"))
        self.register_buffer("in_batch", in_batch, persistent=False)  # (K,) rows of Batch's joints

    def count_all(self) -> None:
        """From now on the confidence of every joint counts as it is."""
        self.joint_weight.fill_(1.0)

    def forward(self, prediction: Prediction, batch: Batch, body_model: SMPL) -> Tensor:
        """Mean over (K, 2) for each person (P,).

        Args:
            prediction: bodies in camera axes, O = P.
            batch: reads ``keypoints_crop``.
            body_model: makes joints.
        """
        with torch.autocast(prediction.transl_cam.device.type, enabled=False):
            joints_cam = body_model.joints(prediction.body, self.joint_set)
            return self.of_joints(joints_cam, prediction, batch)

    def of_joints(self, joints_cam: Tensor, prediction: Prediction, batch: Batch) -> Tensor:
        """The same, given the joints (P, K, 3) of the predicted bodies."""
        points = joints_cam + prediction.transl_cam[:, None]
        points_crop = project(points, prediction.intrinsics_crop)  # (P, K, 2)
        target_crop = batch["keypoints_crop"][:, self.in_batch]
        weight = target_crop[..., 2:] * self.joint_weight[:, None]
        return (weight * (points_crop - target_crop[..., :2]).square()).mean(dim=(1, 2))


class InnerLoss(nn.Module):
    """Weighted terms against 2D evidence and the auxiliary network's prediction.

    A term of weight 0 is neither computed nor returned. Gradients flow into both predictions.

    Args:
        evidence: the 2D term; its joints that are not OpenPose's are those of the 3D term.
        keypoints2d: projected joints against the evidence, crop units.
        keypoints3d: joints relative to the middle of the hips, metres.
        vertices: L1 distance of the vertices, metres.
        pose: rotation matrices, mean squared difference.
        betas: shape, mean squared difference.
        camera: penalty on small or negative scales.
        with_unlabelled: compare people whose annotation lacks that kind of label, too.
    """

    def __init__(
        self,
        evidence: Evidence,
        keypoints2d: float = 5.0,
        keypoints3d: float = 5.0,
        vertices: float = 0.5,
        pose: float = 1.0,
        betas: float = 0.001,
        camera: float = 1.0,
        with_unlabelled: bool = False,
    ) -> None:
        super().__init__()
        self.evidence = evidence
        weights = {
            "keypoints2d": keypoints2d,
            "keypoints3d": keypoints3d,
            "vertices": vertices,
            "pose": pose,
            "betas": betas,
            "camera": camera,
        }
        self.weights = {name: weight for name, weight in weights.items() if weight}
        self.with_unlabelled = with_unlabelled
        names = joints.names(evidence.joint_set)
        is_3d = torch.tensor([not name.startswith("openpose_") for name in names])
        self.register_buffer("rows_3d", is_3d.nonzero()[:, 0], persistent=False)
        is_hip = torch.tensor([name.endswith("_hip") for name in names]) & is_3d
        if "keypoints3d" in self.weights and int(is_hip.sum()) != 2:
            raise ValueError(
                f"joint_set {evidence.joint_set!r} needs two hips outside OpenPose's joints"
            )
        self.register_buffer("hips", is_hip.nonzero()[:, 0], persistent=False)

    def forward(
        self, prediction: Prediction, pseudo: Prediction, batch: Batch, body_model: SMPL
    ) -> dict[str, Tensor]:
        """The weighted terms by name, each a mean over the people it counts for."""
        return means(self.terms(prediction, pseudo, batch, body_model))

    def terms(
        self, prediction: Prediction, pseudo: Prediction, batch: Batch, body_model: SMPL
    ) -> dict[str, Term]:
        """The weighted terms of every person by name, in float32.

        Args:
            prediction: bodies in camera axes, O = P.
            pseudo: the auxiliary network's.
            batch: its ``keypoints_crop`` are the evidence; which labels it has decides who counts.
            body_model: makes joints, and vertices where that term counts.
        """
        with torch.autocast(prediction.transl_cam.device.type, enabled=False):
            points, vertices = self._surface(prediction, body_model)
            target, target_vertices = self._surface(pseudo, body_model)
            values = {
                "keypoints2d": self.evidence.of_joints(points, prediction, batch),
                "keypoints3d": (self._root_relative(points) - self._root_relative(target)).square(),
                "pose": (_rotmats(prediction.body) - _rotmats(pseudo.body)).square(),
                "betas": (prediction.body.betas - pseudo.body.betas).square(),
            }
            if "vertices" in self.weights:
                values["vertices"] = (vertices - target_vertices).abs()
            if "camera" in self.weights:
                values["camera"] = (-10 * prediction.extra["cam"][:, 0]).exp().square()
            is_valid, num = self._is_valid(batch), len(points)
            return {
                name: Term(weight * values[name].reshape(num, -1).mean(dim=1), is_valid[name])
                for name, weight in self.weights.items()
            }

    def _surface(self, prediction: Prediction, body_model: SMPL) -> tuple[Tensor, Tensor | None]:
        """Joints (P, K, 3) and, where they count, vertices (P, V, 3)."""
        if "vertices" not in self.weights:
            return body_model.joints(prediction.body, self.evidence.joint_set), None
        mesh = prediction.mesh or body_model(prediction.body)
        return body_model.joints_from_mesh(mesh, self.evidence.joint_set), mesh.vertices

    def _root_relative(self, points: Tensor) -> Tensor:
        return points[:, self.rows_3d] - points[:, self.hips].mean(dim=1, keepdim=True)

    def _is_valid(self, batch: Batch) -> dict[str, Tensor]:
        """Who counts (P,) in each term."""
        everyone = torch.ones_like(batch["has_pose"])
        if self.with_unlabelled:
            return dict.fromkeys(self.weights, everyone)
        hips = batch["keypoints_world"][:, self.evidence.in_batch[self.hips], 3]
        return {
            "keypoints2d": everyone,
            "keypoints3d": (hips > 0).all(dim=1),
            "vertices": batch["has_pose"] & batch["has_betas"],
            "pose": batch["has_pose"],
            "betas": batch["has_betas"],
            "camera": everyone,
        }


def means(terms: dict[str, Term]) -> dict[str, Tensor]:
    """Each term's mean over the people it counts for; 0 if there is none."""
    return {name: losses.masked_mean(*term) for name, term in terms.items()}


def _rotmats(body: Body) -> Tensor:
    """All 24 rotations (P, 24, 3, 3)."""
    return torch.cat([body.global_orient[:, None], body.body_pose], dim=1)
