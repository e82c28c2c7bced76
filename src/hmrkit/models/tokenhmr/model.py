"""TokenHMR's network.

    crop (P, 3, 256, 256) -> its middle 192 columns -> ViT -> patch tokens (P, 192, 1280)
    patch tokens -> decoder with one query -> feature (P, 1024)
    feature -> token head -> logits of 160 pose tokens (P, 160, 2048) -> softmax
    probabilities -> PoseTokenizer.decode_probabilities -> 21 rotations, 6D (P, 126)
    feature -> linear heads -> root 6D (P, 6), hands 6D (P, 12), betas (P, 10), camera (P, 3)
    all of them + the mean -> rotations (P, 24, 3, 3), betas, camera (s, tx, ty) -> translation

A 6D rotation is two *rows* of the matrix. The mean pose is added to the tokenizer's output too.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from hmrkit.body.smpl import SMPL
from hmrkit.geometry.cameras import crop_intrinsics, weak_perspective_to_transl
from hmrkit.models.tokenhmr.tokenizer import (
    NUM_JOINTS,
    PoseTokenizer,
    rotmat_to_rows6d,
    rows6d_to_rotmat,
)
from hmrkit.types import Batch, Body, Prediction

_MEAN_CAM = (0.9, 0.0, 0.0)  # a standing person about fills the crop (SPIN's mean parameters)


class TokenHMR(nn.Module):
    """Crop to body and camera, the body pose through the codes of a frozen tokenizer.

    Args:
        backbone: image (B, 3, H, W) to tokens (B, N, ``backbone.num_features``); it takes
            ``backbone.image_size``, the middle columns of the crop.
        decoder: tokens to a feature (B, ``decoder.num_features``).
        tokenizer: of stage one. It is part of the checkpoint and never trained here.
        body_model: gives the mean pose and shape; not kept. A checkpoint's own mean replaces them.
        input_size: height and width of the crop.
        token_dim: width of a pose token inside the token head.
        token_depth: mixing layers of the token head.
        focal_px: focal length of the crop's camera.
    """

    def __init__(
        self,
        backbone: nn.Module,
        decoder: nn.Module,
        tokenizer: PoseTokenizer,
        body_model: SMPL,
        input_size: tuple[int, int],
        token_dim: int = 64,
        token_depth: int = 4,
        focal_px: float = 5000.0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = TokenHead(decoder, tokenizer, body_model, token_dim, token_depth)
        self.input_size = tuple(input_size)
        self.focal_px = focal_px
        self.margin = (self.input_size[1] - backbone.image_size[1]) // 2  # columns left out
        intrinsics = crop_intrinsics(focal_px, self.input_size)
        self.register_buffer("intrinsics_crop", intrinsics, persistent=False)

    def forward(self, batch: Batch, body_model: SMPL) -> Prediction:
        """Predict the bodies in a batch of crops.

        Args:
            batch: reads ``image`` (P, 3, H, W), normalised.
            body_model: not used, TokenHMR predicts without a mesh.

        Returns:
            ``body`` in camera axes, ``transl`` 0; ``extra`` holds ``cam`` (P, 3), ``feature``
            (P, 1024), ``token_probabilities`` (P, 160, 2048) and ``body_pose6d`` (P, 21, 6), the
            tokenizer's output before the mean is added.
        """
        image = batch["image"]
        if image.shape[-2:] != self.input_size:
            raise ValueError(
                f"crops are {image.shape[-2]}x{image.shape[-1]} but this network takes "
                f"{self.input_size[0]}x{self.input_size[1]}: set data.cut.input_size to that"
            )
        tokens = self.backbone(image[..., self.margin : image.shape[-1] - self.margin])
        rotmat, betas, cam, extra = self.head(tokens)
        return Prediction(
            body=Body(rotmat[:, 0], rotmat[:, 1:], betas, torch.zeros_like(cam)),
            transl_cam=weak_perspective_to_transl(cam, self.focal_px, self.input_size[1]),
            intrinsics_crop=self.intrinsics_crop.expand(len(cam), 3, 3),
            extra={"cam": cam, **extra},
        )


class TokenHead(nn.Module):
    """Patch tokens to rotations, betas and camera."""

    def __init__(
        self,
        decoder: nn.Module,
        tokenizer: PoseTokenizer,
        body_model: SMPL,
        token_dim: int,
        token_depth: int,
    ) -> None:
        super().__init__()
        self.transformer = decoder
        dim = decoder.num_features
        num_tokens, num_codes = tokenizer.num_tokens, len(tokenizer.quantizer.codebook)
        self.decpose = TokenClassifier(dim, num_tokens, num_codes, token_dim, token_depth)
        self.decpose_grot = nn.Linear(dim, 6)
        self.decpose_hands = nn.Linear(dim, 12)
        self.decshape = nn.Linear(dim, 10)
        self.deccam = nn.Linear(dim, 3)
        self.tokenizer = tokenizer.requires_grad_(False).eval()
        mean_pose = rotmat_to_rows6d(torch.as_tensor(body_model.mean_pose)).float()  # (24, 6)
        self.register_buffer("init_body_pose", mean_pose.reshape(1, -1))
        self.register_buffer("init_betas", torch.as_tensor(body_model.mean_betas).float()[None])
        self.register_buffer("init_cam", torch.tensor([_MEAN_CAM]))

    def train(self, mode: bool = True) -> "TokenHead":
        """Train or evaluate, the tokenizer excepted: its codebook would move in training."""
        super().train(mode)
        self.tokenizer.eval()
        return self

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Rotations (P, 24, 3, 3), betas (P, 10), camera (P, 3) and what led to them."""
        feature = self.transformer(tokens)
        probabilities = self.decpose(feature).softmax(dim=-1)  # (P, 160, 2048)
        body6d = self.tokenizer.decode_probabilities(probabilities)  # (P, 21, 6)
        pose6d = [self.decpose_grot(feature), body6d.flatten(1), self.decpose_hands(feature)]
        pose6d = torch.cat(pose6d, dim=1) + self.init_body_pose  # (P, 144): root, 21 joints, hands
        rotmat = rows6d_to_rotmat(pose6d.float().unflatten(1, (NUM_JOINTS + 3, 6)))
        betas = self.decshape(feature) + self.init_betas
        cam = self.deccam(feature) + self.init_cam
        extra = {
            "feature": feature,
            "token_probabilities": probabilities,
            "body_pose6d": body6d,
        }
        return rotmat, betas, cam, extra


