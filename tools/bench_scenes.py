"""Time of methods that look at whole images: by size, people, tokens, precision, mode.

Called by ``bench.py`` for such methods. Weights are random, so the scale map is given: people of
all sizes stand side by side, and the network looks closely where they are small.
"""

import statistics
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from hmrkit.body import joints
from hmrkit.geometry.cameras import project
from hmrkit.models.sathmr.tokens import CELL_PX, cells_of
from hmrkit.module import HMRModule
from hmrkit.scene_evaluation import detected
from hmrkit.types import Batch, Body

_PLAIN = "hmrkit.models.sathmr.encoder.PlainEncoder"
_ASPECT = 9 / 16  # height over width of the images
_COLUMNS = ("px", "kind", "people", "tokens", "batch", "precision", "mode", "stage")
_COLUMNS += ("ms/image", "images/s", "share", "peak GB")
Measure = Callable[..., list[float]]


def main(
    arguments: Namespace,
    make: Callable[[list[str]], HMRModule],
    measure: Measure,
    peak_gb: Callable[[], float],
) -> None:
    """Measure and print one line for each combination.

    Args:
        arguments: of ``bench.py``.
        make: a module from overrides.
        measure: seconds of each repeat of a function, in bfloat16 or not.
        peak_gb: peak memory so far.
    """
    print(" ".join(f"{name:>9}" for name in _COLUMNS))
    modes = ("eager", "compiled") if arguments.compile else ("eager",)
    for side_px, kind, mode in product(arguments.sides, arguments.kinds, modes):
        module = make_module(arguments, make, side_px, kind)
        if mode == "compiled":
            module.net.compile()
        for people, size in product(arguments.people, arguments.batch):
            batch = make_batch(module, side_px, size, people, arguments.device)
            tokens = place_people(module, batch, people)
            for bf16 in (False, True) if arguments.bf16 else (False,):
                head = (side_px, kind, people, tokens, size, "bf16" if bf16 else "fp32", mode)
                for line in measured(module, batch, arguments, partial(measure, bf16=bf16)):
                    cells = (*head, *line, f"{peak_gb():.2f}")
                    print(" ".join(f"{cell!s:>9}" for cell in cells), flush=True)


def make_module(
    arguments: Namespace, make: Callable[[list[str]], HMRModule], side_px: int, kind: str
) -> HMRModule:
    """The network for one resolution, with scale-adaptive tokens or with all of them."""
    overrides = [*arguments.overrides, f"model.net.long_side_px={side_px}"]
    if kind == "plain":
        kept = "long_side_px", "dim", "depth", "num_heads"
        size = make(overrides).config["model"]["net"]["encoder"]
        encoder = ",".join(f"{name}:{size[name]}" for name in kept)
        overrides += ["~model.net.encoder", f"+model.net.encoder={{_target_:{_PLAIN},{encoder}}}"]
    return make(overrides).to(arguments.device)


