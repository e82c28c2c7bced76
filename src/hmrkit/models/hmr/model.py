"""HMR's network.

    image (B, 3, H, W) -> backbone -> feature (B, C)
    estimate_0 = mean pose (144), shape (10), camera (3)
    estimate_i = estimate_{i-1} + regressor([feature, estimate_{i-1}])      num_iterations times
    pose (24 x 6D) -> rotations (B, 24, 3, 3)
    camera (s, tx, ty) -> translation (B, 3) in front of the crop's camera

The camera looks at the middle of the crop with a focal length of 5000 px (SPIN), nearly
orthographic, so its distances mean nothing by themselves.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hmrkit.body.smpl import SMPL
from hmrkit.geometry.cameras import crop_intrinsics, weak_perspective_to_transl
from hmrkit.geometry.rotations import rot6d_interleaved_to_rotmat, rotmat_to_rot6d_interleaved
from hmrkit.types import Batch, Body, Prediction

_NUM_POSE, _NUM_SHAPE, _NUM_CAM = 24 * 6, 10, 3
_MEAN_CAM = (0.9, 0.0, 0.0)  # a standing person about fills the crop (SPIN's mean parameters)


class HMR(nn.Module):
    """Crop to body and camera.

    Args:
        backbone: image (B, 3, H, W) to feature (B, ``backbone.num_features``).
        body_model: gives the mean pose and shape that the iterations start from; not kept.
            A checkpoint's own mean replaces them.
        input_size: height and width of the crop.
        num_iterations: refinements of the estimate.
        num_hidden: width of the regressor's two hidden layers.
        dropout: after each of them, in training.
        focal_px: focal length of the crop's camera.
    """

    def __init__(
        self,
        backbone: nn.Module,
        body_model: SMPL,
        input_size: tuple[int, int],
        num_iterations: int = 3,
        num_hidden: int = 1024,
        dropout: float = 0.5,
        focal_px: float = 5000.0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = IterativeRegressor(
            backbone.num_features, mean_parameters(body_model), num_iterations, num_hidden, dropout
        )
        self.input_size = tuple(input_size)
        self.focal_px = focal_px
        intrinsics = crop_intrinsics(focal_px, self.input_size)
        self.register_buffer("intrinsics_crop", intrinsics, persistent=False)

    def encode(self, batch: Batch) -> Tensor:
        """What the backbone makes of ``image`` (P, 3, H, W): the feature (P, C) of each crop."""
        return self.backbone(checked_image(batch, self.input_size))

    def forward(self, batch: Batch, body_model: SMPL, feature: Tensor | None = None) -> Prediction:
        """Predict the bodies in a batch of crops.

        Args:
            batch: reads ``image`` (P, 3, H, W), normalised.
            body_model: not used, HMR predicts without a mesh.
            feature: what ``encode`` gave for this batch, to spare the backbone.

        Returns:
            ``body`` in camera axes, ``transl`` 0; ``extra`` holds ``pose6d`` (P, 144), ``cam``
            (P, 3), ``cam_each_iteration`` (num_iterations, P, 3) and ``feature`` (P, C).
        """
        if feature is None:
            feature = self.encode(batch)
        estimates = self.head(feature)
        cam = estimates[-1].cam
        return to_prediction(
            estimates,
            feature,
            weak_perspective_to_transl(cam, self.focal_px, self.input_size[0]),
            self.intrinsics_crop.expand(len(cam), 3, 3),
        )


class Estimate(NamedTuple):
    """What the regressor knows about P people after an iteration."""

    pose6d: Tensor  # (P, 144), 24 interleaved 6D rotations
    betas: Tensor  # (P, 10)
    cam: Tensor  # (P, 3) scale and shift


class IterativeRegressor(nn.Module):
    """HMR's iterative error feedback: linear layers that correct a running estimate.

    There is no activation between the layers; dropout is the only thing that keeps them apart.

    Args:
        num_features: length C of the feature.
        mean: where the iterations start, tensors with a leading axis of 1.
        num_iterations: corrections.
        num_hidden: width of the two hidden layers.
        dropout: probability, after each of them.
    """

    def __init__(
        self,
        num_features: int,
        mean: Estimate,
        num_iterations: int,
        num_hidden: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.num_iterations = num_iterations
        self.fc1 = nn.Linear(num_features + _NUM_POSE + _NUM_SHAPE + _NUM_CAM, num_hidden)
        self.fc2 = nn.Linear(num_hidden, num_hidden)
        self.drop1, self.drop2 = nn.Dropout(dropout), nn.Dropout(dropout)
        self.decpose = nn.Linear(num_hidden, _NUM_POSE)
        self.decshape = nn.Linear(num_hidden, _NUM_SHAPE)
        self.deccam = nn.Linear(num_hidden, _NUM_CAM)
        for decoder in (self.decpose, self.decshape, self.deccam):
            nn.init.xavier_uniform_(decoder.weight, gain=0.01)
        self.register_buffer("init_pose", mean.pose6d.clone())
        self.register_buffer("init_shape", mean.betas.clone())
        self.register_buffer("init_cam", mean.cam.clone())

    def forward(self, feature: Tensor) -> list[Estimate]:
        """Feature (P, C) to the estimate after each iteration, the last one being the result."""
        weight_feature, weight_estimate = self.fc1.weight.split(
            [self.num_features, self.fc1.in_features - self.num_features], dim=1
        )
        from_feature = F.linear(feature, weight_feature, self.fc1.bias)  # the same every time
        start = (self.init_pose, self.init_shape, self.init_cam)
        estimates = [Estimate(*(part.expand(len(feature), -1) for part in start))]
        for _ in range(self.num_iterations):
            pose6d, betas, cam = estimates[-1]
            hidden = from_feature + F.linear(torch.cat([pose6d, betas, cam], 1), weight_estimate)
            hidden = self.drop2(self.fc2(self.drop1(hidden)))
            estimates.append(
                Estimate(
                    pose6d + self.decpose(hidden),
                    betas + self.decshape(hidden),
                    cam + self.deccam(hidden),
                )
            )
        return estimates[1:]


def checked_image(batch: Batch, input_size: tuple[int, int]) -> Tensor:
    """``image`` (P, 3, H, W) of a batch.

    Raises:
        ValueError: if it has another size than the network takes.
    """
    image = batch["image"]
    if image.shape[-2:] != input_size:
        raise ValueError(
            f"crops are {image.shape[-2]}x{image.shape[-1]} but this network takes "
            f"{input_size[0]}x{input_size[1]}: set data.cut.input_size to that"
        )
    return image


def to_prediction(
    estimates: list[Estimate], feature: Tensor, transl_cam: Tensor, intrinsics_crop: Tensor
) -> Prediction:
    """The last estimate as a body in camera axes, with what led to it in ``extra``.

    Args:
        estimates: of each iteration.
        feature: (P, C).
        transl_cam: (P, 3) m.
        intrinsics_crop: (P, 3, 3) camera metres to crop units.
    """
    pose6d, betas, cam = estimates[-1]
    rotmat = rot6d_interleaved_to_rotmat(pose6d.unflatten(1, (24, 6)))  # (P, 24, 3, 3)
    return Prediction(
        body=Body(rotmat[:, 0], rotmat[:, 1:], betas, torch.zeros_like(cam)),
        transl_cam=transl_cam,
        intrinsics_crop=intrinsics_crop,
        extra={
            "pose6d": pose6d,
            "cam": cam,
            "cam_each_iteration": torch.stack([estimate.cam for estimate in estimates]),
            "feature": feature,
        },
    )


def mean_parameters(body_model: SMPL) -> Estimate:
    """The body's mean pose and shape and SPIN's mean camera, each with a leading axis of 1."""
    pose6d = rotmat_to_rot6d_interleaved(torch.as_tensor(body_model.mean_pose)).float()
    betas = torch.as_tensor(body_model.mean_betas).float()
    return Estimate(pose6d.reshape(1, -1), betas.reshape(1, -1), torch.tensor([_MEAN_CAM]))
