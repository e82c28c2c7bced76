"""Shards of made-up people: parallel, resumable, and the same bytes for any number of workers.

Record i depends on (options, seed, i) only, and a shard is always written by one process, so
neither the number of workers nor an interruption changes a byte. A folder in the making holds
``making.json`` (its options) and the finished shards; the manifest comes last and replaces it.
"""

import json
import logging
import time
from collections.abc import Iterator, Mapping
from functools import cache, partial
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hmrkit.configs import command_line
from hmrkit.data.index import read_index, write_atomically
from hmrkit.data.manifest import (
    MAKING,
    MANIFEST,
    read_manifest,
    refuse_other_options,
    write_manifest,
)
from hmrkit.data.shards import write_shard
from hmrkit.data.synth.cast import Studio
from hmrkit.data.synth.generate import KINDS, draw_record
from hmrkit.data.synth.people import FastBody
from hmrkit.data.synth.recipe import Recipe, to_recipe
from hmrkit.data.synth.records import JOINT_SET
from hmrkit.data.workers import count_workers, do_jobs, progress_bar
from hmrkit.types import Sample

if TYPE_CHECKING:
    from hmrkit.body.smpl import BodyData

log = logging.getLogger(__name__)

_UNITS = {"crops": " crops", "scenes": " scenes", "rigs": " rigs", "motion": " clips"}


def make_shards(
    output: str | Path,
    num: int,
    seed: int = 0,
    kind: str = "crops",
    image_size: int | tuple[int, int] = 256,
    recipe: Mapping[str, Any] | Recipe | None = None,
    workers: int | None = None,
    records_per_shard: int | None = None,
    image_format: str = "jpg",
    image_quality: int = 92,
    body: "BodyData | None" = None,
) -> dict[str, Any]:
    """Make a folder of shards, or what is missing of it.

    Args:
        output: folder; made if it does not exist.
        num: number of records.
        seed: another seed, other people.
        kind: crops, scenes, rigs or motion.
        image_size: side of the images, or height and width, px; motion ignores it.
        recipe: options of ``recipe.Recipe`` by name; the others keep their defaults.
        workers: number of processes; None for one per core, 0 for this process.
        records_per_shard: None for a number that depends on ``num`` only.
        image_format: jpg or png.
        image_quality: of the JPEGs.
        body: None for the free body.

    Returns:
        The manifest.

    Raises:
        ValueError: for a wrong option, or if the folder holds shards made with other options.
        RuntimeError: if a worker fails.
    """
    options = _options(
        num, seed, kind, image_size, recipe, records_per_shard, image_format, image_quality
    )
    options["body"] = (body or _free_body_data()).name
    folder = Path(output)
    if _is_complete(folder, options):
        return read_manifest(folder)
    jobs = _missing(folder, options)
    todo = sum(len(indices) for _, indices in jobs)
    started = time.monotonic()
    if jobs:
        with progress_bar(num, num - todo, _UNITS[kind], folder.name) as bar:
            do_jobs(partial(_make_shard, body, options), jobs, count_workers(workers), bar)
    command = command_line("synth", {"output": str(folder), **_overrides(options)})
    manifest = write_manifest(folder, f"synthetic_{kind}", kind, JOINT_SET, options, command)
    (folder / MAKING).unlink(missing_ok=True)
    seconds = time.monotonic() - started
    log.info(
        "%s: %d %s, %d people, %d images, %.1f MB in %d shards; %d new in %.0f s, %.1f per second",
        folder,
        num,
        kind,
        manifest["num_people"],
        manifest["num_images"],
        manifest["num_bytes"] / 1e6,
        len(manifest["shards"]),
        todo,
        seconds,
        todo / seconds,
    )
    return manifest


def _free_body_data() -> "BodyData":
    from hmrkit.body.free import free_body_data

    return free_body_data()


@cache
def _free_studio() -> Studio:
    return Studio(FastBody(_free_body_data()))


def _studio(body: "BodyData | None") -> Studio:
    """Made by the worker that uses it: little goes through the pipe that starts a process."""
    return _free_studio() if body is None else Studio(FastBody(body))


