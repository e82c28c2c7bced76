"""Samples per second from shard to batch: ``python tools/bench.py data=crops --people 4``.

Shards of made-up photographs are written to a temporary folder and read as training reads them, in
this process and on one thread. Stages, per sample: reading (with CRC and labels), decoding, the
rest of the cut, collating. Beside them stands what the loaders of other methods do to the same
JPEGs (``reference_loaders.py``), timed in turn with ours on the same samples, and how many times as
fast hmrkit is with the same input size and augmentation. Times are CPU times of the fastest round,
because other programs only ever make a measurement slower.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import simplejpeg
from hydra.utils import instantiate
from omegaconf import OmegaConf

from hmrkit.configs import load_config
from hmrkit.data import images
from hmrkit.data.batches import UnitReader, start_worker
from hmrkit.data.collate import collate
from hmrkit.data.crops import Crops
from hmrkit.data.datamodule import DataModule
from hmrkit.data.scenes import Scenes
from hmrkit.data.shards import ShardSet, write_shard
from hmrkit.types import Sample
from reference_loaders import CROPS, SCENES, VIEWS, Reference

BATCH = 16
PICTURES = 16  # different ones per size
DRAWS = 3  # augmentations of every unit; each round repeats the same ones


def main(arguments: list[str]) -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="+", help="of the config, such as data=crops")
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 1000, 1500, 2000])
    parser.add_argument("--people", type=int, default=1, help="in every image")
    parser.add_argument("--cameras", type=int, default=4, help="of a rig")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="*", default=[], help="also time the loader")
    options = parser.parse_args(arguments)
    start_worker(0)  # one thread, and the memory of large images is reused, for all alike
    config = load_config("train", ["model=hmr", "run_dir=.", *options.overrides])
    node = OmegaConf.to_container(config.data.cut, resolve=True)
    cut = instantiate(node)
    is_rig = not isinstance(cut, Crops | Scenes)
    references = CROPS if isinstance(cut, Crops) else SCENES if isinstance(cut, Scenes) else VIEWS
    print(f"{' '.join(options.overrides)}: one core, ms of CPU time per {unit_name(cut)}")
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            cameras = options.cameras if is_rig else 1
            write_shard(f"{folder}/0.tar", records(size, options.people, cameras), "smpl24")
            shards = ShardSet(folder, "bench")
            num_bytes = shards.shards[0].info.num_bytes // shards.shards[0].info.num_images
            print(f"\nJPEG of {size} px, {num_bytes // 1000} kB, {options.people} people")
            stages(shards, cut, options.rounds)
            for name, reference in references.items():
                ours = cut
                if reference.options:
                    ours = type(cut)(**{**plain_options(node), **reference.options})
                compare(name, reference, shards, ours, options.rounds)
            for workers in options.workers:
                throughput(folder, cut, workers, config.data.get("group_views", False))


def plain_options(node: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a cut that are plain values."""
    return {k: v for k, v in node.items() if k not in ("_target_", "augment")}


def unit_name(cut: Any) -> str:
    """What one draw is."""
    return "person" if cut.unit == "view" else "record (all its people and views)"


def picture(rng: np.random.Generator, size: int) -> np.ndarray:
    """Noise whose spectrum falls like that of photographs, (size, size, 3) uint8."""
    image = np.zeros((size, size, 3), np.float32)
    for cells in (4, 16, 64, 256, size):
        noise = rng.normal(0, 30 * (4 / cells) ** 0.25, (cells, cells, 3)).astype(np.float32)
        image += cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.clip(image + 128, 0, 255).astype(np.uint8)


def records(size: int, people: int, cameras: int) -> list[Sample]:
    """Records with every label; each person takes 0.4 to 0.8 of the image's side."""
    rng = np.random.default_rng(size)
    made = []
    for i in range(PICTURES):
        views = [(c, p) for c in range(cameras) for p in range(people)]
        side = rng.uniform(0.4, 0.8, (len(views), 1)) * size
        corner = rng.uniform(0, 1, (len(views), 2)) * (size - side)
        keypoints = np.ones((len(views), 24, 3), np.float32)
        keypoints[..., :2] = (
            corner[:, None] + rng.uniform(0, 1, (len(views), 24, 2)) * side[:, None]
        )
        jpegs = [
            simplejpeg.encode_jpeg(picture(rng, size), quality=80, colorsubsampling="420")
            for _ in range(cameras)
        ]
        sample: Sample = {
            "key": f"r{i}",
            "images": jpegs,
            "intrinsics": np.tile(np.diag([size, size, 1]).astype(np.float32), (cameras, 1, 1)),
            "image_of_view": np.array([c for c, _ in views]),
            "person_of_view": np.array([p for _, p in views]),
            "box_img": np.hstack([corner, corner + side]).astype(np.float32),
            "keypoints_img": keypoints,
            "keypoints_world": rng.normal(2, 1, (people, 24, 4)).astype(np.float32) ** 2,
            "pose": rng.normal(0, 0.3, (people, 24, 3)).astype(np.float32),
            "betas": np.zeros((people, 10), np.float32),
            "transl": np.ones((people, 3), np.float32),
            "has_pose": np.ones(people, bool),
            "has_betas": np.ones(people, bool),
        }
        made.append(sample)
    return made


