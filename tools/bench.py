"""Time and memory of a method: ``python tools/bench.py model=hmr --batch 1 8 --threads 1``.

Methods that look at whole images also print images per second by resolution (``--sides``), number
of people (``--people``), kind of tokens, precision and eager or compiled (``bench_scenes.py``):
``python tools/bench.py model=sathmr --sides 644 1288 --people 1 10 --bf16 --compile --inference``.
``python tools/bench.py data=crops`` times the loading of data instead (``bench_data.py``).

Random weights, random images at the method's own input size, the free body. Prints the fastest and
the median of the repeats, because other programs only ever make a measurement slower.
"""

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from omegaconf import OmegaConf

import bench_data
import bench_rigs
import bench_scenes
from hmrkit.body import joints
from hmrkit.checkpoints import build_module
from hmrkit.configs import load_config
from hmrkit.module import HMRModule
from hmrkit.types import Batch


def main() -> None:
    """Read the command line, run, print a table."""
    groups = {argument.partition("=")[0] for argument in sys.argv[1:]}
    if "data" in groups and "model" not in groups:
        bench_data.main(sys.argv[1:])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="+", help="of the config, such as model=hmr")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="bfloat16; whole images: that too")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true", help="whole images: that too")
    parser.add_argument("--views", type=int, default=4, help="cameras, of a network for rigs")
    parser.add_argument("--inference", action="store_true", help="whole images: no training step")
    parser.add_argument("--people", type=int, nargs="+", default=[1, 10, 40], help="whole images")
    parser.add_argument("--kinds", nargs="+", default=["adaptive", "plain"], help="of tokens")
    parser.add_argument("--sides", type=int, nargs="+", default=[1288], help="whole images, px")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if "long_side_px" in load_config("train", arguments.overrides).model.net:  # whole images
        bench_scenes.main(
            arguments,
            make_module,
            partial(measure, repeats=arguments.repeats, device=arguments.device),
            partial(peak_gb, arguments.device),
        )
        return
    module = make_module(arguments.overrides).to(arguments.device)
    if arguments.channels_last:
        module.to(memory_format=torch.channels_last)
    if arguments.compile:
        module.net.compile()
    if hasattr(module.net, "keypoint_size"):  # it takes rigs
        bench_rigs.report(module, arguments)
        return
    print(f"{'stage':<16} {'batch':>5} {'fastest ms/image':>17} {'median ms/image':>16} {'GB':>6}")
    for size in arguments.batch:
        batch = make_batch(module, size, arguments.device)
        for name, run in stages(module, batch).items():
            times = measure(run, arguments.repeats, arguments.device, arguments.bf16)
            fastest, median = (1000 * t / size for t in (min(times), statistics.median(times)))
            peak = peak_gb(arguments.device)
            print(f"{name:<16} {size:>5} {fastest:>17.1f} {median:>16.1f} {peak:>6.2f}")


def make_module(overrides: list[str]) -> HMRModule:
    """The module of a config, with random weights."""
    config = load_config("train", overrides)
    nodes = {name: OmegaConf.to_container(config[name], resolve=True) for name in ("model", "body")}
    return build_module(nodes)


def make_batch(module: HMRModule, size: int, device: str) -> Batch:
    """Random images of the network's size with the mean body as every label."""
    body = module.body.mean_body(size)
    num_joints = len(joints.names("all"))
    has_label = torch.ones(size, dtype=torch.bool, device=device)
    number = torch.arange(size, device=device)
    crop_to_img = torch.tensor([[150.0, 0, 320], [0, 200, 240]], device=device)  # of 640 x 480 px
    return {
        "image_of_view": number,
        "person_of_view": number,
        "crop_to_img": crop_to_img.expand(size, 2, 3),
        "full_size": torch.tensor([[480, 640]], device=device).expand(size, 2),
        "intrinsics_of_view": torch.full((size, 3, 3), torch.nan, device=device),
        "image": torch.randn(size, 3, *module.net.input_size, device=device).contiguous(
            memory_format=torch.channels_last  # as the loader makes them
        ),
        "keypoints_crop": torch.rand(size, num_joints, 3, device=device),
        "keypoints_world": torch.rand(size, num_joints, 4, device=device),
        "body": body,
        "prior": body,
        "has_pose": has_label,
        "has_betas": has_label,
        "has_exact_labels": has_label,
    }


def stages(module: HMRModule, batch: Batch) -> dict[str, Callable[[], None]]:
    """What is measured: backbone, whole network, network with mesh, one training step."""
    optimizer = module.configure_optimizers()
    optimizer = (
        optimizer if isinstance(optimizer, torch.optim.Optimizer) else optimizer["optimizer"]
    )

    margin = getattr(module.net, "margin", 0)  # columns that the backbone does not see

    def backbone() -> None:
        module.eval()
        with torch.no_grad():
            module.net.backbone(batch["image"][..., margin : batch["image"].shape[-1] - margin])

    def forward() -> None:
        module.eval()
        with torch.no_grad():
            module(batch)

    def predict() -> None:
        module.eval()
        module.predict(batch)

    def training_step() -> None:
        module.train()
        terms = module.loss(module(batch), batch, module.body)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()

    return {"backbone": backbone, "forward": forward, "predict": predict, "step": training_step}


def measure(run: Callable[[], None], repeats: int, device: str, bf16: bool) -> list[float]:
    """Seconds of each repeat, after two that are not counted."""
    times = []
    for _ in range(repeats + 2):
        started = time.perf_counter()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
            run()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return times[2:]


def peak_gb(device: str) -> float:
    """Peak memory so far: of the GPU, or of this process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