def _options(
    num: int,
    seed: int,
    kind: str,
    image_size: int | tuple[int, int],
    recipe: Mapping[str, Any] | Recipe | None,
    records_per_shard: int | None,
    image_format: str,
    image_quality: int,
) -> dict[str, Any]:
    """What decides the bytes of the shards, as plain values; checked."""
    if kind not in KINDS:
        raise ValueError(f"no kind {kind!r} of synthetic data; there are {', '.join(KINDS)}")
    for name, value, least in (("num", num, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name}={value!r}: expected a whole number from {least}")
    size = [image_size] if isinstance(image_size, int) else [int(n) for n in image_size]
    if len(size) not in (1, 2) or min(size) < 16:
        raise ValueError(f"image_size={image_size!r}: expected a side or [height, width], px")
    if kind == "crops" and len(set(size)) > 1:
        raise ValueError(f"image_size={size}: crops are square, give one number")
    if image_format not in ("jpg", "png"):
        raise ValueError(f"image_format={image_format!r}: expected jpg or png")
    if not 1 <= image_quality <= 100:
        raise ValueError(f"image_quality={image_quality!r}: expected 1 to 100")
    if records_per_shard is not None and records_per_shard < 1:
        raise ValueError(f"records_per_shard={records_per_shard!r}: expected 1 or more, or null")
    if records_per_shard is None:
        records_per_shard = min(max(ceil(num / 16), 32), 1000)
    return {
        "num": num,
        "seed": seed,
        "kind": kind,
        "image_size": size[0] if len(size) == 1 else size,
        "records_per_shard": records_per_shard,
        "image_format": image_format,
        "image_quality": image_quality,
        "recipe": to_recipe(recipe).plain(),
    }


def _is_complete(folder: Path, options: dict[str, Any]) -> bool:
    """Whether the folder is finished; also refuses one that was begun with other options."""
    if (folder / MANIFEST).is_file():
        refuse_other_options(folder, read_manifest(folder)["options"], options)
        return True
    if (folder / MAKING).is_file():
        refuse_other_options(folder, json.loads((folder / MAKING).read_text()), options)
    elif any(folder.glob("*.tar")):
        raise ValueError(
            f"{folder} holds shards but neither {MANIFEST} nor {MAKING}: not made by "
            "hmrkit.synth; give another folder"
        )
    return False


def _missing(folder: Path, options: dict[str, Any]) -> list[tuple[Path, range]]:
    """Shards (path, record indices) that are not finished; notes the options in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / MAKING, (json.dumps(options, indent=1) + "\n").encode())
    num, step = options["num"], options["records_per_shard"]
    jobs = []
    for shard, first in enumerate(range(0, num, step)):
        path = folder / f"{options['kind']}-{shard:05d}.tar"
        if not _is_finished(path):
            jobs.append((path, range(first, min(first + step, num))))
    return jobs


def _is_finished(path: Path) -> bool:
    """Whether a shard and its index are whole."""
    try:
        read_index(path)
    except (FileNotFoundError, ValueError):
        return False
    return True


def _overrides(options: dict[str, Any]) -> dict[str, Any]:
    """The options as overrides for the command line."""
    default = Recipe().plain()
    recipe = {f"recipe.{k}": v for k, v in options["recipe"].items() if v != default[k]}
    return {k: v for k, v in options.items() if k not in ("recipe", "body")} | recipe


def _records(studio: Studio, options: dict[str, Any], indices: range) -> Iterator[Sample]:
    """The records of one shard."""
    recipe = to_recipe(options["recipe"])
    size = options["image_size"]
    size_hw = (size, size) if isinstance(size, int) else tuple(size)
    for index in indices:
        yield draw_record(options["kind"], studio, recipe, size_hw, options["seed"], index)


def _make_shard(
    body: "BodyData | None", options: dict[str, Any], job: tuple[Path, range], advance: Any
) -> None:
    """Write one shard; calls ``advance(1)`` per record."""
    path, indices = job
    studio = _studio(body)

    def counted() -> Iterator[Sample]:
        for sample in _records(studio, options, indices):
            yield sample
            advance(1)

    write_shard(
        path, counted(), JOINT_SET, options["image_format"], quality=options["image_quality"]
    )
