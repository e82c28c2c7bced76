"""SAT-HMR's network.

    image (I, 3, H, W), longest side 1288 -> scale-adaptive tokens (N, 768) of all images
    tokens -> linear -> memory; their places, encoded, + one vector per level
    50 queries per image (in training also noised labels) -> decoder, 6 layers -> (6, I, 50, 768)
    every layer -> confidence, box, 24 rotations (6D), 10 betas, camera (3 numbers)
        rotations and betas: the mean + what the heads of this and all earlier layers say
        camera: scale and shift -> translation in the image's camera, whose field of view is 60 deg

People stand before one camera per image. There is no detector and no suppression of duplicates.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hmrkit.body.smpl import SMPL
from hmrkit.geometry.cameras import project
from hmrkit.geometry.rotations import rot6d_interleaved_to_rotmat, rotmat_to_rot6d_interleaved
from hmrkit.models.sathmr import tokens
from hmrkit.models.sathmr.decoder import Decoded, Decoder, Memory
from hmrkit.models.sathmr.denoising import Denoiser, DenoisingQueries, attention_mask
from hmrkit.models.sathmr.encoder import AdaptiveEncoder, Encoded, PlainEncoder, ReLUMLP, ScaleHead
from hmrkit.models.sathmr.labels import SceneLabels, scene_labels
from hmrkit.models.sathmr.positions import sine_encoding
from hmrkit.types import Batch, Body, Prediction

FIELD_OF_VIEW_DEG = 60.0  # of the square of the longest side, vertical and horizontal
_EPSILON = 1e-6  # smallest scale
_PRIOR = 0.01  # confidence of an untrained query
_POSE, _BETAS = 144, 10


class SATHMR(nn.Module):
    """Whole images to everybody in them.

    Args:
        encoder: of images.
        decoder: of queries.
        denoiser: of training; None trains without denoising queries.
        body_model: gives the mean pose and shape and the mesh's edges; not kept. A checkpoint's own
            mean replaces these.
        long_side_px: of the images; focal length and boxes refer to it.
        num_queries: of every image.
        with_level_embed: tokens of different levels are told apart.
        label_map_steps: in so many first training steps the labels' scale map chooses the tokens.
    """

    def __init__(
        self,
        encoder: AdaptiveEncoder | PlainEncoder,
        decoder: Decoder,
        denoiser: Denoiser | None,
        body_model: SMPL,
        long_side_px: int = 1288,
        num_queries: int = 50,
        with_level_embed: bool = True,
        label_map_steps: int = 0,
    ) -> None:
        super().__init__()
        dim, depth = decoder.dim, decoder.depth
        self.long_side_px, self.num_queries = long_side_px, num_queries
        self.focal_px = long_side_px / (2 * math.tan(math.radians(FIELD_OF_VIEW_DEG) / 2))
        self.label_map_steps = label_map_steps
        self.encoder, self.decoder, self.denoiser = encoder, decoder, denoiser
        is_adaptive = encoder.num_levels > 1
        self.scale_head = ScaleHead(encoder.dim) if is_adaptive else None
        self.feature_proj = nn.Linear(encoder.dim, dim)
        with_level_embed = is_adaptive and with_level_embed
        level = torch.randn(encoder.num_levels, dim)
        self.level_embed = nn.Parameter(level) if with_level_embed else None
        self.query_content = nn.Parameter(torch.randn(num_queries, dim))
        self.query_box = nn.Parameter(torch.randn(num_queries, 4))
        self.pose_heads = nn.ModuleList(ReLUMLP(dim, dim, _POSE, 6) for _ in range(depth))
        self.shape_heads = nn.ModuleList(ReLUMLP(dim, dim, _BETAS, 5) for _ in range(depth))
        self.cam_head = ReLUMLP(dim, dim // 2, 3, 3)
        self.conf_head = nn.Linear(dim, 1)
        nn.init.constant_(self.conf_head.bias, math.log(_PRIOR / (1 - _PRIOR)))
        mean_pose = rotmat_to_rot6d_interleaved(torch.as_tensor(body_model.mean_pose)).float()
        self.register_buffer("mean_pose", mean_pose.flatten())
        self.register_buffer("mean_betas", torch.as_tensor(body_model.mean_betas).float())
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.int64))
        edges = tokens.mesh_edges(torch.as_tensor(body_model.faces))
        self.register_buffer("edges", edges, persistent=False)

    def forward(self, batch: Batch, body_model: SMPL) -> Prediction:
        """Predict everybody in a batch of whole images.

        Args:
            batch: reads ``image`` (I, 3, H, W), normalised, and ``input_size``; in training also
                the labels.
            body_model: in training, poses the labels for the scale map.

        Returns:
            P = I * Q people, image by image: ``image_of_person`` says whose, ``score`` how likely
            each is somebody; those below a threshold are nobody. ``body.transl`` is 0,
            ``transl_cam`` leads to the camera of the image. ``extra``: see ``_extra``. In training
            the earlier decoder layers are in ``stages``.
        """
        image, size = batch["image"], batch["input_size"]
        cells, grid_hw = self._cells(image, size)
        labels = scene_labels(batch, self.long_side_px) if self.training else None
        label_map = None
        if labels is not None and self.scale_head is not None:
            label_map = self._label_map(batch, labels, body_model, cells, grid_hw)
        encoded = self.encoder(image, cells, self._seen(labels, label_map, cells))
        noised, queries = self._queries(labels, len(image))
        decoded = self.decoder(*queries[:2], self._memory(encoded), queries[2])
        layers = self._predictions(decoded, size, noised)
        result = layers.pop()
        result.stages = layers
        result.extra |= self._extra(encoded, cells, label_map, noised)
        return result
