"""A small detector, trained in seconds on made-up scenes, as an ONNX file of MMDeploy's form."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from hmrkit.body.free import free_body_data
from hmrkit.configs import load_config, to_plain
from hmrkit.data.synth.cast import Studio
from hmrkit.data.synth.generate import draw_record
from hmrkit.data.synth.people import FastBody
from hmrkit.data.synth.recipe import to_recipe
from hmrkit.types import Sample

SIZE_HW = (96, 144)
_STRIDE = 8
_CHANNELS = (16, 32, 48)
_MEAN, _STD = torch.tensor([[123.675, 116.28, 103.53], [58.395, 57.12, 57.375]])  # detector=onnx


def scenes(num: int, seed: int) -> list[Sample]:
    """Whole pictures of one or two people."""
    options = ["experiment=sathmr_tiny", "run_dir=run"]
    node = to_plain(load_config("train", options).mix)["test"]["scenes"]["synth"]["recipe"]
    recipe = to_recipe(node | {"num_people": [1, 2]})
    studio = Studio(FastBody(free_body_data()))
    return [draw_record("scenes", studio, recipe, SIZE_HW, seed, i) for i in range(num)]


class TinyDetector(nn.Module):
    """Every cell of 8 px says whether a person's middle is in it, and how far its sides are."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, *_CHANNELS]
        down = [_block(a, b, stride=2) for a, b in pairwise(widths)]
        wide = [_block(widths[-1], widths[-1], dilation=rate) for rate in (1, 2, 4)]
        self.body = nn.Sequential(*down, *wide)
        self.head = nn.Conv2d(widths[-1], 5, 1)
        nn.init.constant_(self.head.bias[:1], -4.0)
        rows, columns = (torch.arange(side // _STRIDE) + 0.5 for side in SIZE_HW)
        self.register_buffer("cells", torch.stack(torch.meshgrid(columns, rows, indexing="xy")))

    def maps(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, h, w) and boxes (B, 4, h, w), px, of normalised pictures (B, 3, H, W)."""
        out = self.head(self.body(image))
        far = out[:, 1:].clamp(-4, 4).exp()
        low, high = self.cells - far[:, :2], self.cells + far[:, 2:]
        return out[:, 0], _STRIDE * torch.cat([low, high], dim=1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The ten surest people: (1, 10, 5) px and score, and their labels."""
        logits, boxes = self.maps(image)
        score = logits.sigmoid()
        is_peak = score == F.max_pool2d(score[:, None], 3, stride=1, padding=1)[:, 0]
        best, place = (score * is_peak).flatten(1).topk(10)
        chosen = boxes.flatten(2).gather(2, place[:, None].expand(-1, 4, -1)).transpose(1, 2)
        return torch.cat([chosen, best[..., None]], dim=2), torch.zeros_like(place)


def train_detector(path: Path, num_scenes: int = 320, num_steps: int = 420) -> None:
    """Write the ONNX file of a detector that has seen ``num_scenes`` pictures."""
    samples = scenes(num_scenes, seed=11)
    pictures = torch.stack([torch.from_numpy(s["images"][0]) for s in samples]).float()
    pictures = ((pictures - _MEAN) / _STD).permute(0, 3, 1, 2)
    targets = [torch.from_numpy(_boxes(sample)) for sample in samples]
    torch.manual_seed(0)
    net = TinyDetector()
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=num_steps)
    for _ in range(num_steps):
        rows = torch.randint(num_scenes, (16,)).tolist()
        flip = bool(torch.rand(()) < 0.5)
        batch = pictures[rows].flip(3) if flip else pictures[rows]
        loss = _loss(net, batch, [_flipped(targets[r]) if flip else targets[r] for r in rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    names = {"input_names": ["input"], "output_names": ["dets", "labels"]}
    torch.onnx.export(net.eval(), (pictures[:1],), path, dynamo=False, **names)


def overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union (N, M) of boxes (N, 4) and (M, 4)."""
    low = np.maximum(first[:, None, :2], second[:, :2])
    high = np.minimum(first[:, None, 2:], second[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    return shared / (areas[0][:, None] + areas[1] - shared)


def _block(before: int, after: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(before, after, 3, stride, dilation, dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU())


def _boxes(sample: Sample) -> np.ndarray:
    """Corners in px of the network's input, whose first pixel begins at 0."""
    return sample["box_img"].astype(np.float32) + 0.5


def _flipped(boxes: Tensor) -> Tensor:
    return torch.stack(
        [SIZE_HW[1] - boxes[:, 2], boxes[:, 1], SIZE_HW[1] - boxes[:, 0], boxes[:, 3]], dim=1
    )


def _loss(net: TinyDetector, pictures: Tensor, targets: list[Tensor]) -> Tensor:
    logits, boxes = net.maps(pictures)
    heat, terms = torch.zeros_like(logits), []
    for row, people in enumerate(targets):
        middle = (people[:, :2] + people[:, 2:]) / 2 / _STRIDE  # (n, 2) cells
        offset = net.cells - middle[:, :, None, None]  # (n, 2, h, w)
        heat[row] = torch.exp(-offset.square().sum(dim=1)).amax(dim=0)
        near = offset.abs().amax(dim=1) <= 0.75  # the cell of the middle and next to it
        for person, is_near in zip(people, near, strict=True):
            found = boxes[row, :, is_near].T
            terms.append(generalized_box_iou_loss(found, person.expand_as(found)).mean())
    surprise = F.binary_cross_entropy_with_logits(logits, heat, reduction="none")
    weight = (logits.sigmoid() - heat).abs().square()  # mostly there is nobody
    return (weight * surprise).sum() / len(terms) + torch.stack(terms).mean()
