"""Checks of the set as a whole: what no single record shows."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hmrkit.data.manifest import MANIFEST, compare, read_manifest
from hmrkit.data.shards import ShardSet
from hmrkit.inspection.checks import ERROR, NUM_EXAMPLES, WARNING, Example, Finding
from hmrkit.inspection.scan import Scan
from hmrkit.inspection.statistics import label_level

MIN_RECORDS = 10  # that a label must be in before it may be called constant
_IMAGES = ("jpg", "jpeg", "png")


def open_set(path: Any, name: str | None, converter: Any = None) -> tuple[ShardSet, list[str]]:
    """Open a set even if its manifest is wrong.

    Args:
        path: as for ``ShardSet``.
        name: of the source.
        converter: reads tars of another format in place.

    Returns:
        The set, and what is wrong with its manifest.

    Raises:
        FileNotFoundError, ValueError: if the shards themselves cannot be opened.
    """
    folder = Path(path) if isinstance(path, str | Path) else None
    if converter is not None or folder is None or not (folder / MANIFEST).is_file():
        return ShardSet(path, name, converter), []
    manifest = read_manifest(folder)
    listed = [shard["name"] for shard in manifest["shards"]]
    shards = ShardSet([folder / shard for shard in listed], name)
    problems = []
    try:
        compare(manifest, [shard.info for shard in shards.shards], folder)
    except ValueError as error:
        problems.append(str(error))
    unlisted = sorted({tar.name for tar in folder.glob("*.tar")} - set(listed))
    if unlisted:
        problems.append(f"{len(unlisted)} tars are not in the manifest, such as {unlisted[0]}")
    shards.manifest = {**shards.manifest, **_said(manifest)}
    return shards, problems


def _said(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What a manifest says beside counts."""
    return {k: v for k, v in manifest.items() if not k.startswith("num_") and k != "labels"}


def find_in_set(shards: ShardSet, scan: Scan, is_whole: bool, problems: list[str]) -> list[Finding]:
    """Findings about the set.

    Args:
        shards: the set.
        scan: what was found in its records.
        is_whole: every record was looked at.
        problems: what ``open_set`` says of the manifest.
    """
    if is_whole and not scan.bad:
        problems = [*problems, *_miscounted(shards.manifest, scan)]
    found = [
        _unreadable(scan),
        _manifest_counts(problems),
        _duplicate_keys(shards),
        _duplicate_images(shards),
        _constant_labels(scan),
    ]
    return [finding for finding in found if finding is not None]


def _unreadable(scan: Scan) -> Finding | None:
    examples = [Example(record, key, detail=why) for record, key, why in sorted(scan.bad)]
    total = scan.statistics.counts["records"] + len(scan.bad)
    return _finding(
        "unreadable-record",
        ERROR,
        len(scan.bad),
        total,
        "record",
        "Records cannot be read: they would be skipped in training.",
        "Make their shards anew, or copy them again; more than data.max_bad of them stop a run.",
        examples,
    )


def _miscounted(manifest: Mapping[str, Any], scan: Scan) -> list[str]:
    """What the manifest counts otherwise than the records."""
    counts = {f"num_{what}": number for what, number in scan.statistics.counts.items()}
    stated = {**manifest, **{f"labels.{k}": v for k, v in manifest["labels"].items()}}
    counts |= {f"labels.{name}": number for name, number in scan.statistics.coverage.items()}
    return [
        f"{name} is {stated[name]}, the records have {number}"
        for name, number in counts.items()
        if name in stated and stated[name] != number
    ]


def _manifest_counts(problems: list[str]) -> Finding | None:
    examples = [Example(-1, MANIFEST, detail=problem) for problem in problems]
    return _finding(
        "manifest-counts",
        ERROR,
        len(problems),
        len(problems),
        "manifest",
        "The manifest says something else than the shards hold.",
        "Prepare the set anew, or write the manifest anew (hmrkit.data.shards.write_manifest).",
        examples,
    )


def _duplicate_keys(shards: ShardSet) -> Finding | None:
    keys = [key for shard in shards.shards for key in shard.keys]
    repeated = {key: number for key, number in Counter(keys).items() if number > 1}
    first = {key: record for record, key in reversed(list(enumerate(keys))) if key in repeated}
    examples = [Example(first[key], key, detail=f"{n} times") for key, n in repeated.items()]
    return _finding(
        "duplicate-key",
        WARNING,
        sum(repeated.values()) - len(repeated),
        len(keys),
        "record",
        "Keys occur in more than one record.",
        "Make keys from the image's whole path: reports and resumed runs name records by key.",
        examples,
    )


def _duplicate_images(shards: ShardSet) -> Finding | None:
    """Images with the same bytes, by size and CRC-32 of the indices: nothing is read."""
    prints, records, start = [], [], 0
    for shard in shards.shards:
        is_image = np.isin(shard.extension, _image_extensions(shard.extensions))
        record = start + np.repeat(np.arange(len(shard.keys)), np.diff(shard.first_member))
        size, crc = (x[is_image].astype(np.uint64) for x in (shard.size, shard.crc))
        prints.append(size << np.uint64(32) | crc)
        records.append(record[is_image])
        start += len(shard.keys)
    value, record = np.concatenate(prints), np.concatenate(records)
    _, first, inverse = np.unique(value, return_index=True, return_inverse=True)
    original = first[inverse]
    again = np.flatnonzero(original != np.arange(len(value)))
    examples = [
        Example(
            int(record[i]),
            shards.key(int(record[i])),
            detail=f"same file as in {shards.key(int(record[original[i]]))}",
        )
        for i in again[:NUM_EXAMPLES].tolist()
    ]
    return _finding(
        "duplicate-image",
        WARNING,
        len(again),
        len(value),
        "image",
        "Image files occur more than once.",
        "Put all people of an image into one record; drop copies.",
        examples,
    )


def _image_extensions(extensions: list[str]) -> list[int]:
    return [i for i, name in enumerate(extensions) if name.rpartition(".")[2].lower() in _IMAGES]


def _constant_labels(scan: Scan) -> Finding | None:
    constant = [
        name for name, seen in scan.ranges.items()
        if seen.num_records >= MIN_RECORDS and seen.is_constant
    ]  # fmt: skip
    examples = [Example(-1, name, detail=f"in {label_level(name)}") for name in constant]
    return _finding(
        "constant-label",
        WARNING,
        len(constant),
        len(scan.ranges),
        "label",
        "A label has the same value in every record.",
        "If it is a filler (zeros, the mean shape), leave it out, so that it is absent.",
        examples,
    )


def _finding(
    name: str,
    severity: str,
    count: int,
    total: int,
    level: str,
    what: str,
    remedy: str,
    examples: list[Example],
) -> Finding | None:
    if count == 0:
        return None
    return Finding(name, severity, count, total, level, what, remedy, examples[:NUM_EXAMPLES])
