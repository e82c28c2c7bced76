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
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from hmrkit.body.smpl import SMPL
from hmrkit.geometry.rotations import rotmat_to_rot6d_interleaved
from hmrkit.models.sathmr import tokens
from hmrkit.models.sathmr.decoder import Decoded, Decoder, Memory
from hmrkit.models.sathmr.denoising import Denoiser, DenoisingQueries, attention_mask
from hmrkit.models.sathmr.encoder import AdaptiveEncoder, Encoded, PlainEncoder, ReLUMLP, ScaleHead
from hmrkit.models.sathmr.labels import SceneLabels, label_map, scene_labels
from hmrkit.models.sathmr.people import cam_to_transl, to_body
from hmrkit.models.sathmr.pictures import draw_scale_map, draw_tokens
from hmrkit.models.sathmr.positions import sine_encoding
from hmrkit.models.sathmr.tokens import CELL_PX, Cells
from hmrkit.types import Batch, Body, Prediction

FIELD_OF_VIEW_DEG = 60.0  # of the square of the longest side, vertical and horizontal
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
        level_scale: of what tells them apart, in the beginning.
        label_map_steps: in so many first training steps the labels' scale map chooses the tokens.
        label_map_stride: 0 draws that map from vertices and the middles between them; n from every
            n-th vertex, which is dense enough for small images.
        num_pose_layers: of the heads of rotations; deep ones learn late.
        num_shape_layers: of the heads of betas.
        head_scale: of both heads' last weights, in the beginning: below 1 from nearer to the mean.
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
        level_scale: float = 1.0,
        label_map_steps: int = 0,
        label_map_stride: int = 0,
        num_pose_layers: int = 6,
        num_shape_layers: int = 5,
        head_scale: float = 1.0,
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
        level = level_scale * torch.randn(encoder.num_levels, dim)
        self.level_embed = nn.Parameter(level) if with_level_embed else None
        self.query_content = nn.Parameter(torch.randn(num_queries, dim))
        self.query_box = nn.Parameter(torch.randn(num_queries, 4))
        self.pose_heads = nn.ModuleList(
            ReLUMLP(dim, dim, _POSE, num_pose_layers) for _ in range(depth)
        )
        self.shape_heads = nn.ModuleList(
            ReLUMLP(dim, dim, _BETAS, num_shape_layers) for _ in range(depth)
        )
        for head in [*self.pose_heads, *self.shape_heads]:
            head.layers[-1].weight.data *= head_scale
            head.layers[-1].bias.data *= head_scale
        self.cam_head = ReLUMLP(dim, dim // 2, 3, 3)
        self.conf_head = nn.Linear(dim, 1)
        nn.init.constant_(self.conf_head.bias, math.log(_PRIOR / (1 - _PRIOR)))
        mean_pose = rotmat_to_rot6d_interleaved(torch.as_tensor(body_model.mean_pose)).float()
        self.register_buffer("mean_pose", mean_pose.flatten())
        self.register_buffer("mean_betas", torch.as_tensor(body_model.mean_betas).float())
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.int64))
        edges = tokens.mesh_edges(torch.as_tensor(body_model.faces))
        self.label_map_stride = label_map_stride
        self.register_buffer("edges", edges, persistent=False)

    def forward(self, batch: Batch, body_model: SMPL) -> Prediction:
        """Predict everybody in a batch of whole images.

        Args:
            batch: reads ``image`` (I, 3, H, W), normalised, and ``input_size``; in training also
                the labels.
            body_model: in training, poses the labels for the scale map.

        Returns:
            P = I * Q people, image by image: ``image_of_person`` says where, ``score`` how likely
            each is somebody; below a threshold they are nobody. ``body.transl`` is 0 and
            ``transl_cam`` leads to the camera of the image. ``extra`` holds ``box`` (P, 4) centre
            and size in shares of the longest side; ``tokens`` (N, 4) image, level, row and column;
            with a scale map ``scale_map`` (C, 2) and ``cells`` (C, 3) image, row and column.
            In training the earlier decoder layers are in ``stages`` and ``extra`` also holds
            what ``SATHMRLoss`` reads: ``label_map``, ``has_label_map``, ``dn_...``.
        """
        image, size = batch["image"], batch["input_size"]
        cells, grid_hw = self._cells(image, size)
        labels: SceneLabels | None = None
        given: dict[str, Tensor] = {}
        if self.training:
            labels = scene_labels(batch, self.long_side_px)
            given = self._label_map(batch, labels, body_model, cells, grid_hw)
        encoded = self.encoder(image, cells, partial(self._see, given))
        memory = self._memory(encoded)
        content = self.query_content.expand(len(image), -1, -1)
        box_logit = self.query_box.expand(len(image), -1, -1)
        noised: DenoisingQueries | None = None
        may_attend: Tensor | None = None
        if labels is not None and self.denoiser is not None:
            noised = self.denoiser(labels, len(image))
            content = torch.cat([noised.content, content], dim=1)
            box_logit = torch.cat([noised.box_logit, box_logit], dim=1)
            may_attend = attention_mask(noised, self.num_queries)
        decoded = self.decoder(content, box_logit, memory, may_attend)
        return self._prediction(decoded, size, noised, self._tokens(encoded, cells) | given)

    def pictures(self, image: np.ndarray, prediction: Prediction) -> dict[str, np.ndarray]:
        """How closely the network looked where, drawn over its input: RGB (H, W, 3) uint8 by name.

        Args:
            image: (H, W, 3) uint8, the input before it was normalised, with its padding.
            prediction: of a batch of this image alone.
        """
        extra = {name: value.cpu().numpy() for name, value in prediction.extra.items()}
        drawn = {"tokens": draw_tokens(image, extra["tokens"][:, 1:])}
        if "scale_map" in extra:
            grid = np.zeros((image.shape[0] // CELL_PX, image.shape[1] // CELL_PX, 2), np.float32)
            _, row, column = extra["cells"].T
            grid[row, column] = extra["scale_map"]
            drawn["scale_map"] = draw_scale_map(image, grid)
        return drawn

    def _cells(self, image: Tensor, size: Tensor) -> tuple[Cells, tuple[int, int]]:
        """The encoder's cells, and rows and columns of the largest image."""
        divisor, cell_px = self.encoder.divisor_px, self.encoder.cell_px
        height, width = image.shape[-2:]
        limit = -(-self.long_side_px // divisor) * divisor
        if height % divisor or width % divisor or max(height, width) > limit:
            raise ValueError(
                f"images are {height}x{width}, but this network takes multiples of {divisor} up to "
                f"{limit}: set data.cut.size_divisor={divisor} and "
                f"data.cut.long_side_px={self.long_side_px}"
            )
        grid_hw = (height // cell_px, width // cell_px)
        return tokens.cells_of(size, cell_px, divisor, grid_hw), grid_hw

    @torch.no_grad()
    def _label_map(
        self,
        batch: Batch,
        labels: SceneLabels,
        body_model: SMPL,
        cells: Cells,
        grid_hw: tuple[int, int],
    ) -> dict[str, Tensor]:
        """The labels' scale map (C, 2), and the cells (C,) of which it is known."""
        if self.scale_head is None:
            return {}
        rotmats = labels.rotmats
        transl = batch["body"].transl[labels.person]
        body = Body(rotmats[:, 0], rotmats[:, 1:], labels.betas, transl)
        if self.label_map_stride:
            number = torch.arange(0, body_model.num_vertices, self.label_map_stride)
            points = body_model.vertices(body, number.to(rotmats.device))
        else:
            points = tokens.surface_points(body_model(body).vertices, self.edges)
        found = label_map(points, labels, batch["input_size"], cells, grid_hw)
        return {"label_map": found, "has_label_map": labels.has_all_bodies[cells.image]}

    def _see(self, given: Mapping[str, Tensor], coarse: Tensor) -> tuple[Tensor, Tensor]:
        """The scale map (C, 2) of low-resolution tokens, and that by which tokens are chosen."""
        assert self.scale_head is not None
        predicted = self.scale_head(coarse)
        chosen = predicted.detach()
        if given:
            is_given = given["has_label_map"] & (self.num_steps < self.label_map_steps)
            chosen = torch.where(is_given[:, None], given["label_map"], chosen)
            self.num_steps += 1
        return predicted, chosen

    def _memory(self, encoded: Encoded) -> Memory:
        """What the decoder reads."""
        _, row, column = encoded.cells
        y, x = (((i + 0.5) * encoded.cell_px / self.long_side_px) for i in (row, column))
        position = sine_encoding(y, x, self.decoder.dim)
        if self.level_embed is not None:
            position = position + self.level_embed[encoded.level]
        return Memory(self.feature_proj(encoded.features), position, encoded.counts)

    def _prediction(
        self,
        decoded: Decoded,
        size: Tensor,
        noised: DenoisingQueries | None,
        extra: Mapping[str, Tensor],
    ) -> Prediction:
        """The last layer's people, in training the others' too."""
        hidden = decoded.hidden
        pose6d = [head(h).float() for head, h in zip(self.pose_heads, hidden, strict=True)]
        betas = [head(h).float() for head, h in zip(self.shape_heads, hidden, strict=True)]
        shown = slice(0 if self.training else -1, None)
        cam = self.cam_head(hidden[shown]).float()
        raw = {
            "pose6d": (self.mean_pose + torch.stack(pose6d).cumsum(0))[shown],
            "betas": (self.mean_betas + torch.stack(betas).cumsum(0))[shown],
            "transl": cam_to_transl(cam, self.focal_px, self.long_side_px),
            "score": self.conf_head(hidden[shown]).float().sigmoid().squeeze(-1),
            "box": decoded.box[shown],
        }
        layers = [
            self._layer({name: value[layer] for name, value in raw.items()}, size, noised)
            for layer in range(len(cam))
        ]
        result = layers.pop()
        result.stages = layers
        result.extra |= extra
        if noised is not None:
            result.extra |= {"dn_slot": noised.slot, "dn_is_used": noised.is_used}
        return result

    def _layer(
        self, raw: Mapping[str, Tensor], size: Tensor, noised: DenoisingQueries | None
    ) -> Prediction:
        """What one layer says: ``raw`` (I, S + Q, ...) has the noised people first."""
        own = {name: value[:, -self.num_queries :].flatten(0, 1) for name, value in raw.items()}
        image = torch.arange(len(size), device=size.device).repeat_interleave(self.num_queries)
        extra = {"pose6d": own["pose6d"], "box": own["box"]}
        if noised is not None:
            extra |= {f"dn_{name}": value[:, : -self.num_queries] for name, value in raw.items()}
        focal = 2 * self.focal_px / size.flip(-1).float()  # (I, 2) in crop units
        intrinsics = torch.diag_embed(torch.cat([focal, torch.ones_like(focal[:, :1])], dim=1))
        return Prediction(
            body=to_body(own["pose6d"], own["betas"]),
            transl_cam=own["transl"],
            intrinsics_crop=intrinsics[image],
            score=own["score"],
            image_of_person=image,
            extra=extra,
        )

    def _tokens(self, encoded: Encoded, cells: Cells) -> dict[str, Tensor]:
        """Where the encoder looked how closely."""
        image, row, column = encoded.cells
        places = {"tokens": torch.stack([image, encoded.level, row, column], dim=1)}
        if encoded.scale_map is not None:
            places |= {"scale_map": encoded.scale_map, "cells": torch.stack(cells, dim=1)}
        return places
