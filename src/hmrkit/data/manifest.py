"""The manifest of a folder of shards, ``hmrkit.json``: what is in it and how it was made."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hmrkit import __version__
from hmrkit.data.index import ShardInfo, read_index, write_atomically
from hmrkit.data.record import SCHEMA_VERSION

MANIFEST = "hmrkit.json"
PREPARING = ".prepare"  # folder in one that hmrkit.prepare has not finished
MAKING = "making.json"  # file in one that hmrkit.synth has not finished
KINDS = ("crops", "scenes", "rigs", "motion")
_COUNTED = ("records", "people", "views", "images", "bytes")


def write_manifest(
    folder: str | Path,
    source: str,
    kind: str,
    joint_set: str,
    options: Mapping[str, Any],
    command: str,
) -> dict[str, Any]:
    """Sum up a finished folder of shards in ``hmrkit.json``; its presence says "complete".

    Args:
        folder: holds ``*.tar`` with their indices; leftovers of killed writers are removed.
        source: name of the source.
        kind: one of crops, scenes, rigs, motion.
        joint_set: of every record.
        options: what the shards were made with, plain values.
        command: the command line that made them.
    """
    folder = Path(folder)
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is none of {KINDS}")
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink()
    infos = [read_index(path).info for path in sorted(folder.glob("*.tar"))]
    if not infos:
        raise FileNotFoundError(f"no *.tar in {folder}")
    strange = [info.name for info in infos if info.joint_set != joint_set]
    if strange:
        raise ValueError(f"shards of another joint set than {joint_set!r} in {folder}: {strange}")
    manifest = build_manifest(source, kind, joint_set, infos, {}, options, command)
    write_atomically(folder / MANIFEST, manifest_text(manifest).encode())
    return manifest


def build_manifest(
    source: str,
    kind: str,
    joint_set: str,
    infos: Sequence[ShardInfo],
    more: Mapping[str, Any],
    options: Mapping[str, Any],
    command: str,
) -> dict[str, Any]:
    """Sum up shards.

    Args:
        source: name of the source.
        kind: one of crops, scenes, rigs, motion.
        joint_set: of every record.
        infos: of the shards, in order.
        more: what else is to be said of the content.
        options: what the shards were made with, plain values.
        command: the command line that made them.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "source": source,
        "kind": kind,
        "joint_set": joint_set,
        **totals(infos),
        **more,
        "options": dict(options),
        "command": command,
        "hmrkit_version": __version__,
        "shards": [shard_entry(info) for info in infos],
    }


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """The content of ``hmrkit.json``."""
    return json.dumps(manifest, indent=1, sort_keys=False) + "\n"


def totals(infos: Sequence[ShardInfo]) -> dict[str, Any]:
    """Sum the counts of shards."""
    labels: Counter[str] = Counter()
    for info in infos:
        labels.update(info.labels)
    counts = {f"num_{what}": sum(getattr(i, f"num_{what}") for i in infos) for what in _COUNTED}
    return {**counts, "labels": dict(labels)}


def shard_entry(info: ShardInfo) -> dict[str, Any]:
    """Return what the manifest says of one shard."""
    return {
        "name": info.name,
        **{f"num_{what}": getattr(info, f"num_{what}") for what in _COUNTED},
        "sha256": info.sha256,
    }


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Read ``hmrkit.json``.

    Raises:
        FileNotFoundError: if the folder has none: it is incomplete, or from elsewhere.
        ValueError: if it is damaged or of another schema.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: the shards are incomplete or not hmrkit's")
    return parse_manifest(path.read_text(), str(path))


def parse_manifest(text: str, origin: str) -> dict[str, Any]:
    """Parse the text of a manifest that was read from ``origin``."""
    try:
        manifest = json.loads(text)
        version = manifest["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{origin} is no hmrkit manifest ({error}): make the shards anew"
        ) from error
    if version != SCHEMA_VERSION:
        raise ValueError(f"{origin} has schema {version}, this hmrkit reads {SCHEMA_VERSION}")
    return manifest


def compare(manifest: dict[str, Any], infos: Sequence[ShardInfo], folder: Any) -> None:
    """Hold a manifest against the indices of its shards.

    Raises:
        ValueError: naming what differs.
    """
    for entry, info in zip(manifest["shards"], infos, strict=True):
        actual = shard_entry(info)
        wrong = {k: (v, actual.get(k)) for k, v in entry.items() if v != actual.get(k)}
        if wrong:
            raise ValueError(
                f"shard {info.name} of {folder} is not the one in its {MANIFEST} (manifest, "
                f"index): {wrong}: a shard was replaced, write the manifest anew"
            )
    actual = totals(infos)
    wrong = {k: (manifest.get(k), v) for k, v in actual.items() if manifest.get(k) != v}
    if wrong:
        raise ValueError(f"{folder}/{MANIFEST} counts wrong (manifest, shards): {wrong}")


def refuse_other_options(
    where: Any,
    then: Mapping[str, Any],
    now: Mapping[str, Any],
    remedy: str = "give another output, or delete the folder",
) -> None:
    """Raise if shards were made, or begun, with other options.

    Raises:
        ValueError: naming the first difference.
    """
    flat_then, flat_now = _flat(then), _flat(now)
    for name in [*flat_now, *flat_then]:
        if flat_then.get(name) != flat_now.get(name):
            raise ValueError(
                f"{where} was made with {name}={flat_then.get(name)!r}, now {name}="
                f"{flat_now.get(name)!r}: {remedy}"
            )


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
