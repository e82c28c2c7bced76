"""CLIFF's network: HMR that knows where in the whole image its crop lies.

    image (B, 3, H, W) -> backbone -> feature (B, C)
    [feature, box information (3)] -> HMR's regressor -> pose, shape, camera (s, tx, ty)
    camera, box, focal length -> translation (B, 3) in front of the camera of the whole image

The principal point is the middle of the image; the focal length is the labelled one or, where none
is known, the image's diagonal. An augmented crop is that of a mirrored or turned image: the box
mirrors and grows with the augmentation, the principal point stays, and the frame turns about the
box.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hmrkit.body.smpl import SMPL
from hmrkit.geometry.cameras import cliff_transl
from hmrkit.models.hmr.model import (
    IterativeRegressor,
    checked_image,
    mean_parameters,
    to_prediction,
)
from hmrkit.types import Batch, Prediction

# The box information, standardised by the authors.
_OFFSET_SCALE = 2.8
_SIDE_MEAN, _SIDE_STD = 0.24, 0.06  # of the box's height, in focal lengths


class CLIFF(nn.Module):
    """Crop and its place in the image to body and camera.

    Args:
        backbone: image (B, 3, H, W) to feature (B, ``backbone.num_features``).
        body_model: gives the mean pose and shape that the iterations start from; not kept.
            A checkpoint's own mean replaces them.
        input_size: height and width of the crop.
        num_iterations: refinements of the estimate.
        num_hidden: width of the regressor's two hidden layers.
        dropout: after each of them, in training.
    """

    def __init__(
        self,
        backbone: nn.Module,
        body_model: SMPL,
        input_size: tuple[int, int],
        num_iterations: int = 3,
        num_hidden: int = 1024,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        num_inputs = backbone.num_features + 3
        mean = mean_parameters(body_model)
        self.head = IterativeRegressor(num_inputs, mean, num_iterations, num_hidden, dropout)
        self.input_size = tuple(input_size)

    def encode(self, batch: Batch) -> Tensor:
        """What the backbone makes of ``image`` (P, 3, H, W): the feature (P, C) of each crop."""
        return self.backbone(checked_image(batch, self.input_size))

    def forward(self, batch: Batch, body_model: SMPL, feature: Tensor | None = None) -> Prediction:
        """Predict the bodies in a batch of crops.

        Args:
            batch: reads ``image`` (P, 3, H, W), normalised, ``crop_to_img``, ``full_size``,
                ``intrinsics_of_view`` and ``image_of_view``.
            body_model: not used, CLIFF predicts without a mesh.
            feature: what ``encode`` gave for this batch, to spare the backbone.

        Returns:
            ``body`` in camera axes, ``transl`` 0; ``extra`` as HMR's.
        """
        if feature is None:
            feature = self.encode(batch)
        box = full_image_box(batch)
        estimates = self.head(torch.cat([feature, box_information(box)], dim=1))
        transl = cliff_transl(
            estimates[-1].cam, box.center_img, box.side_px, box.focal_px, box.full_size
        )
        intrinsics = intrinsics_of_box(box, self.input_size)
        return to_prediction(estimates, feature, transl, intrinsics)


class FullImageBox(NamedTuple):
    """Crops in images that are mirrored along with them, and upright."""

    center_img: Tensor  # (O, 2) px
    side_px: Tensor  # (O,) height
    focal_px: Tensor  # (O,)
    full_size: Tensor  # (O, 2) height and width of the image


def full_image_box(batch: Batch) -> FullImageBox:
    """Where the crops of a batch lie, augmentation included.

    Args:
        batch: reads ``crop_to_img``, ``full_size``, ``intrinsics_of_view``, ``image_of_view``.
    """
    crop_to_img = batch["crop_to_img"]
    full_size = batch["full_size"][batch["image_of_view"]].to(crop_to_img.dtype)
    across, down, center = crop_to_img.unbind(dim=-1)  # (O, 2) each
    is_mirrored = across[:, 0] * down[:, 1] < across[:, 1] * down[:, 0]
    mirrored_x = full_size[:, 1] - 1 - center[:, 0]
    center_x = torch.where(is_mirrored, mirrored_x, center[:, 0])
    focal = batch["intrinsics_of_view"].diagonal(dim1=-2, dim2=-1)[:, :2].mean(dim=1)
    return FullImageBox(
        center_img=torch.stack([center_x, center[:, 1]], dim=1),
        side_px=2 * torch.linalg.vector_norm(down, dim=1),
        focal_px=torch.where(focal.isfinite(), focal, full_size.norm(dim=1)),
        full_size=full_size,
    )


def box_information(box: FullImageBox) -> Tensor:
    """Direction and apparent size (O, 3) of the boxes, in focal lengths, as CLIFF's input."""
    focal = box.focal_px[:, None]
    offset = (box.center_img - box.full_size.flip(1) / 2) / focal * _OFFSET_SCALE
    side = (box.side_px[:, None] - _SIDE_MEAN * focal) / (_SIDE_STD * focal)
    return torch.cat([offset, side], dim=1)


def intrinsics_of_box(box: FullImageBox, input_size: tuple[int, int]) -> Tensor:
    """Camera (O, 3, 3) of the whole image, metres to crop units.

    Args:
        box: of each crop.
        input_size: height and width of the crop, for its aspect.
    """
    height, width = input_size
    half = box.side_px[:, None] * box.side_px.new_tensor([width / height, 1.0]) / 2  # (O, 2) px
    zoom = box.focal_px[:, None] / half
    shift = (box.full_size.flip(1) / 2 - box.center_img) / half
    return torch.diag_embed(F.pad(zoom, (0, 1), value=1.0)) + F.pad(shift[..., None], (2, 0, 0, 1))
