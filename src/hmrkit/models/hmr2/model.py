"""HMR2.0's network.

crop (P, 3, 256, 256) -> its middle 192 columns -> ViT -> patch tokens (P, 192, 1280)
patch tokens -> decoder with one query -> feature (P, 1024)
feature -> linear heads -> pose 24 x 6D (P, 144), betas (P, 10), camera (P, 3)
all of them + the mean -> rotations (P, 24, 3, 3), betas, camera (s, tx, ty) -> translation
"""

import torch
from torch import Tensor, nn

from hmrkit.body.smpl import SMPL
from hmrkit.geometry.cameras import crop_intrinsics, weak_perspective_to_transl
from hmrkit.geometry.rotations import rot6d_stacked_to_rotmat, rotmat_to_rot6d_stacked
from hmrkit.types import Batch, Body, Prediction

_MEAN_CAM = (0.9, 0.0, 0.0)  # a standing person about fills the crop (SPIN's mean parameters)


class HMR2(nn.Module):
    """Crop to body and camera.

    Args:
        backbone: image (B, 3, H, W) to tokens (B, N, ``backbone.num_features``); it takes
            ``backbone.image_size``, the middle columns of the crop.
        decoder: tokens to a feature (B, ``decoder.num_features``).
        body_model: gives the mean pose and shape; not kept. A checkpoint's own mean replaces them.
        input_size: height and width of the crop.
        focal_px: focal length of the crop's camera.
    """

    def __init__(
        self,
        backbone: nn.Module,
        decoder: nn.Module,
        body_model: SMPL,
        input_size: tuple[int, int],
        focal_px: float = 5000.0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = PoseHead(decoder, body_model)
        self.input_size = tuple(input_size)
        self.focal_px = focal_px
        self.margin = (self.input_size[1] - backbone.image_size[1]) // 2  # columns left out
        intrinsics = crop_intrinsics(focal_px, self.input_size)
        self.register_buffer("intrinsics_crop", intrinsics, persistent=False)

    def forward(self, batch: Batch, body_model: SMPL) -> Prediction:
        """Predict the bodies in a batch of crops.

        Args:
            batch: reads ``image`` (P, 3, H, W), normalised.
            body_model: not used, HMR2.0 predicts without a mesh.

        Returns:
            ``body`` in camera axes, ``transl`` 0; ``extra`` holds ``cam`` (P, 3) and ``feature``
            (P, 1024).
        """
        image = batch["image"]
        if image.shape[-2:] != self.input_size:
            raise ValueError(
                f"crops are {image.shape[-2]}x{image.shape[-1]} but this network takes "
                f"{self.input_size[0]}x{self.input_size[1]}: set data.cut.input_size to that"
            )
        tokens = self.backbone(image[..., self.margin : image.shape[-1] - self.margin])
        rotmat, betas, cam, feature = self.head(tokens)
        return Prediction(
            body=Body(rotmat[:, 0], rotmat[:, 1:], betas, torch.zeros_like(cam)),
            transl_cam=weak_perspective_to_transl(cam, self.focal_px, self.input_size[1]),
            intrinsics_crop=self.intrinsics_crop.expand(len(cam), 3, 3),
            extra={"cam": cam, "feature": feature},
        )


class PoseHead(nn.Module):
    """Patch tokens to rotations, betas and camera."""

    def __init__(self, decoder: nn.Module, body_model: SMPL) -> None:
        super().__init__()
        self.transformer = decoder
        self.decpose = nn.Linear(decoder.num_features, 24 * 6)
        self.decshape = nn.Linear(decoder.num_features, 10)
        self.deccam = nn.Linear(decoder.num_features, 3)
        mean_pose = rotmat_to_rot6d_stacked(torch.as_tensor(body_model.mean_pose)).float()
        self.register_buffer("init_body_pose", mean_pose.reshape(1, -1))
        self.register_buffer("init_betas", torch.as_tensor(body_model.mean_betas).float()[None])
        self.register_buffer("init_cam", torch.tensor([_MEAN_CAM]))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rotations (P, 24, 3, 3), betas (P, 10), camera (P, 3), feature (P, D)."""
        feature = self.transformer(tokens)
        pose6d = self.decpose(feature) + self.init_body_pose  # (P, 144)
        rotmat = rot6d_stacked_to_rotmat(pose6d.float().unflatten(1, (24, 6)))
        betas = self.decshape(feature) + self.init_betas
        return rotmat, betas, self.deccam(feature) + self.init_cam, feature
