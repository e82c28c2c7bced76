"""Compare hmrkit's body with smplx's in one run: same body, same poses, same loss.

    python tools/bench_body.py [--batches 1 64 256] [--rounds 7] [--threads 1] [--device cpu]

Prints milliseconds (process time on a CPU, wall time elsewhere; best of the rounds, which alternate
between the two), how many times smplx's time that is, and the largest difference of the results. On
the right of ``/`` is the time of forward and backward.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import smplx
import torch
from torch import Tensor

from hmrkit.body.free import free_body, write_smplx_pickle
from hmrkit.body.smpl import SMPL
from hmrkit.geometry.rotations import axis_angle_to_rotmat
from hmrkit.types import Body, Mesh

NUM_SUBSET = 300  # about what a sparse 2D or scan loss reads


def random_body(num: int, device: str) -> Body:
    """``num`` bodies in random poses whose tensors want gradients."""
    generator = torch.Generator().manual_seed(0)
    pose = axis_angle_to_rotmat(0.4 * torch.randn(num, 24, 3, generator=generator))
    betas, transl = torch.randn(num, 10, generator=generator), torch.zeros(num, 3)
    parts = (pose[:, 0], pose[:, 1:], betas, transl)
    return Body(*(part.clone().to(device).requires_grad_() for part in parts))


def tasks(ours: SMPL, theirs: smplx.SMPL) -> dict[str, tuple[Callable, Callable]]:
    """Per task, what ours computes and what smplx's users compute for the same."""
    device = ours.faces.device
    index = torch.randperm(ours.num_vertices, generator=torch.Generator().manual_seed(0))
    index = index[:NUM_SUBSET].to(device)

    def reference(body: Body) -> tuple[Tensor, Tensor]:
        pose = {"global_orient": body.global_orient[:, None], "body_pose": body.body_pose}
        out = theirs(**pose, betas=body.betas, transl=body.transl, pose2rot=False)
        return out.vertices, out.joints

    def mesh(body: Body) -> tuple[Tensor, Tensor]:
        out = ours(body)
        return out.vertices, out.joints

    return {
        "vertices + joints": (mesh, lambda body: body_joints(reference(body))),
        "24 joints": (
            lambda body: (ours.joints(body),),
            lambda body: (reference(body)[1][:, :24],),
        ),
        "45 joints": (
            lambda body: (ours.joints(body, "smpl45"),),
            lambda body: (reference(body)[1],),
        ),
        "all 90 joints": (
            lambda body: (ours.joints(body, "all"),),
            lambda body: (ours.joints_from_mesh(Mesh(*body_joints(reference(body))), "all"),),
        ),
        f"{NUM_SUBSET} vertices": (
            lambda body: (ours.vertices(body, index),),
            lambda body: (reference(body)[0][:, index],),
        ),
    }


def body_joints(found: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """What smplx gives, cut to the vertices and the 24 joints of the skeleton."""
    return found[0], found[1][:, :24]


def measure(run: Callable[[], object], device: str) -> float:
    """Milliseconds of one call."""
    if device == "cpu":
        start = time.process_time()
        run()
        return 1e3 * (time.process_time() - start)
    torch.accelerator.synchronize()
    start = time.perf_counter()
    run()
    torch.accelerator.synchronize()
    return 1e3 * (time.perf_counter() - start)


def compare(pair: tuple[Callable, Callable], body: Body, rounds: int, device: str) -> str:
    """One row: ours and smplx's forward / forward + backward, the two ratios, the difference."""
    leaves = [body.global_orient, body.body_pose, body.betas]
    with torch.no_grad():
        both = [task(body) for task in pair]
        error = max((a - b).abs().max().item() for a, b in zip(*both, strict=True))
        pulls = [torch.randn_like(out) for out in both[0]]

    def forward(task: Callable) -> None:
        with torch.no_grad():
            task(body)

    def both_ways(task: Callable) -> None:
        torch.autograd.grad(task(body), leaves, pulls, allow_unused=True)

    best = {}
    for _ in range(rounds):
        for way in (forward, both_ways):
            for task in pair:
                spent = measure(lambda: way(task), device)  # noqa: B023 (called at once)
                best[way, task] = min(spent, best.get((way, task), spent))
    times = [[best[way, task] for way in (forward, both_ways)] for task in pair]
    ratios = [theirs / own for own, theirs in zip(*times, strict=True)]
    cells = [f"{a:8.2f} / {b:8.2f}" for a, b in times]
    return f"{cells[0]} | {cells[1]} | {ratios[0]:6.1f} / {ratios[1]:6.1f} | {error:.1e}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64, 256])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "SMPL_NEUTRAL.pkl"
        write_smplx_pickle(path)
        theirs = smplx.SMPL(str(path)).to(options.device)
    ours = free_body().to(options.device)
    print(
        f"batch  {'task':18s} | {'hmrkit, ms':19s} | {'smplx, ms':19s} | times smplx's   | error, m"
    )
    for num in options.batches:
        body = random_body(num, options.device)
        for name, pair in tasks(ours, theirs).items():
            print(f"{num:5d}  {name:18s} | {compare(pair, body, options.rounds, options.device)}")


if __name__ == "__main__":
    main()
