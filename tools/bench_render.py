"""Time the renderer: CPU milliseconds per image (the best of many) of each backend that works.

Run: OMP_NUM_THREADS=1 python tools/bench_render.py
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from hmrkit.body.free import free_body
from hmrkit.render import pyrender_backend
from hmrkit.render.rasterize import rasterize
from hmrkit.render.render import render


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=30)
    repeats = parser.parse_args().repeats
    body = free_body()
    with torch.no_grad():
        person = body(body.mean_body(1)).vertices[0].numpy()
    person = person - (person.min(0) + person.max(0)) / 2
    faces = np.asarray(body.faces)
    backends = ["numpy"]
    try:
        print(f"OpenGL: {pyrender_backend.opengl_renderer()}")
        backends.append("pyrender")
    except RuntimeError as error:
        print(f"OpenGL: none ({error.__cause__})")

    print(f"{'scene':24}{'covered':>9}{'raster':>9}", *(f"{b:>9}" for b in backends), "  numpy 2x2")
    for name, people, camera, size in _scenes(person):
        stack = np.stack(people)
        covered = (rasterize(stack, faces, camera, size).face_id >= 0).mean()
        times = [_ms(lambda s=(stack, faces, camera, size): rasterize(*s), repeats)]
        for backend in backends:
            times.append(
                _ms(
                    lambda s=(people, faces, camera, size), b=backend: render(*s, backend=b),
                    repeats,
                )
            )
        times.append(
            _ms(
                lambda s=(people, faces, camera, size): render(*s, backend="numpy", supersample=2),
                max(3, repeats // 3),
            )
        )
        print(f"{name:24}{covered:9.1%}", *(f"{t:8.2f}" for t in times))


def _scenes(
    person: np.ndarray,
) -> list[tuple[str, list[np.ndarray], np.ndarray, tuple[int, int]]]:
    """Name, people, camera and size of each scene; one body fills 85 % of a square's height."""
    scenes = []
    distance = np.array([0, 0, 2 * np.ptp(person[:, 1]) / 0.85], np.float32)
    for side in (96, 128, 256):
        center = (side - 1) / 2
        camera = np.array([[2.0 * side, 0, center], [0, 2.0 * side, center], [0, 0, 1]])
        scenes.append((f"{side}x{side}, 1 person", [person + distance], camera, (side, side)))
    camera = np.array([[900.0, 0, 639.5], [0, 900, 359.5], [0, 0, 1]])
    shifts = np.array([[0.9 * i - 1.8, 0, 3.5 + 0.4 * i] for i in range(5)], np.float32)
    scenes.append(("1280x720, 5 people", list(person + shifts[:, None]), camera, (720, 1280)))
    return scenes


def _ms(call: Callable[[], object], repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return 1e3 * min(times)


if __name__ == "__main__":
    main()
