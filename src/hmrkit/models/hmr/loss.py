"""HMR's loss: labels of whatever kind a sample carries, each compared in its own space.

The defaults are the outer loss of Meta-HMR's published training.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from hmrkit import losses
from hmrkit.body import joints
from hmrkit.body.smpl import SMPL
from hmrkit.geometry.cameras import project
from hmrkit.types import Batch, Body, Prediction


class HMRLoss(nn.Module):
    """Weighted loss terms of a network that predicts one body per crop.

    A term of weight 0 is neither computed nor returned; without ``vertices`` no mesh is made.

    Args:
        keypoints2d: projected joints against the labels in the crop, crop units.
        keypoints3d: joints relative to the middle of the hips, metres.
        vertices: L1 distance to the labelled body's vertices, metres.
        pose: rotation matrices, mean squared difference.
        betas: shape, mean squared difference.
        camera: penalty on small or negative scales.
        scale: multiplies every term.
        joint_set: joints of both keypoint terms; those named ``openpose_...`` are 2D only.
        openpose_weight: multiplies the confidence of the ``openpose_...`` joints.
        gt_weight: multiplies the confidence of the others.
        keypoint_norm: ``l2`` (squared) or ``l1``.
    """

    def __init__(
        self,
        keypoints2d: float = 5.0,
        keypoints3d: float = 5.0,
        vertices: float = 0.5,
        pose: float = 1.0,
        betas: float = 0.001,
        camera: float = 1.0,
        scale: float = 60.0,
        joint_set: str = "spin49",
        openpose_weight: float = 0.0,
        gt_weight: float = 1.0,
        keypoint_norm: losses.Norm = "l2",
    ) -> None:
        super().__init__()
        weights = {
            "keypoints2d": keypoints2d,
            "keypoints3d": keypoints3d,
            "vertices": vertices,
            "pose": pose,
            "betas": betas,
            "camera": camera,
        }
        self.weights = {name: scale * weight for name, weight in weights.items() if weight}
        self.joint_set = joint_set
        self.keypoint_norm = keypoint_norm
        names = joints.names(joint_set)
        is_openpose = torch.tensor([name.startswith("openpose_") for name in names])
        joint_weight = torch.where(is_openpose, openpose_weight, gt_weight)
        self.register_buffer("joint_weight", joint_weight, persistent=False)
        in_batch = torch.tensor(joints.index(names, "all"))
        self.register_buffer("in_batch", in_batch, persistent=False)  # (K,) rows of Batch's joints
        rows_3d = (~is_openpose).nonzero()[:, 0]
        self.register_buffer("rows_3d", rows_3d, persistent=False)
        names_3d = [name for name in names if not name.startswith("openpose_")]
        hips = [row for row, name in enumerate(names_3d) if name.endswith("_hip")]
        if len(hips) != 2:
            raise ValueError(f"joint_set {joint_set!r} needs two hips outside OpenPose's joints")
        self.register_buffer("hips", torch.tensor(hips), persistent=False)  # rows of rows_3d

    def forward(self, prediction: Prediction, batch: Batch, body_model: SMPL) -> dict[str, Tensor]:
        """The weighted terms by name, in float32.

        Args:
            prediction: bodies in camera axes, O = P.
            batch: crops whose world is the camera's frame.
            body_model: makes joints, and vertices where that term counts.
        """
        with torch.autocast(prediction.transl_cam.device.type, enabled=False):
            terms = self._parameter_terms(prediction, batch)
            if "vertices" in self.weights:
                mesh = prediction.mesh
                if mesh is None:
                    mesh = body_model(prediction.body)
                terms["vertices"] = _vertex_term(mesh.vertices, batch, body_model)
                joints_cam = body_model.joints_from_mesh(mesh, self.joint_set)
                terms |= self._keypoint_terms(joints_cam, prediction, batch)
            elif {"keypoints2d", "keypoints3d"} & self.weights.keys():
                joints_cam = body_model.joints(prediction.body, self.joint_set)
                terms |= self._keypoint_terms(joints_cam, prediction, batch)
            return {name: weight * terms[name] for name, weight in self.weights.items()}

    def _parameter_terms(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        terms, label = {}, batch["body"]
        if "pose" in self.weights:
            difference = (_rotmats(prediction.body) - _rotmats(label)).square()
            terms["pose"] = losses.masked_mean(difference, batch["has_pose"])
        if "betas" in self.weights:
            difference = (prediction.body.betas - label.betas).square()
            terms["betas"] = losses.masked_mean(difference, batch["has_betas"])
        if "camera" in self.weights:
            terms["camera"] = losses.scale_penalty(prediction.extra["cam"][:, 0])
        return terms

    def _keypoint_terms(
        self, joints_cam: Tensor, prediction: Prediction, batch: Batch
    ) -> dict[str, Tensor]:
        """From the joints (P, K, 3) of the predicted bodies."""
        terms = {}
        if "keypoints2d" in self.weights:
            points = joints_cam + prediction.transl_cam[:, None]
            points_crop = project(points, prediction.intrinsics_crop)  # (P, K, 2)
            target_crop = batch["keypoints_crop"][:, self.in_batch]
            terms["keypoints2d"] = losses.keypoints2d_loss(
                points_crop, target_crop, self.joint_weight, self.keypoint_norm
            )
        if "keypoints3d" in self.weights:
            target = batch["keypoints_world"][:, self.in_batch[self.rows_3d]]
            has_root = (target[:, self.hips, 3] > 0).all(dim=1)
            terms["keypoints3d"] = losses.keypoints3d_loss(
                joints_cam[:, self.rows_3d], target, has_root, self.hips, self.keypoint_norm
            )
        return terms


def _rotmats(body: Body) -> Tensor:
    """All 24 rotations (P, 24, 3, 3)."""
    return torch.cat([body.global_orient[:, None], body.body_pose], dim=1)


def _vertex_term(vertices: Tensor, batch: Batch, body_model: SMPL) -> Tensor:
    """Mean L1 distance to the labelled bodies, both at the origin of the body's own frame."""
    label = replace(batch["body"], transl=torch.zeros_like(batch["body"].transl))
    with torch.no_grad():
        target = body_model(label).vertices
    has_label = batch["has_pose"] & batch["has_betas"]
    return losses.masked_mean((vertices - target).abs(), has_label)
