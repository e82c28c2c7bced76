"""PyMAF's network.

    crop (P, 3, 224, 224) -> ResNet -> (P, 2048, 7, 7) -> deconvolutions -> 14 x 14, 28 x 28, 56^2
    estimate_0 = mean pose (144), shape (10), camera (3)
    loop t = 1, 2, 3, on the map of level t:
        points = a 21 x 21 grid (t = 1) or 431 vertices of estimate_{t-1}'s mesh, (P, N, 2)
        maf_sample(map, points) (P, 256, N) -> point MLP (P, 5 N) -> mesh-aligned feature
        estimate_t = estimate_{t-1} + regressor_t([feature, estimate_{t-1}])
    level 3 -> dense head, in training only: part (25), U (25), V (25), coarse part (15), 56 x 56

A loop's gradients reach the network through what it sampled, never through the loop before it.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hmrkit.body.smpl import SMPL
from hmrkit.geometry.cameras import crop_intrinsics, project, weak_perspective_to_transl
from hmrkit.geometry.rotations import rot6d_interleaved_to_rotmat, rotmat_to_rot6d_interleaved
from hmrkit.models.pymaf.vertices import spread_vertices
from hmrkit.types import Batch, Body, Prediction

NUM_PARTS, NUM_COARSE = 25, 15  # classes of the dense head, background included
_GRID = 21  # points per side in the first loop
_MEAN_CAM = (0.9, 0.0, 0.0)  # a standing person about fills the crop (SPIN's mean parameters)
_NUM_LEVELS = 3


class PyMAF(nn.Module):
    """Crop to body and camera, by looking where the current estimate's surface is.

    Args:
        backbone: ``backbone.features``: image (B, 3, H, W) to a map (B, C, H / 32, W / 32), with
            C = ``backbone.num_features``.
        body_model: gives the mean pose and shape and the mesh that is spread over the crop.
        input_size: height and width of the crop.
        num_loops: 1 to 3. With fewer, the last loop still sees the finest map.
        num_points: vertices that loops after the first look at.
        num_channels: of the maps of the pyramid.
        num_hidden: width of a regressor's two hidden layers.
        dropout: after each of them, in training.
        point_slope: of the points' numbers below 0. The paper's is 0, a ReLU; trained fast from
            nothing, all loops' numbers end below it and stay there, with no gradient.
        focal_px: focal length of the crop's camera.
    """

    def __init__(
        self,
        backbone: nn.Module,
        body_model: SMPL,
        input_size: tuple[int, int],
        num_loops: int = 3,
        num_points: int = 431,
        num_channels: int = 256,
        num_hidden: int = 1024,
        dropout: float = 0.5,
        point_slope: float = 0.0,
        focal_px: float = 5000.0,
    ) -> None:
        super().__init__()
        if not 1 <= num_loops <= _NUM_LEVELS:
            raise ValueError(f"num_loops={num_loops}: PyMAF has 1 to {_NUM_LEVELS} loops")
        self.backbone = backbone
        self.input_size, self.focal_px = tuple(input_size), focal_px
        self.upsample = _pyramid(backbone.num_features, num_channels, num_loops)
        sizes = [_GRID**2] + [num_points] * (num_loops - 1)
        self.samplers = nn.ModuleList(PointMLP(num_channels, point_slope) for _ in sizes)
        self.regressors = nn.ModuleList(
            Regressor(PointMLP.num_out * num, num_hidden, dropout) for num in sizes
        )
        self.dense = DenseHead(num_channels)
        mean_pose = rotmat_to_rot6d_interleaved(torch.as_tensor(body_model.mean_pose)).float()
        self.register_buffer("init_pose", mean_pose.reshape(1, -1))
        self.register_buffer("init_shape", torch.as_tensor(body_model.mean_betas).float()[None])
        self.register_buffer("init_cam", torch.tensor([_MEAN_CAM]))
        self.surface = SurfacePoints(spread_vertices(body_model, num_points))
        self.register_buffer("grid", _grid(), persistent=False)
        intrinsics = crop_intrinsics(focal_px, self.input_size)
        self.register_buffer("intrinsics_crop", intrinsics, persistent=False)

    def forward(self, batch: Batch, body_model: SMPL) -> Prediction:
        """Predict the bodies in a batch of crops.

        Args:
            batch: reads ``image`` (P, 3, H, W), normalised.
            body_model: makes the vertices that loops look at.

        Returns:
            ``body`` in camera axes, ``transl`` 0; the earlier loops in ``stages``; ``extra`` holds
            ``cam`` (P, 3), ``pose6d`` (P, 144), ``feature_map`` (P, C, h, w) and, in training, the
            dense head's ``part``, ``u``, ``v`` and ``coarse_part`` (P, classes, h, w).
        """
        image = batch["image"]
        if image.shape[-2:] != self.input_size:
            raise ValueError(
                f"crops are {image.shape[-2]}x{image.shape[-1]} but this network takes "
                f"{self.input_size[0]}x{self.input_size[1]}: set data.cut.input_size to that"
            )
        feature_map = self.backbone.features(image)
        start = (self.init_pose, self.init_shape, self.init_cam)
        estimate = Estimate(*(part.expand(len(image), -1) for part in start))
        points = self.grid.expand(len(image), -1, -1)
        loops: list[Prediction] = []
        for upsample, sampler, regressor in zip(
            self.upsample, self.samplers, self.regressors, strict=True
        ):
            if loops:
                points = self.surface(loops[-1], body_model)
            feature_map = upsample(feature_map)
            estimate = regressor(sampler(maf_sample(feature_map, points)), estimate)
            loops.append(self._prediction(estimate))
        result = loops.pop()
        result.stages = loops
        result.extra["feature_map"] = feature_map
        if self.training:
            result.extra |= self.dense(feature_map)
        return result

    def _prediction(self, estimate: "Estimate") -> Prediction:
        pose6d, betas, cam = (part.float() for part in estimate)
        rotmat = rot6d_interleaved_to_rotmat(pose6d.unflatten(1, (24, 6)))  # (P, 24, 3, 3)
        return Prediction(
            body=Body(rotmat[:, 0], rotmat[:, 1:], betas, torch.zeros_like(cam)),
            transl_cam=weak_perspective_to_transl(cam, self.focal_px, self.input_size[0]),
            intrinsics_crop=self.intrinsics_crop.expand(len(cam), 3, 3),
            extra={"cam": cam, "pose6d": pose6d},
        )


class Estimate(NamedTuple):
    """What the loops know about P people."""

    pose6d: Tensor  # (P, 144), 24 interleaved 6D rotations
    betas: Tensor  # (P, 10)
    cam: Tensor  # (P, 3) scale and shift


def maf_sample(feature_map: Tensor, points: Tensor) -> Tensor:
    """Features (P, C, N) of a map (P, C, h, w) at points (P, N, 2), bilinear; 0 outside the crop.

    Args:
        feature_map: the centres of its outermost cells lie on the crop's edges.
        points: x, y in crop units.
    """
    grid = points.unsqueeze(2).to(feature_map.dtype)  # (P, N, 1, 2)
    return F.grid_sample(feature_map, grid, align_corners=True).squeeze(-1)


class SurfacePoints(nn.Module):
    """The vertices that later loops look at, seen in the crop.

    Args:
        vertex_index: (N,) vertices of the body; the checkpoint keeps them.
    """

    def __init__(self, vertex_index: Tensor) -> None:
        super().__init__()
        self.register_buffer("vertex_index", vertex_index)

    @torch.no_grad()
    def forward(self, loop: Prediction, body_model: SMPL) -> Tensor:
        """Where they are for an estimate of P bodies, (P, N, 2) crop units."""
        vertices = body_model.vertices(loop.body, self.vertex_index)
        return project(vertices + loop.transl_cam[:, None], loop.intrinsics_crop)


class PointMLP(nn.Module):
    """Every sampled feature to five numbers, the same layers for all points of a loop."""

    num_out = 5

    def __init__(self, num_channels: int, slope: float = 0.0) -> None:
        super().__init__()
        self.slope = slope  # of the five, below 0
        self.conv0 = nn.Conv1d(num_channels, 128, 1)
        self.conv1 = nn.Conv1d(128 + num_channels, 64, 1)
        self.conv2 = nn.Conv1d(64 + num_channels, self.num_out, 1)

    def forward(self, sampled: Tensor) -> Tensor:
        """(P, C, N) to (P, 5 N), all points of the first number, then of the second, ..."""
        feature = sampled.transpose(1, 2).flatten(0, 1)  # (P N, C): one matrix product for all
        hidden = F.leaky_relu(F.linear(feature, self.conv0.weight[..., 0], self.conv0.bias))
        hidden = F.leaky_relu(_two_inputs(self.conv1, hidden, feature))
        numbers = F.leaky_relu(_two_inputs(self.conv2, hidden, feature), self.slope)  # (P N, 5)
        return numbers.unflatten(0, (len(sampled), -1)).transpose(1, 2).flatten(1)


def _two_inputs(layer: nn.Conv1d, first: Tensor, second: Tensor) -> Tensor:
    """A layer on [first (R, A), second (R, B)], which need not be copied together."""
    to_first, to_second = layer.weight[..., 0].split([first.shape[1], second.shape[1]], dim=1)
    return F.linear(first, to_first, layer.bias) + F.linear(second, to_second)


class Regressor(nn.Module):
    """One correction of the estimate: linear layers without an activation between them."""

    def __init__(self, num_features: int, num_hidden: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(num_features + 144 + 10 + 3, num_hidden)
        self.fc2 = nn.Linear(num_hidden, num_hidden)
        self.drop1, self.drop2 = nn.Dropout(dropout), nn.Dropout(dropout)
        self.decpose = nn.Linear(num_hidden, 144)
        self.decshape = nn.Linear(num_hidden, 10)
        self.deccam = nn.Linear(num_hidden, 3)
        for decoder in (self.decpose, self.decshape, self.deccam):
            nn.init.xavier_uniform_(decoder.weight, gain=0.01)

    def forward(self, feature: Tensor, estimate: Estimate) -> Estimate:
        """Feature (P, F) and an estimate, which gets no gradient, to the next estimate."""
        pose6d, betas, cam = (part.detach() for part in estimate)
        hidden = self.drop1(self.fc1(torch.cat([feature, pose6d, betas, cam], dim=1)))
        hidden = self.drop2(self.fc2(hidden))
        return Estimate(
            pose6d + self.decpose(hidden),
            betas + self.decshape(hidden),
            cam + self.deccam(hidden),
        )


class Doubling(nn.ConvTranspose2d):
    """The first deconvolution, kernel 4, stride 2: many channels on a small map.

    One matrix product makes all 16 values that a cell adds to its surroundings, as four slices.
    Thrice as fast as the library's deconvolution on a CPU, where the weights are the work.
    """

    def forward(self, feature_map: Tensor) -> Tensor:
        """(P, C, h, w) to (P, D, 2 h, 2 w)."""
        num, _, height, width = feature_map.shape
        cells = feature_map.permute(0, 2, 3, 1).flatten(0, 2) @ self.weight.flatten(1)
        cells = cells.view(num, height, width, -1, 2, 2, 2, 2)  # rows: pair, place; then columns
        cells = cells.permute(4, 6, 0, 1, 5, 2, 7, 3)  # (pairs 2, 2, P, h, place 2, w, place 2, D)
        padded = cells.new_zeros(num, height + 1, 2, width + 1, 2, cells.shape[-1])
        for row in (0, 1):
            for column in (0, 1):
                padded[:, row : row + height, :, column : column + width] += cells[row, column]
        whole = padded.flatten(3, 4).flatten(1, 2)  # with a border of one cell's place all around
        return whole[:, 1:-1, 1:-1].permute(0, 3, 1, 2)


class DenseHead(nn.Module):
    """A map to dense correspondences: which part of the surface a pixel shows, and where on it."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.predict_u = nn.Conv2d(num_channels, NUM_PARTS, 3, padding=1)
        self.predict_v = nn.Conv2d(num_channels, NUM_PARTS, 3, padding=1)
        self.predict_uv_index = nn.Conv2d(num_channels, NUM_PARTS, 3, padding=1)
        self.predict_ann_index = nn.Conv2d(num_channels, NUM_COARSE, 3, padding=1)

    def forward(self, feature_map: Tensor) -> dict[str, Tensor]:
        """(P, C, h, w) to maps (P, classes, h, w) by name."""
        heads = (self.predict_u, self.predict_v, self.predict_uv_index, self.predict_ann_index)
        weight = torch.cat([head.weight for head in heads])  # one pass over the map for all
        bias = torch.cat([head.bias for head in heads])
        maps = F.conv2d(feature_map, weight, bias, padding=1)
        names = ("u", "v", "part", "coarse_part")
        return dict(zip(names, maps.split([head.out_channels for head in heads], 1), strict=True))


def _pyramid(num_in: int, num_channels: int, num_loops: int) -> nn.ModuleList:
    """What each loop does to the map before it looks: the first one takes the steps left over."""
    blocks = []
    for level in range(_NUM_LEVELS):
        width = num_in if level == 0 else num_channels
        blocks.append(
            nn.Sequential(
                (Doubling if level == 0 else nn.ConvTranspose2d)(
                    width, num_channels, 4, stride=2, padding=1, bias=False
                ),
                nn.BatchNorm2d(num_channels),
                nn.ReLU(inplace=True),
            )
        )
    num_first = _NUM_LEVELS - num_loops + 1
    groups = [blocks[:num_first], *([block] for block in blocks[num_first:])]
    return nn.ModuleList(nn.Sequential(*group) for group in groups)


def _grid() -> Tensor:
    """(1, 441, 2) crop units; x varies slowly."""
    line = torch.linspace(-1, 1, _GRID)
    return torch.cartesian_prod(line, line)[None]