def make_batch(
    module: HMRModule, side_px: int, num_images: int, num_people: int, device: str
) -> Batch:
    """Random images with so many mean bodies in each, near and far, as labels."""
    height = int(side_px * _ASPECT)
    divisor = module.net.encoder.divisor_px
    padded = [-(-side // divisor) * divisor for side in (height, side_px)]
    depth = torch.linspace(3, 20, num_people).repeat(num_images)
    total = len(depth)
    across = torch.linspace(-0.4, 0.4, num_people).repeat(num_images)
    body = module.body.mean_body(total)
    place = torch.stack([across * depth, 0 * depth, depth], dim=1).to(device)
    body = Body(body.global_orient, body.body_pose, body.betas, place)
    points = module.body.joints(body, "all")
    size_px = torch.tensor([side_px, height], device=device).expand(total, 2).float()
    camera = torch.diag(torch.tensor([side_px, side_px, 1.0], device=device)).repeat(total, 1, 1)
    camera[:, :2, 2] = size_px / 2
    crop = 2 * project(points, camera) / size_px[:, None] - 1
    one = torch.ones(total, len(joints.names("all")), 1, device=device)
    yes = torch.ones(total, dtype=torch.bool, device=device)
    return {
        "image": torch.randn(num_images, 3, *padded, device=device),
        "input_size": torch.tensor([[height, side_px]] * num_images, device=device),
        "image_of_view": torch.arange(num_images, device=device).repeat_interleave(num_people),
        "person_of_view": torch.arange(total, device=device),
        "crop_to_img": torch.cat([torch.diag_embed(size_px / 2), size_px[..., None] / 2], dim=-1),
        "intrinsics_of_view": camera,
        "world_to_camera": torch.eye(4, device=device).repeat(num_images, 1, 1),
        "keypoints_crop": torch.cat([crop, one], dim=-1),
        "keypoints_world": torch.cat([points, one], dim=-1),
        "body": body,
        **dict.fromkeys(("has_pose", "has_betas", "has_transl", "has_exact_labels"), yes),
    }


class GivenMap(nn.Module):
    """A scale head whose work is done and whose result is replaced."""

    def __init__(self, head: nn.Module, scale_map: Tensor) -> None:
        super().__init__()
        self.head, self.scale_map = head, scale_map

    def forward(self, coarse: Tensor) -> Tensor:
        """Cells (C, D) to the given map (C, 2), through which gradients pass."""
        return self.scale_map + 0 * self.head(coarse)


def place_people(module: HMRModule, batch: Batch, num_people: int) -> int:
    """Give the network the scale map of people side by side; the tokens of an image."""
    net, image = module.net, batch["image"]
    if net.scale_head is None:
        return image.shape[-2] * image.shape[-1] // net.encoder.cell_px**2
    rows, columns = (side // CELL_PX for side in image.shape[-2:])
    scale_map = torch.zeros(rows, columns, 2)
    for person, scale in enumerate(torch.linspace(0.7, 0.08, num_people).tolist()):
        height = max(1, min(rows, round(scale * columns)))
        width = max(1, height // 3)
        left = int((columns - width) * (person + 0.5) / num_people)
        top = (rows - height) // 2
        scale_map[top : top + height, left : left + width] = torch.tensor([1.0, scale])
    cells = cells_of(batch["input_size"].cpu(), CELL_PX, net.encoder.divisor_px, (rows, columns))
    given = scale_map[cells.row, cells.column].to(image.device)
    head = net.scale_head.head if isinstance(net.scale_head, GivenMap) else net.scale_head
    net.scale_head = GivenMap(head, given)
    with torch.no_grad():
        tokens = module.eval()(batch).extra["tokens"]
    return len(tokens) // len(image)


def measured(
    module: HMRModule,
    batch: Batch,
    arguments: Namespace,
    measure: Callable[[Callable[[], Any]], list[float]],
) -> Iterator[tuple[str, str, str, str]]:
    """Stage, time per image, images per second and share of the step or of the inference."""
    times = {}
    for name, run in stages(module, batch).items():
        if name == "step" and arguments.inference:
            continue
        times[name] = statistics.median(measure(run)) / len(batch["image"])
    for name in times:
        whole = times["step"] if name == "step" else times["people"]
        time = times[name]
        yield name, f"{1e3 * time:.1f}", f"{1 / time:.2f}", f"{time / whole:.2f}"


def stages(module: HMRModule, batch: Batch) -> dict[str, Callable[[], None]]:
    """What is measured: encoder, whole network, with the meshes of as many as are there, a step."""
    made = module.configure_optimizers()
    optimizer = made if isinstance(made, torch.optim.Optimizer) else made["optimizer"]
    net = module.net
    num_labelled = len(batch["has_pose"])

    @torch.no_grad()
    def encoder() -> None:
        module.eval()
        cells, _ = net._cells(batch["image"], batch["input_size"])
        net.encoder(batch["image"], cells, partial(net._see, {}))

    @torch.no_grad()
    def forward() -> None:
        module.eval()(batch)

    @torch.no_grad()
    def people() -> None:
        prediction = module.eval()(batch)
        kept = prediction.score.sort(descending=True).values[: num_labelled + 1]
        module.body(detected(prediction, float(kept[-1])).body)

    def step() -> None:
        module.train()
        terms = module.loss(module(batch), batch, module.body)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()

    return {"encoder": encoder, "forward": forward, "people": people, "step": step}
