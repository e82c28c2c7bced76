"""TokenHMR's loss: threshold-adaptive loss scaling (TALS).

2D keypoints and fitted bodies are no ground truth: a body that fits them perfectly under the wrong
camera is wrong. So they count in full only where the error exceeds what a good fit has anyway, and
with ``loose_weight`` below that. Exact labels (``Batch.has_exact_labels``) always count in full.
"""

import roma
import torch
from torch import Tensor, nn

from hmrkit import losses
from hmrkit.body import joints
from hmrkit.body.smpl import SMPL
from hmrkit.geometry.cameras import project
from hmrkit.models.tokenhmr.tokenizer import NUM_JOINTS
from hmrkit.types import Batch, Body, Mesh, Prediction

# Squared distance in shares of the crop's side, by joint of "spin44" (authors' configuration).
KEYPOINT_THRESHOLDS = (
    0.0085024, 0.00648666, 0.00747825, 0.01103439, 0.01355629, 0.00741691, 0.01096735, 0.01414461,
    0.00974212, 0.01127469, 0.01663222, 0.00564927, 0.01126335, 0.01615757, 0.00532595, 0.00829731,
    0.00831497, 0.00737241, 0.00743286, 0.00543739, 0.00550524, 0.00535504, 0.00565414, 0.00581685,
    0.00573041, 0.00554029, 0.01515258, 0.00986267, 0.00997563, 0.01519944, 0.00511402, 0.01288267,
    0.01105894, 0.00710525, 0.00709785, 0.01092387, 0.01388091, 0.00648326, 0.00766487, 0.00931454,
    0.00646622, 0.00677057, 0.00744011, 0.00752381,
)  # fmt: skip
# Radians, by joint of the body pose; the authors use 0.8 of them.
ANGLE_THRESHOLDS = (
    0.273709, 0.26481161, 0.1838198, 0.41490657, 0.37521194, 0.20793171, 0.24905021, 0.33887333,
    0.14481062, 0.35632194, 0.34944217, 0.30542146, 0.32835298, 0.33110567, 0.34813467, 0.36357761,
    0.40062272, 0.43493496, 0.4400709, 0.78017052, 0.7375746, 0.24927082, 0.24966981,
)  # fmt: skip
_ANGLE_SCALE = 0.8
_ROOT_THRESHOLD = 0.46  # radians
_MIN_CONFIDENCE = 0.5  # of a 2D joint whose 3D joint is to count


def tals(error: Tensor, threshold: Tensor, loose_weight: float) -> Tensor:
    """Weight of an error: 1 above its threshold, ``loose_weight`` at or below it.

    Args:
        error: any shape, without gradient.
        threshold: broadcastable to it.
        loose_weight: of errors that a good fit has too.
    """
    return torch.where(error > threshold, 1.0, loose_weight)


def vertex_weights(vertices: Tensor, faces: Tensor) -> Tensor:
    """Weight (V,) of each vertex: the sum over its faces of their areas, scaled to [0, 1].

    Args:
        vertices: (V, 3) metres, rest pose.
        faces: (F, 3).
    """
    a, b, c = vertices[faces].unbind(1)
    area = torch.linalg.cross(b - a, c - a, dim=-1).norm(dim=-1)  # twice it, (F,)
    share = (area - area.min()) / (area.max() - area.min())
    weight = torch.zeros(len(vertices), device=vertices.device)
    return weight.index_add(0, faces.flatten(), share.repeat_interleave(3))


class TokenizerLoss(nn.Module):
    """Weighted loss terms of the pose tokenizer, means over the batch.

    Bodies are compared in the mean shape and without a root rotation: only their poses differ.

    Args:
        pose: squared difference of the 21 rotation matrices.
        vertices: squared distance, weighted by ``vertex_weights``, metres.
        joints: squared distance of the 21 joints, metres.
        commitment: of the encoder to the codes.
    """

    def __init__(
        self,
        pose: float = 20.0,
        vertices: float = 100.0,
        joints: float = 100.0,
        commitment: float = 1.0,
    ) -> None:
        super().__init__()
        self.weights = {
            "pose": pose,
            "vertices": vertices,
            "joints": joints,
            "commitment": commitment,
        }

    def forward(self, prediction: Prediction, batch: Batch, body_model: SMPL) -> dict[str, Tensor]:
        """The weighted terms by name, in float32.

        Args:
            prediction: of ``PoseTokenizer``.
            batch: the poses that were coded.
            body_model: makes meshes.
        """
        label, pred = batch["body"].body_pose, prediction.body.body_pose.float()
        with torch.autocast(label.device.type, enabled=False):
            with torch.no_grad():
                target = body_model(_pose_only(label))
                rest = body_model(_pose_only(torch.eye(3, device=label.device).expand(1, 23, 3, 3)))
                vertex_weight = vertex_weights(rest.vertices[0], body_model.faces)
            terms = reconstruction_terms(
                pred, label, body_model(_pose_only(pred)), target, vertex_weight
            )
            terms["commitment"] = prediction.extra["commitment"].float()
            return {name: weight * terms[name] for name, weight in self.weights.items()}


def reconstruction_terms(
    pred: Tensor, label: Tensor, mesh: Mesh, target: Mesh, vertex_weight: Tensor
) -> dict[str, Tensor]:
    """How far coded poses are from the originals: means over everything.

    Args:
        pred: (P, 23, 3, 3); hands are left out.
        label: likewise.
        mesh: of the coded poses.
        target: of the originals.
        vertex_weight: (V,).
    """
    of_vertices = (mesh.vertices - target.vertices).square() * vertex_weight[:, None]
    of_joints = (mesh.joints[:, 1 : NUM_JOINTS + 1] - target.joints[:, 1 : NUM_JOINTS + 1]).square()
    return {
        "pose": (pred - label)[:, :NUM_JOINTS].square().mean(),
        "vertices": of_vertices.mean(),
        "joints": of_joints.mean(),
    }