class TokenClassifier(nn.Module):
    """A feature to the logits of all pose tokens, by an MLP-Mixer over them.

    Args:
        dim: of the feature.
        num_tokens: T.
        num_codes: classes of a token.
        token_dim: width of a token.
        depth: mixing layers.
    """

    def __init__(
        self, dim: int, num_tokens: int, num_codes: int, token_dim: int, depth: int
    ) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.mixer_trans = _norm_relu(dim, num_tokens * token_dim)
        self.mixer_head = nn.ModuleList(MixerLayer(num_tokens, token_dim) for _ in range(depth))
        self.mixer_norm_layer = _norm_relu(token_dim, token_dim)
        self.class_pred_layer = nn.Linear(token_dim, num_codes)

    def forward(self, feature: Tensor) -> Tensor:
        """(P, dim) to logits (P, T, num_codes)."""
        tokens = self.mixer_trans(feature).unflatten(1, (self.num_tokens, -1))
        for layer in self.mixer_head:
            tokens = layer(tokens)
        return self.class_pred_layer(self.mixer_norm_layer(tokens))


class MixerLayer(nn.Module):
    """Mixes tokens, then channels (Tolstikhin et al. 2021; both branches are added at the end)."""

    def __init__(self, num_tokens: int, token_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(token_dim)
        self.mlp_token = _mlp(num_tokens, 64)
        self.norm2 = nn.LayerNorm(token_dim)
        self.mlp_channel = _mlp(token_dim, 256)

    def forward(self, tokens: Tensor) -> Tensor:
        """(P, T, D) to (P, T, D)."""
        mixed = self.mlp_token(self.norm1(tokens).transpose(1, 2)).transpose(1, 2)
        return tokens + mixed + self.mlp_channel(self.norm2(tokens + mixed))


def _norm_relu(dim: int, dim_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, dim_out), nn.LayerNorm(dim_out), nn.ReLU())


def _mlp(dim: int, num_hidden: int) -> nn.Sequential:
    widths = [dim, num_hidden, dim]
    first, last = (nn.Linear(a, b) for a, b in pairwise(widths))
    return nn.Sequential(first, nn.GELU(), last)
