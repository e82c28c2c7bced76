"""HMR2.0's loss: sums over the batch, so its scale grows with the batch size.

The adversarial pose prior takes one step per iteration together with the network: the network's
term sees the discriminator's weights without a gradient to them, the discriminator's term the
predicted bodies without a gradient to the network, both from before the step. That is upstream's
pair of optimisers in one, and an iteration is one step.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hmrkit import losses
from hmrkit.body import joints
from hmrkit.body.smpl import SMPL
from hmrkit.geometry.cameras import project
from hmrkit.layers.discriminator import PoseDiscriminator
from hmrkit.types import Batch, Body, Prediction


class HMR2Loss(nn.Module):
    """Weighted loss terms of HMR2.0.

    Args:
        keypoints2d: L1 of projected joints, in shares of the crop's side (half of a crop unit).
        keypoints3d: L1 of joints relative to ``root``, metres.
        global_orient: squared difference of rotation matrices of the root.
        body_pose: the same of the 23 other joints.
        betas: squared difference.
        adversarial: of the pose prior, for the network and for its discriminator, per image; the
            batch then needs real bodies, ``prior``. 0 leaves the prior out.
        joint_set: joints of both keypoint terms.
        root: the joint of that set which both sides are centred at.
    """

    is_batch_sum = True  # but for the pose prior, whose share in it depends on the batch size

    def __init__(
        self,
        keypoints2d: float = 0.01,
        keypoints3d: float = 0.05,
        global_orient: float = 0.001,
        body_pose: float = 0.001,
        betas: float = 0.0005,
        adversarial: float = 0.0005,
        joint_set: str = "spin44",
        root: str = "spin_pelvis",
    ) -> None:
        super().__init__()
        self.weights = {
            "keypoints2d": keypoints2d,
            "keypoints3d": keypoints3d,
            "global_orient": global_orient,
            "body_pose": body_pose,
            "betas": betas,
        }
        self.adversarial = adversarial
        self.discriminator = PoseDiscriminator() if adversarial else None
        self.joint_set = joint_set
        self.root = joints.index(root, joint_set)
        in_batch = torch.tensor(joints.index(joints.names(joint_set), "all"))
        self.register_buffer("in_batch", in_batch, persistent=False)  # (K,) rows of Batch's joints

    def forward(self, prediction: Prediction, batch: Batch, body_model: SMPL) -> dict[str, Tensor]:
        """The weighted terms by name, in float32.

        Args:
            prediction: bodies in camera axes, O = P.
            batch: crops whose world is the camera's frame.
            body_model: makes joints.
        """
        with torch.autocast(prediction.transl_cam.device.type, enabled=False):
            joints_cam = body_model.joints(prediction.body, self.joint_set)  # (P, K, 3)
            points = joints_cam + prediction.transl_cam[:, None]
            points_crop = project(points, prediction.intrinsics_crop)
            target2d = batch["keypoints_crop"][:, self.in_batch]
            target3d = batch["keypoints_world"][:, self.in_batch]
            label, body = batch["body"], prediction.body
            has_pose, has_betas = batch["has_pose"].float(), batch["has_betas"].float()
            root_error = losses.squared_distance(body.global_orient, label.global_orient)
            pose_error = losses.squared_distance(body.body_pose, label.body_pose)
            betas_error = losses.squared_distance(body.betas, label.betas)
            error3d = losses.root_relative_l1(joints_cam, target3d, self.root)
            terms = {
                "keypoints2d": (target2d[..., 2] * losses.side_l1(points_crop, target2d)).sum(),
                "keypoints3d": (target3d[..., 3] * error3d).sum(),
                "global_orient": (has_pose * root_error).sum(),
                "body_pose": (has_pose * pose_error).sum(),
                "betas": (has_betas * betas_error).sum(),
            }
            weighted = {name: weight * terms[name] for name, weight in self.weights.items()}
            if self.discriminator is not None and self.training:
                prior = adversarial_terms(self.discriminator, body, batch["prior"])
                weighted |= {name: self.adversarial * term for name, term in prior.items()}
            return weighted


def adversarial_terms(
    discriminator: PoseDiscriminator, predicted: Body, real: Body
) -> dict[str, Tensor]:
    """Least-squares terms of the pose prior, per predicted body.

    Args:
        discriminator: 1 is real, 0 is predicted.
        predicted: P bodies.
        real: any number of bodies, as many for each batch; their scores are divided by P too.

    Returns:
        ``adversarial``, whose gradient reaches the predicted bodies only, and ``discriminator``,
        whose gradient reaches the discriminator only.
    """
    num = len(predicted.betas)
    frozen = {name: value.detach() for name, value in discriminator.named_parameters()}
    pose, betas = predicted.body_pose, predicted.betas
    fooled = functional_call(discriminator, frozen, (pose, betas))
    of_predicted = discriminator(pose.detach(), betas.detach())
    of_real = discriminator(real.body_pose, real.betas)
    return {
        "adversarial": (fooled - 1).square().sum() / num,
        "discriminator": (of_predicted.square().sum() + (of_real - 1).square().sum()) / num,
    }
