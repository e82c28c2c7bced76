"""Time of the metrics beside a loop over people: ``python tools/bench_metrics.py``.

The loop is plain NumPy, a person at a time, as evaluation scripts of the field are written: joints
by a dense regressor, root subtracted, one SVD per person, vertices by ``sqrt``. One thread.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from hmrkit import metrics
from hmrkit.body import joints
from hmrkit.body.free import free_body
from hmrkit.types import Mesh

_BATCH = 32


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=10_000)
    parser.add_argument("--distinct", type=int, default=512, help="of them in memory, repeated")
    options = parser.parse_args()
    torch.set_num_threads(1)
    body = free_body()
    generator = torch.Generator().manual_seed(0)
    mean = body(body.mean_body(1)).vertices
    shape = (options.distinct, *mean.shape[1:])
    label = mean + 0.05 * torch.randn(shape, generator=generator)
    found = label + 0.05 * torch.randn(shape, generator=generator)
    regressor = dense_regressor(body, mean.shape[1])
    root, rows = 0, joints.index(list(joints.names("h36m14")), "h36m17")
    pairs = [(found[i], label[i]) for i in range(options.distinct)]
    arrays = [(a.numpy(), b.numpy()) for a, b in pairs]
    points = [(regressor @ a, regressor @ b) for a, b in arrays]

    def in_batches(measure: Callable) -> Callable:
        def run() -> None:
            for first in range(0, options.distinct, _BATCH):
                part = slice(first, first + _BATCH)
                measure(found[part], label[part])

        return run

    def read(vertices: torch.Tensor) -> torch.Tensor:
        return body.joints_from_mesh(Mesh(vertices, vertices[:, :24]), "h36m17")

    ours_points = torch.stack([torch.from_numpy(a) for a, _ in points])
    theirs_points = torch.stack([torch.from_numpy(b) for _, b in points])
    confident = torch.cat([theirs_points, torch.ones_like(theirs_points[..., :1])], dim=-1)
    cases = {
        "joints of both meshes": (
            lambda: [(regressor @ a, regressor @ b) for a, b in arrays],
            in_batches(lambda a, b: (read(a), read(b))),
        ),
        "MPJPE of 14 joints": (
            lambda: [
                np.sqrt((((a - a[root]) - (b - b[root]))[rows] ** 2).sum(-1)).mean()
                for a, b in points
            ],
            lambda: metrics.mpjpe_mm(ours_points, confident, [root], rows),
        ),
        "PA-MPJPE of 14 joints": (
            lambda: [procrustes_error(a[rows], b[rows]) for a, b in points],
            lambda: metrics.pa_mpjpe_mm(ours_points, confident, rows),
        ),
        "PVE of all vertices": (
            lambda: [np.sqrt(((a - b) ** 2).sum(-1)).mean() for a, b in arrays],
            in_batches(metrics.pve_mm),
        ),
    }
    scale = options.people / options.distinct
    total = np.zeros(2)
    print(f"{'':24}{'loop':>10}{'hmrkit':>10}{'times':>8}   s per {options.people} people")
    for name, pair in cases.items():
        spent = np.array([scale * cpu_seconds(run) for run in pair])
        total += spent
        print(f"{name:24}{spent[0]:10.2f}{spent[1]:10.2f}{spent[0] / spent[1]:8.1f}")
    print(f"{'together':24}{total[0]:10.2f}{total[1]:10.2f}{total[0] / total[1]:8.1f}")


def cpu_seconds(run: Callable) -> float:
    """The fastest of three runs, CPU seconds."""
    run()
    spent = []
    for _ in range(3):
        started = time.process_time()
        run()
        spent.append(time.process_time() - started)
    return min(spent)


def dense_regressor(body: torch.nn.Module, num_vertices: int) -> np.ndarray:
    """(17, V) of Human3.6M's joints, as a script would load it."""
    reader = body._reader("h36m17")
    rows = np.zeros((17, num_vertices), np.float32)
    order = (reader.order - 24).numpy()
    rows[:, reader.vertices.numpy()] = reader.regressor.numpy()[order]
    return rows


def procrustes_error(points: np.ndarray, target: np.ndarray) -> float:
    """Mean distance (K, 3) after the similarity transform that fits best."""
    mean, goal = points.mean(axis=0), target.mean(axis=0)
    own, other = points - mean, target - goal
    u, s, vt = np.linalg.svd(own.T @ other)
    sign = np.array([1, 1, np.sign(np.linalg.det(u @ vt))])
    turn = (u * sign) @ vt
    scale = (s * sign).sum() / (own**2).sum()
    return float(np.sqrt(((scale * own @ turn + goal - target) ** 2).sum(-1)).mean())


if __name__ == "__main__":
    main()
