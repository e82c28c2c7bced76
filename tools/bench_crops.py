"""Time the data path of one person, JPEG -> crop -> augmentation -> batch, on one core."""

import argparse
import time
from collections.abc import Callable

import cv2
import numpy as np
import simplejpeg

from hmrkit.data.augment import Augment
from hmrkit.data.collate import collate
from hmrkit.data.crops import Crops
from hmrkit.data.occluders import GeneratedPatches, Occlude
from hmrkit.data.record import complete_sample, decode_image
from hmrkit.types import Sample


def make_sample(size: int) -> tuple[bytes, Sample]:
    """A square JPEG with detail like a photograph's, and a person who fills most of it."""
    rng = np.random.default_rng(0)
    image = np.zeros((size, size, 3), np.float32)
    for cells in (4, 16, 64, 256, size):  # a spectrum that falls like that of photographs
        noise = rng.normal(0, 30 * (4 / cells) ** 0.25, (cells, cells, 3)).astype(np.float32)
        image += cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    pixels = np.clip(image + 128, 0, 255).astype(np.uint8)
    keypoints = np.ones((1, 24, 3), np.float32)
    keypoints[0, :, :2] = rng.uniform(0.1, 0.9, (24, 2)) * size
    partial: Sample = {
        "key": "bench",
        "images": [pixels],
        "image_of_view": np.zeros(1, np.int64),
        "person_of_view": np.zeros(1, np.int64),
        "box_img": np.float32([[0.1, 0.1, 0.9, 0.9]]) * size,
        "keypoints_img": keypoints,
        "keypoints_world": np.ones((1, 24, 4), np.float32),
        "pose": rng.normal(0, 0.3, (1, 24, 3)).astype(np.float32),
        "betas": np.zeros((1, 10), np.float32),
        "transl": np.ones((1, 3), np.float32),
        "has_pose": np.ones(1, bool),
        "has_betas": np.ones(1, bool),
    }
    jpeg = simplejpeg.encode_jpeg(pixels, quality=85, colorsubsampling="420")
    return jpeg, complete_sample(partial, "smpl24", "bench")


def median_ms(run: Callable[[int], object], repeats: int) -> float:
    """Median CPU time of one call, ms; the argument is the number of the call."""
    run(0)
    times = []
    for i in range(repeats):
        start = time.process_time()
        run(i)
        times.append(time.process_time() - start)
    return float(np.median(times)) * 1e3


def main() -> None:
    """Print one line per stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1000, help="side of the JPEG, px")
    parser.add_argument("--input", type=int, default=256, help="side of the crop, px")
    parser.add_argument("--repeats", type=int, default=200)
    options = parser.parse_args()
    cv2.setNumThreads(0)
    jpeg, sample = make_sample(options.size)
    side = (options.input, options.input)
    plain = Crops(side, with_antialias=False)
    augment = Augment(extreme_crop_probability=0.1)
    bilinear = Crops(side, with_antialias=False, augment=augment)
    smooth = Crops(side, augment=augment)
    occlude = Occlude(GeneratedPatches())
    occluded = Crops(side, augment=Augment(extreme_crop_probability=0.1, occlude=occlude))

    def whole(i: int) -> Sample:
        fresh: Sample = {**sample, "images": [decode_image(jpeg)]}
        return smooth(fresh, 0, np.random.default_rng(i))

    batch = [smooth(sample, 0, np.random.default_rng(i)) for i in range(64)]
    stages: dict[str, Callable[[int], object]] = {
        "decode": lambda i: decode_image(jpeg),
        "crop, bilinear, no augmentation": lambda i: plain(sample, 0),
        "crop, bilinear, augmented": lambda i: bilinear(sample, 0, np.random.default_rng(i)),
        "crop, antialiased, augmented": lambda i: smooth(sample, 0, np.random.default_rng(i)),
        "  with 1-7 occluders": lambda i: occluded(sample, 0, np.random.default_rng(i)),
        "decode + crop, antialiased, augmented": whole,
    }
    print(f"JPEG {options.size} px, {len(jpeg) // 1000} kB -> {options.input} px; CPU, one thread")
    for name, run in stages.items():
        milliseconds = median_ms(run, options.repeats)
        print(f"{name:40s} {milliseconds:6.2f} ms {1000 / milliseconds:7.0f}/s")
    milliseconds = median_ms(lambda i: collate(batch), options.repeats) / 64
    print(f"{'collate, per sample of 64':40s} {milliseconds:6.2f} ms")


if __name__ == "__main__":
    main()
