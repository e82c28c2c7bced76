"""PyMAF's loss: every loop against the labels, and dense correspondences against drawn ones."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hmrkit import losses
from hmrkit.body import joints
from hmrkit.body.smpl import SMPL
from hmrkit.geometry.cameras import project
from hmrkit.models.pymaf.camera import fit_camera
from hmrkit.models.pymaf.iuv import COARSE, Atlas, IUVRenderer, densepose_atlas, own_atlas
from hmrkit.types import Batch, Body, Prediction

_NUM_PARTS = 25


class PyMAFLoss(nn.Module):
    """Weighted loss terms, the loops' summed.

    A term of weight 0 is neither computed nor returned.

    Args:
        keypoints2d: projected joints against the labels, crop units.
        keypoints3d: joints relative to the middle of the hips, metres.
        vertices: L1 distance to the labelled body's vertices, metres.
        pose: rotation matrices, mean squared difference.
        betas: shape, mean squared difference.
        camera: penalty on small or negative scales.
        dense_uv: smooth L1 of U and V in the channel of the pixel's part, summed over the pixels.
        dense_part: cross entropy of 25 classes.
        dense_coarse_part: cross entropy of 15 classes.
        atlas: ``UV_Processed.mat`` for SMPL; None for the body's own.
        joint_set: joints of both keypoint terms; those named ``openpose_...`` are 2D only.
        openpose_weight: multiplies the confidence of the ``openpose_...`` joints.
        gt_weight: multiplies the confidence of the others.
        keypoint_norm: ``l2`` (squared, as in the paper) or ``l1``, of both keypoint terms.
    """

    def __init__(
        self,
        keypoints2d: float = 300.0,
        keypoints3d: float = 300.0,
        vertices: float = 0.0,
        pose: float = 60.0,
        betas: float = 0.06,
        camera: float = 1.0,
        dense_uv: float = 0.5,
        dense_part: float = 1.0,
        dense_coarse_part: float = 1.0,
        atlas: str | Path | None = None,
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
        self.weights = {name: weight for name, weight in weights.items() if weight}
        dense = {
            "dense_u": dense_uv,
            "dense_v": dense_uv,
            "dense_part": dense_part,
            "dense_coarse_part": dense_coarse_part,
        }
        self.dense_weights = {name: weight for name, weight in dense.items() if weight}
        self.atlas, self.joint_set, self.keypoint_norm = atlas, joint_set, keypoint_norm
        self.renderer: IUVRenderer | None = None  # made with the first batch, which has the body
        names = joints.names(joint_set)
        is_openpose = torch.tensor([name.startswith("openpose_") for name in names])
        rows_3d = (~is_openpose).nonzero()[:, 0]
        names_3d = [name for name in names if not name.startswith("openpose_")]
        hips = [row for row, name in enumerate(names_3d) if name.endswith("_hip")]
        coarse = torch.zeros(_NUM_PARTS, dtype=torch.int64)
        for number, parts in enumerate(COARSE):
            coarse[list(parts)] = number
        buffers = {
            "joint_weight": torch.where(is_openpose, openpose_weight, gt_weight),
            "in_batch": torch.tensor(joints.index(names, "all")),  # (K,) rows of Batch's joints
            "rows_3d": rows_3d,
            "hips": torch.tensor(hips),  # rows of rows_3d
            "coarse": coarse,
        }
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, prediction: Prediction, batch: Batch, body_model: SMPL) -> dict[str, Tensor]:
        """The weighted terms by name, in float32.

        Args:
            prediction: bodies in camera axes, O = P.
            batch: crops whose world is the camera's frame.
            body_model: makes joints and meshes.
        """
        with torch.autocast(prediction.transl_cam.device.type, enabled=False):
            has_body = batch["has_pose"] & batch["has_betas"]
            target: Tensor | None = None
            if "vertices" in self.weights or self.dense_weights:
                target = _label_vertices(batch, body_model)
            loops = [
                self._loop_terms(loop, batch, body_model, target)
                for loop in [*prediction.stages, prediction]
            ]
            terms = {
                name: weight * torch.stack([loop[name] for loop in loops]).sum()
                for name, weight in self.weights.items()
            }
            if self.dense_weights and "part" in prediction.extra:
                assert target is not None
                iuv = self.draw_targets(target, batch, prediction, body_model)
                dense = dense_terms(prediction.extra, iuv, has_body, self.coarse)
                terms |= {name: w * dense[name] for name, w in self.dense_weights.items()}
            return terms

    def prepare(self, body_model: SMPL) -> None:
        """Read the atlas before the first step, where one is needed."""
        if self.dense_weights:
            self.read_atlas(body_model)

    def read_atlas(self, body_model: SMPL) -> Atlas:
        """The atlas of the dense targets.

        Raises:
            FileNotFoundError: if its file is missing.
            ValueError: if the file is another one, or the body has no atlas or not its vertices.
        """
        atlas = densepose_atlas(self.atlas) if self.atlas else own_atlas(body_model)
        if atlas.vertex.max() >= body_model.num_vertices:
            raise ValueError(
                f"the atlas {self.atlas} is of a body with {atlas.vertex.max() + 1} vertices, but "
                f"{body_model.name!r} has {body_model.num_vertices}"
            )
        return atlas

    @torch.no_grad()
    def draw_targets(
        self, vertices: Tensor, batch: Batch, prediction: Prediction, body_model: SMPL
    ) -> Tensor:
        """IUV pictures (P, 3, h, w) of the labelled bodies (P, V, 3) in the crop.

        The camera is the one under which the body's joints come nearest to the labelled ones.
        """
        size_hw = tuple(prediction.extra["part"].shape[-2:])
        if self.renderer is None:
            self.renderer = IUVRenderer(self.read_atlas(body_model), size_hw).to(vertices.device)
        intrinsics = prediction.intrinsics_crop
        rows = self.rows_3d
        label = batch["body"]
        body = Body(label.global_orient, label.body_pose, label.betas, 0 * label.transl)
        points = body_model.joints(body, self.joint_set)[:, rows]
        target2d = batch["keypoints_crop"][:, self.in_batch[rows]]
        transl = fit_camera(points, target2d[..., :2], target2d[..., 2], intrinsics)
        return self.renderer(vertices + transl[:, None], intrinsics)

    def _loop_terms(
        self, loop: Prediction, batch: Batch, body_model: SMPL, target: Tensor | None
    ) -> dict[str, Tensor]:
        label = batch["body"]
        if "vertices" in self.weights:
            mesh = body_model(loop.body)
            joints_cam = body_model.joints_from_mesh(mesh, self.joint_set)
        else:
            joints_cam = body_model.joints(loop.body, self.joint_set)  # (P, K, 3)
        points_crop = project(joints_cam + loop.transl_cam[:, None], loop.intrinsics_crop)
        target3d = batch["keypoints_world"][:, self.in_batch[self.rows_3d]]
        has_root = (target3d[:, self.hips, 3] > 0).all(dim=1)
        pose_error = (_rotmats(loop.body) - _rotmats(label)).square()
        betas_error = (loop.body.betas - label.betas).square()
        terms = {
            "keypoints2d": losses.keypoints2d_loss(
                points_crop,
                batch["keypoints_crop"][:, self.in_batch],
                self.joint_weight,
                self.keypoint_norm,
            ),
            "keypoints3d": losses.keypoints3d_loss(
                joints_cam[:, self.rows_3d], target3d, has_root, self.hips, self.keypoint_norm
            ),
            "pose": losses.masked_mean(pose_error, batch["has_pose"]),
            "betas": losses.masked_mean(betas_error, batch["has_betas"]),
            "camera": losses.scale_penalty(loop.extra["cam"][:, 0]),
        }
        if "vertices" in self.weights:
            has_body = batch["has_pose"] & batch["has_betas"]
            terms["vertices"] = losses.masked_mean((mesh.vertices - target).abs(), has_body)
        return terms


def dense_terms(
    predicted: dict[str, Tensor], iuv: Tensor, is_valid: Tensor, coarse: Tensor
) -> dict[str, Tensor]:
    """Loss of the dense head; 0 for samples that are not valid.

    Background is a part like the others: its U and V are 0 at every pixel that shows no body.

    Args:
        predicted: ``part``, ``u`` and ``v`` (P, 25, h, w), ``coarse_part`` (P, 15, h, w).
        iuv: (P, 3, h, w) part / 24, U, V.
        is_valid: (P,) bool.
        coarse: (25,) the coarse part of each part.
    """
    part = (24 * iuv[:, 0]).round().long()  # (P, h, w)
    weight = is_valid.float()
    num_pixels = part[0].numel() * weight.sum().clamp(min=1)
    terms = {}
    for row, name in enumerate(("u", "v"), start=1):
        value = predicted[name].gather(1, part[:, None])[:, 0]
        error = F.smooth_l1_loss(value, iuv[:, row], reduction="none").sum(dim=(1, 2))
        terms[f"dense_{name}"] = (weight * error).sum() / len(part)  # of the whole batch (authors)
    for name, target in (("part", part), ("coarse_part", coarse[part])):
        error = F.cross_entropy(predicted[name], target, reduction="none").sum(dim=(1, 2))
        terms[f"dense_{name}"] = (weight * error).sum() / num_pixels
    return terms


def _rotmats(body: Body) -> Tensor:
    """All 24 rotations (P, 24, 3, 3)."""
    return torch.cat([body.global_orient[:, None], body.body_pose], dim=1)


@torch.no_grad()
def _label_vertices(batch: Batch, body_model: SMPL) -> Tensor:
    """Vertices (P, V, 3) of the labelled bodies at the origin of their own frame."""
    label = batch["body"]
    body = Body(label.global_orient, label.body_pose, label.betas, torch.zeros_like(label.transl))
    return body_model(body).vertices
