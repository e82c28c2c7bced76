"""Official downloads -> shards: parallel, in parts, resumable, and the same bytes each time.

Record i is a pure function of the download and the options, shard n holds the converter's records
n * records_per_shard and up, and a shard is written by one process: neither workers, nor parts, nor
an interruption changes a byte. making.py knows what is finished, conversion.py makes one shard.

Parts need no lock: each looks, when it is done, whether every shard of the whole is finished. The
last one is, and writes the manifest; two that end at the same moment write the same one.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hmrkit.body import joints
from hmrkit.data.conversion import Outcome, Pictures, ShardMaker, Skips, describe_record
from hmrkit.data.making import Making
from hmrkit.data.manifest import KINDS, build_manifest, manifest_text
from hmrkit.data.place import LocalPlace, RemotePlace, open_place
from hmrkit.data.precrop import to_precrop
from hmrkit.data.sources.official import MISSING_IMAGE, Converter, Records
from hmrkit.data.workers import count_workers, do_jobs, progress_bar

log = logging.getLogger(__name__)

_MAX_KEYS = 5  # that a message about duplicates names


def prepare(
    converter: Converter,
    source: str,
    input_folder: str | Path,
    output: str | Path,
    records_per_shard: int = 1000,
    workers: int | str | None = None,
    part: int = 0,
    num_parts: int = 1,
    image_format: str = "keep",
    quality: int = 95,
    precrop: Mapping[str, Any] | None = None,
    max_bad: float = 0.01,
    overwrite: bool = False,
    limit: int | None = None,
    converter_options: Mapping[str, Any] | None = None,
    command: str = "",
) -> dict[str, Any] | None:
    """Convert a download to a folder of shards with a manifest, or what is missing of it.

    Args:
        converter: of the download's format.
        source: name of the source; stored in every record and in the manifest.
        input_folder: the download.
        output: folder, or fsspec URL (``s3://bucket/folder``).
        records_per_shard: shard n holds the converter's records n * this to (n + 1) * this - 1.
        workers: number of processes; None or "auto" for one per core, 0 or 1 for this process.
        part: this call makes every ``num_parts``-th shard, beginning with number ``part``.
        num_parts: the call that finishes the last shard, of whatever part, writes the manifest.
        image_format: ``keep`` (files unchanged, arrays as JPEG), ``jpg`` (PNG files too), ``png``
            (arrays as PNG, files unchanged).
        quality: of the JPEGs that are made here.
        precrop: None, or ``{"margin": 2.0, "max_side": 512}``: see ``precrop.py``.
        max_bad: share of the part's records that may fail to convert before the run stops; if as
            many images are missing, a warning says so.
        overwrite: make this part anew, even with other options or of another download.
        limit: the first ``limit`` records only.
        converter_options: what the converter was made with, plain values, for the manifest.
        command: the command line that does the same, for the manifest.

    Returns:
        The manifest, or None while other parts are not finished.

    Raises:
        ValueError: for wrong options, an output that holds something else, is a file or shares a
            folder with the input, duplicate keys, or too many records that cannot be converted.
        FileNotFoundError: if the download is not what the converter expects.
        OSError: if the output cannot be written to.
        RuntimeError: if a worker is killed.
    """
    counts = {"records_per_shard": records_per_shard, "num_parts": num_parts, "limit": limit}
    _check(counts, part, max_bad)
    num_workers = count_workers(workers)
    pictures = Pictures(image_format, quality, None if precrop is None else to_precrop(precrop))
    kind = _check_converter(converter, pictures)
    folder = Path(input_folder).resolve()
    place = _open_output(output, folder)
    records = converter.open(folder)
    num_records = len(records) if limit is None else min(limit, len(records))
    if num_records == 0:
        raise ValueError(f"input={folder} holds no record of {type(converter).__name__}")
    options = {
        "input": str(folder),
        "converter": dict(converter_options or {}),
        "records_per_shard": records_per_shard,
        **asdict(pictures),
        "limit": limit,
        "num_input_records": num_records,
    }
    making = Making(place, source, options, part, num_parts)
    finished = making.begin(overwrite)
    if finished is not None:
        log.info("%s is finished already: nothing to do", making.place)
        return finished
    maker = ShardMaker(
        converter,
        folder,
        making.place,
        source,
        pictures,
        making.fingerprint,
        int(max_bad * making.num_own_records),
        records,
    )
    speed = _run(making, maker, num_workers, f"{source} part {part}" if num_parts > 1 else source)
    summed = _sum_up(making, kind, converter.joint_set, command, records)
    if summed is None:
        return making.read_manifest()  # another part may have finished and cleaned up meanwhile
    manifest, skips = summed
    making.end(manifest_text(manifest))
    _report(making, manifest, skips, speed, max_bad)
    return manifest


def _check(counts: Mapping[str, int | None], part: int, max_bad: float) -> None:
    for name, value in counts.items():
        is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if not is_count and not (name == "limit" and value is None):
            raise ValueError(f"{name}={value!r}: expected a whole number from 1")
    last = counts["num_parts"] - 1  # type: ignore[operator]
    if not (isinstance(part, int) and 0 <= part <= last):
        raise ValueError(f"part={part!r}: with num_parts={last + 1} it is 0 to {last}")
    if not 0 <= max_bad <= 1:
        raise ValueError(f"max_bad={max_bad!r}: expected a share, 0 to 1")


def _open_output(given: str | Path, input_folder: Path) -> LocalPlace | RemotePlace:
    """The output, which does not share a folder with the input.

    Shards in a download would be taken for a part of it, and clearing one would hit the other.
    """
    place = open_place(given)
    if isinstance(place, RemotePlace):
        return place
    output = place.folder.resolve()
    if output.is_relative_to(input_folder):
        where = "is the input" if output == input_folder else f"is inside input={input_folder}"
    elif input_folder.is_relative_to(output):
        where = f"contains input={input_folder}"
    else:
        return place
    raise ValueError(f"output={place} {where}: give an output outside the download")


def _check_converter(converter: Converter, pictures: Pictures) -> str:
    """The kind of the records that will be stored."""
    assert converter.kind in KINDS, converter
    joints.names(converter.joint_set)  # raises if there is no such set
    if pictures.precrop is None:
        return converter.kind
    if converter.kind == "motion":
        raise ValueError("precrop: motion has no images to cut; set precrop=null")
    return "crops"


def _run(making: Making, maker: ShardMaker, num_workers: int, name: str) -> str:
    """Make what is missing of a part; returns how fast that was."""
    total = making.num_own_records
    done = making.outcomes(making.own)
    jobs = [(number, making.indices(number)) for number in making.own if number not in done]
    num_new = sum(len(indices) for _, indices in jobs)
    skips = Skips()

    def collect(outcome: Outcome) -> None:
        skips.merge(outcome.skips)
        if skips.num_bad > maker.max_bad:
            raise _TooManyBadError(_too_many_bad(skips, total))
        if outcome.problem:
            raise ValueError(f"{outcome.problem}: every record of a source needs a key of its own")
        bar.set_postfix(skipped=skips.count(), refresh=False)

    started = time.monotonic()
    with progress_bar(total, total - num_new, " records", name) as bar:
        try:
            for outcome in done.values():
                collect(outcome)
            do_jobs(maker, jobs, num_workers, bar, collect)
        except _TooManyBadError:
            made = making.outcomes(making.own).values()
            making.place.remove(o.note for o in made if o.skips.num_bad)  # tried again next time
            raise
    seconds = time.monotonic() - started
    rate = num_new / max(seconds, 1e-9)
    speed = f"{num_new} new records of the input in {seconds:.0f} s, {rate:.1f} per second"
    log.info("%s: %s", name, speed)
    return speed


class _TooManyBadError(ValueError):
    """More records cannot be converted than ``max_bad`` allows."""


def _too_many_bad(skips: Skips, num_records: int) -> str:
    return (
        f"{skips.num_bad} records of {num_records} cannot be converted, more than max_bad allows:\n"
        f"{skips.table()}\n{skips.traceback}Finished shards without such records are kept. Mend "
        "the input and run again, or go without these records with a larger max_bad."
    )


def _sum_up(
    making: Making, kind: str, joint_set: str, command: str, records: Records
) -> tuple[dict[str, Any], Skips] | None:
    """The manifest of the whole, or None if shards of other parts are missing."""
    found = making.outcomes(range(making.num_shards))
    if len(found) < making.num_shards:
        log.info(
            "%s: %d of %d shards are finished, the others belong to other parts",
            making.place,
            len(found),
            making.num_shards,
        )
        return None
    outcomes = [found[number] for number in range(making.num_shards)]
    skips = Skips()
    for outcome in outcomes:
        skips.merge(outcome.skips)
    infos = [outcome.info for outcome in outcomes if outcome.info is not None]
    if not infos:
        raise ValueError(
            f"every record was skipped, nothing is left:\n{skips.table()}\n"
            "Once this is mended, run again with overwrite=true."
        )
    _refuse_duplicates(outcomes, records)
    more = {"num_input_records": making.num_records, "skipped": skips.reasons}
    options = making.options
    return build_manifest(making.source, kind, joint_set, infos, more, options, command), skips


def _refuse_duplicates(outcomes: Sequence[Outcome], records: Records) -> None:
    first: dict[str, tuple[str, int]] = {}
    twice = []
    for outcome in outcomes:
        for key, index in zip(outcome.keys, outcome.indices, strict=True):
            if key in first:
                twice.append((key, *first[key], outcome.shard, index))
            first.setdefault(key, (outcome.shard, index))
    if twice:
        shown = ", ".join(
            f"{key} ({one}, {other}) made from records {describe_record(records, i)} and "
            f"{describe_record(records, j)} of the input"
            for key, one, i, other, j in twice[:_MAX_KEYS]
        ) + (", ..." if len(twice) > _MAX_KEYS else "")
        raise ValueError(
            f"{len(twice)} keys occur twice: {shown}. Every record of a source needs a key of its "
            "own: the input names an image twice, or the converter makes keys that are not "
            "unique. No manifest was written; run again with overwrite=true once this is mended."
        )


def _report(
    making: Making, manifest: Mapping[str, Any], skips: Skips, speed: str, max_bad: float
) -> None:
    log.info("%s", _summary(making, manifest, skips, speed))
    entry = skips.reasons.get(MISSING_IMAGE, {"count": 0})
    if entry["count"] > max_bad * making.num_records:
        log.warning(
            "%d of %d records were left out because their image file is missing, such as %s: the "
            "download looks incomplete. Complete it and run again with overwrite=true",
            entry["count"],
            making.num_records,
            entry["examples"][0],
        )


def _summary(making: Making, manifest: Mapping[str, Any], skips: Skips, speed: str) -> str:
    labels = ", ".join(f"{name} {n}" for name, n in manifest["labels"].items() if n)
    rows = {
        "records": f"{manifest['num_records']} from {making.num_records} of the input",
        "people": manifest["num_people"],
        "views": manifest["num_views"],
        "images": manifest["num_images"],
        "labels": labels or "none",
        "size": f"{manifest['num_bytes'] / 1e6:.1f} MB in {len(manifest['shards'])} shards",
        "speed": speed,
        "skipped": skips.count(),
    }
    lines = [f"  {name:<8}  {value}" for name, value in rows.items()]
    return "\n".join(
        [f"{making.source} ({manifest['kind']}) in {making.place}", *lines, skips.table()]
    ).rstrip()