def _pose_only(body_pose: Tensor) -> Body:
    """Bodies (P, 23, 3, 3) of the mean shape at the origin."""
    num = len(body_pose)
    identity = torch.eye(3, device=body_pose.device).expand(num, 3, 3)
    return Body(identity, body_pose, body_pose.new_zeros(num, 10), body_pose.new_zeros(num, 3))


class TokenHMRLoss(nn.Module):
    """Weighted loss terms of TokenHMR, sums over the batch.

    Args:
        keypoints2d: L1 of projected joints, in shares of the crop's side (half of a crop unit).
        keypoints3d: L1 of joints relative to the pelvis, metres.
        global_orient: squared difference of rotation matrices of the root.
        body_pose: the same of the 23 other joints.
        betas: squared difference; with ``with_tals`` exact labels only.
        with_tals: without it every label counts in full.
        loose_weight: of errors below their threshold.
        with_unlabelled_pose: upstream pulls people of exact sources to the stored pose even where
            it is flagged as no label; true does so too.
    """

    is_batch_sum = True

    def __init__(
        self,
        keypoints2d: float = 0.01,
        keypoints3d: float = 0.05,
        global_orient: float = 0.001,
        body_pose: float = 0.001,
        betas: float = 0.0005,
        with_tals: bool = True,
        loose_weight: float = 0.05,
        with_unlabelled_pose: bool = False,
    ) -> None:
        super().__init__()
        self.weights = {
            "keypoints2d": keypoints2d,
            "keypoints3d": keypoints3d,
            "global_orient": global_orient,
            "body_pose": body_pose,
            "betas": betas,
        }
        self.with_tals = with_tals
        self.loose_weight = loose_weight
        self.with_unlabelled_pose = with_unlabelled_pose
        self.root = joints.index("spin_pelvis", "spin44")
        buffers = {
            "in_batch": torch.tensor(joints.index(joints.names("spin44"), "all")),
            "threshold2d": torch.tensor(KEYPOINT_THRESHOLDS),
            "threshold_root": torch.tensor(_ROOT_THRESHOLD),
            "threshold_pose": torch.tensor(ANGLE_THRESHOLDS) * _ANGLE_SCALE,
        }
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, prediction: Prediction, batch: Batch, body_model: SMPL) -> dict[str, Tensor]:
        """The weighted terms by name, in float32.

        Args:
            prediction: bodies in camera axes, O = P.
            batch: crops whose world is the camera's frame.
            body_model: makes joints.
        """
        with torch.autocast(prediction.transl_cam.device.type, enabled=False):
            terms = self._keypoint_terms(prediction, batch, body_model)
            body, label = prediction.body, batch["body"]
            angles = ("global_orient", self.threshold_root), ("body_pose", self.threshold_pose)
            for name, threshold in angles:
                terms[name] = self._pose_term(
                    getattr(body, name), getattr(label, name), threshold, batch
                )
            has_betas = batch["has_betas"]
            if self.with_tals:
                has_betas = has_betas & batch["has_exact_labels"]
            error = losses.squared_distance(body.betas, label.betas)
            terms["betas"] = (has_betas * error).sum()
            return {name: weight * terms[name] for name, weight in self.weights.items()}

    def _keypoint_terms(
        self, prediction: Prediction, batch: Batch, body_model: SMPL
    ) -> dict[str, Tensor]:
        joints_cam = body_model.joints(prediction.body, "spin44")  # (P, 44, 3)
        points = joints_cam + prediction.transl_cam[:, None]
        points_crop = project(points, prediction.intrinsics_crop)
        target2d = batch["keypoints_crop"][:, self.in_batch]
        target3d = batch["keypoints_world"][:, self.in_batch]
        weight2d, weight3d = target2d[..., 2], target3d[..., 3]
        if self.with_tals:
            distance = (points_crop - target2d[..., :2]).detach().square().sum(dim=-1) / 4
            error = weight2d * distance  # (P, 44) in squared shares of the crop's side
            is_far = error > self.threshold2d
            is_trusted = batch["has_exact_labels"][:, None] | (
                is_far & (weight2d > _MIN_CONFIDENCE)
            )
            weight2d = weight2d * tals(error, self.threshold2d, self.loose_weight)
            weight3d = weight3d * is_trusted
        error3d = losses.root_relative_l1(joints_cam, target3d, self.root)
        return {
            "keypoints2d": (weight2d * losses.side_l1(points_crop, target2d)).sum(),
            "keypoints3d": (weight3d * error3d).sum(),
        }

    def _pose_term(self, pred: Tensor, label: Tensor, threshold: Tensor, batch: Batch) -> Tensor:
        """Squared distance of rotations (P, 3, 3) or (P, 23, 3, 3)."""
        error = (pred - label).square().sum(dim=(-2, -1))  # (P,) or (P, 23)
        shape = (-1, *[1] * (error.ndim - 1))
        has_label = batch["has_pose"].view(shape)
        if not self.with_tals:
            return (has_label * error).sum()
        is_exact = batch["has_exact_labels"].view(shape)
        angle = roma.rotmat_geodesic_distance(pred.detach(), label)
        weight = has_label * tals(angle, threshold, self.loose_weight)
        counts = is_exact if self.with_unlabelled_pose else is_exact & has_label
        return (torch.where(counts, 1.0, weight) * error).sum()