def num_units(shards: ShardSet, cut: Any) -> int:
    """Draws of one pass."""
    return shards.num_views if cut.unit == "view" else len(shards)


def cpu_ms(run: Callable[[], Any]) -> float:
    """CPU time of one call."""
    started = time.process_time()
    run()
    return 1000 * (time.process_time() - started)


class Stopwatch:
    """Adds up the time of a function while it replaces it."""

    def __init__(self, function: Callable) -> None:
        self.function, self.ms = function, 0.0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Call the function."""
        started = time.process_time()
        try:
            return self.function(*arguments, **options)
        finally:
            self.ms += 1000 * (time.process_time() - started)


def one_round(shards: ShardSet, cut: Any, order: np.ndarray) -> dict[str, float]:
    """Units in an order, so often as there are draws: ms of each stage per unit."""
    reader = UnitReader(shards, cut)
    read = Stopwatch(shards.read)
    decode = Stopwatch(images._Stored._decode)
    shards.read, images._Stored._decode = read, lambda *a: decode(*a)  # type: ignore[method-assign]
    try:
        rng = np.random.default_rng(0)
        joining = Stopwatch(collate)
        started = time.process_time()
        for units in np.array_split(np.tile(order, DRAWS), -(-DRAWS * len(order) // BATCH)):
            joining([reader.read(int(unit), rng) for unit in units])
        total = 1000 * (time.process_time() - started)
    finally:
        images._Stored._decode = decode.function  # type: ignore[method-assign]
        del shards.read
    rest = total - read.ms - decode.ms - joining.ms
    parts = {"read": read.ms, "decode": decode.ms, "cut": rest, "collate": joining.ms}
    return {name: ms / DRAWS / len(order) for name, ms in parts.items()}


def stages(shards: ShardSet, cut: Any, rounds: int) -> None:
    """Print the stages, with units in random order and with those of a record together."""
    num = num_units(shards, cut)
    in_order = np.arange(num)
    shuffled = np.random.default_rng(0).permutation(num)
    orders = {"hmrkit": shuffled}
    if num > len(shards):
        orders["hmrkit, group_views=true"] = in_order
    for name, order in orders.items():
        parts = min(
            (one_round(shards, cut, order) for _ in range(rounds)), key=lambda r: sum(r.values())
        )
        total = sum(parts.values())
        shares = "  ".join(f"{k} {ms:.2f} ({100 * ms / total:.0f} %)" for k, ms in parts.items())
        print(f"  {name:28} {total:6.2f} ms {1000 / total:6.0f}/s   {shares}")


def compare(name: str, reference: Reference, shards: ShardSet, cut: Any, rounds: int) -> None:
    """Time a method's loader and ours in turn on the same records, and print the ratio."""
    samples = [shards.read(i, is_lazy=True) for i in range(len(shards))]
    files = [[stored.file for stored in sample["images"]._images] for sample in samples]
    boxes = [sample["box_img"].astype(np.float64) for sample in samples]
    theirs, ours = [], []
    is_grouped = reference.unit == "image"  # who decodes an image once is held against the same
    num = num_units(shards, cut)
    order = np.arange(num) if is_grouped else np.random.default_rng(0).permutation(num)

    def run() -> None:
        rng = np.random.default_rng(0)
        for jpegs, box in zip(DRAWS * files, DRAWS * boxes, strict=True):
            views = [box[i : i + 1] for i in range(len(box))]
            for one in views if reference.unit == "person" else [box]:
                reference.load(jpegs, one, rng)

    for _ in range(rounds):
        theirs.append(cpu_ms(run) / num / DRAWS)
        ours.append(sum(one_round(shards, cut, order).values()))
    them, us = min(theirs), min(ours)
    verdict = f"{them / us:5.1f} times as fast (wanted: {reference.target:g})"
    print(f"  {name:28} {them:6.2f} ms {1000 / them:6.0f}/s   hmrkit {us:.2f} ms: {verdict}")


def throughput(folder: str, cut: Any, workers: int, group_views: bool) -> None:
    """Print what the data module delivers, by the clock on the wall."""
    node = {"bench": {"path": folder}}
    options = {"num_workers": workers, "steps_per_epoch": 60, "group_views": group_views}
    data = DataModule(cut, BATCH, node, {}, {}, **options)
    data.setup("fit")
    batches = iter(data.train_dataloader())
    for _ in range(10):  # workers start, caches fill
        next(batches)
    started = time.perf_counter()
    num = sum(len(batch["has_pose"]) for batch in batches)
    seconds = time.perf_counter() - started
    print(f"  loader, {workers} workers: {num / seconds:.0f} people/s of wall time")


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
