"""What ``tools/bench.py`` measures of a network that takes calibrated rigs.

Four cameras around people in the mean pose, random images, two crops of every view.
"""

import argparse
import math
import resource
import time
from collections.abc import Callable

import torch

from hmrkit.geometry.cameras import project, transform
from hmrkit.models.heatformer import model
from hmrkit.models.heatformer.heatmapper import JOINTS
from hmrkit.module import HMRModule
from hmrkit.types import Batch

_SIDE_PX = 1000.0


def make_rigs(module: HMRModule, size: int, device: str, num_views: int = 4) -> Batch:
    """People before ``num_views`` cameras each, with every label."""
    body = module.body.mean_body(size)
    points = module.body.joints(body, "all").to(device)
    person = torch.arange(size, device=device).repeat_interleave(num_views)
    total = size * num_views
    camera = torch.eye(4, device=device).repeat(total, 1, 1)
    for view in range(total):
        turn = 2 * math.pi * (view % num_views + 0.1) / num_views
        sine, cosine = math.sin(turn), math.cos(turn)
        rows = [[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]]
        camera[view, :3, :3] = torch.tensor(rows, device=device)
        camera[view, 2, 3] = 4.0
    half = _SIDE_PX / 2
    matrix = torch.tensor([[1100.0, 0, half], [0, 1100.0, half], [0, 0, 1]], device=device)
    intrinsics = matrix.repeat(total, 1, 1)
    seen = project(transform(points[person], camera), intrinsics)
    to_img = torch.tensor([[half, 0, half], [0, half, half]], device=device).repeat(total, 1, 1)
    one = torch.ones_like(points[..., :1])
    has_label = torch.ones(size, dtype=torch.bool, device=device)
    return {
        "image": torch.randn(total, 3, *module.net.input_size, device=device),
        "keypoint_image": torch.randn(total, 3, *module.net.keypoint_size, device=device),
        "intrinsics": intrinsics,
        "world_to_camera": camera,
        "image_of_view": torch.arange(total, device=device),
        "person_of_view": person,
        "crop_to_img": to_img,
        "keypoint_crop_to_img": to_img.clone(),
        "keypoints_crop": torch.cat([(seen - half) / half, one[person]], dim=-1),
        "keypoints_world": torch.cat([points, one], dim=-1),
        "body": body,
        "has_pose": has_label,
        "has_betas": has_label,
    }


def report(module: HMRModule, arguments: argparse.Namespace) -> None:
    """Print seconds per batch of every part, in a forward pass and in a training step.

    The step is that of what learns: heatmaps and image tokens are given, as they come from frozen
    networks. "refinement" is what is left of a forward pass without heatmapper, fusion, backbone.
    """
    print(f"{'people':>6} {'pass':<8} {'part':<14} {'fastest s':>9} {'share':>6} {'GB':>6}")
    for size in arguments.batch:
        batch = make_rigs(module, size, arguments.device, arguments.views)
        for name, run in (("forward", forward_pass), ("step", training_step)):
            best: dict[str, float] = {}
            for _ in range(arguments.repeats):
                seconds = run(module, batch)
                if not best or seconds["all"] < best["all"]:
                    best = seconds
            for part, value in best.items():
                share = value / best["all"]
                memory = f"{peak_gb(arguments.device):>6.2f}" if part == "all" else ""
                print(f"{size:>6} {name:<8} {part:<14} {value:>9.2f} {share:>6.0%} {memory}")


def forward_pass(module: HMRModule, batch: Batch) -> dict[str, float]:
    """Seconds of the parts of one forward pass."""
    module.eval()
    with torch.no_grad(), Stopwatch(module.net) as watch:
        module(batch)
    parts = watch.seconds
    known = ("heatmapper", "fusion", "backbone")
    return {**parts, "refinement": parts["all"] - sum(parts[name] for name in known)}


def training_step(module: HMRModule, batch: Batch) -> dict[str, float]:
    """Seconds of one step of the parts that learn."""
    module.train()
    net, num_views = module.net, len(batch["image_of_view"])
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-5)
    device = batch["image"].device
    with torch.no_grad():
        shape = net.backbone(batch["image"][:1, ..., : net.backbone.image_size[1]]).shape
    tokens = torch.randn(num_views, *shape[1:], device=device)
    maps = torch.rand(num_views, len(JOINTS), *net.map_hw, device=device)
    given = {net.backbone: ("forward", tokens), net.heatmapper: ("joint_maps", maps)}
    for part, (method, value) in given.items():
        setattr(part, method, lambda _, value=value: value)
    try:
        with Stopwatch(net) as watch:
            prediction = module(batch)
            forward = watch.now()
            terms = module.loss(prediction, batch, module.body)
            optimizer.zero_grad(set_to_none=True)
            torch.stack(list(terms.values())).sum().backward()
            backward = watch.now()
            optimizer.step()
    finally:
        for part, (method, _) in given.items():
            delattr(part, method)
    total = watch.seconds["all"]
    parts = {
        "forward": forward,
        "loss, backward": backward - forward,
        "optimizer": total - backward,
    }
    return {**parts, "all": total}


class Stopwatch:
    """Adds up the seconds that parts of a network take while it is entered."""

    def __init__(self, net: torch.nn.Module) -> None:
        self.parts = {
            "heatmapper": (net.heatmapper, "joint_maps"),
            "fusion": (model, "observe"),
            "backbone": (net.backbone, "forward"),
            "initial": (net.initial, "forward"),
            "heat encoder": (net.heat_encoder, "forward"),
            "positions": (net.position, "forward"),
            "keys, values": (net.decoder, "keys_values"),
            "decoder": (net.decoder, "forward"),
        }
        self.is_cuda = next(net.parameters()).is_cuda
        self.seconds = dict.fromkeys(self.parts, 0.0)

    def __enter__(self) -> "Stopwatch":
        self.own = {name: getattr(*place) for name, place in self.parts.items()}
        for name, (owner, method) in self.parts.items():
            setattr(owner, method, self._timed(name, self.own[name]))
        self.started = self._clock()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds["all"] = self.now()
        for name, (owner, method) in self.parts.items():
            if isinstance(owner, torch.nn.Module) and method not in owner.__dict__:
                continue
            setattr(owner, method, self.own[name])

    def now(self) -> float:
        """Seconds since it was entered."""
        return self._clock() - self.started

    def _clock(self) -> float:
        if self.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def _timed(self, name: str, call: Callable) -> Callable:
        def timed(*arguments: object, **options: object) -> object:
            started = self._clock()
            result = call(*arguments, **options)
            self.seconds[name] += self._clock() - started
            return result

        return timed


def peak_gb(device: str) -> float:
    """Peak memory so far: of the GPU, or of this process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
