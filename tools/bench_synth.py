"""Synthetic records per second and core: ``python tools/bench_synth.py --sizes 256 128``.

Measures CPU time of this process, so other programs matter little. Each record is made
and encoded as for a shard.
"""

import argparse
import time

import cv2

from hmrkit.body.free import free_body_data
from hmrkit.data.record import complete_sample, encode_record
from hmrkit.data.synth.cast import Studio
from hmrkit.data.synth.generate import draw_record
from hmrkit.data.synth.people import FastBody
from hmrkit.data.synth.recipe import to_recipe

EASY = {
    "pose_noise": 0.8,
    "yaw_deg": 60.0,
    "truncation_probability": 0.0,
    "max_shapes": 3,
    "occluder_probability": 0.15,
}


def measure(studio: Studio, kind: str, size_hw: tuple[int, int], options: dict, num: int) -> float:
    """CPU milliseconds per record."""
    recipe = to_recipe(options)
    for index in range(-3, num):
        if index == 0:
            started = time.process_time()
        sample = draw_record(kind, studio, recipe, size_hw, 1, index % 10**6)
        encode_record(complete_sample(sample, sample["joint_set"]), "jpg", 92)
    return 1000 * (time.process_time() - started) / num


def main() -> None:
    """Print one line per kind and size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 128, 96], help="px of crops")
    parser.add_argument("--num", type=int, default=200, help="crops per line")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    studio = Studio(FastBody(free_body_data()))
    cases = [("crops", (s, s), name, o, 1) for s in arguments.sizes
             for name, o in (("full", {}), ("easy", EASY))]  # fmt: skip
    cases += [("scenes", (360, 640), "full", {}, 5), ("rigs", (256, 256), "full", {}, 5)]
    cases += [("motion", (64, 64), "full", {}, 5)]
    for kind, size_hw, name, options, share in cases:
        cost = measure(studio, kind, size_hw, options, max(arguments.num // share, 1))
        size = "x".join(map(str, size_hw))
        print(f"{kind:7s} {size:8s} {name:5s} {cost:7.1f} ms  {1000 / cost:6.1f} records/s/core")


if __name__ == "__main__":
    main()
