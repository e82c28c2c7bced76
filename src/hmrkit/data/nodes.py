"""A source node of a mix (its ``path`` and what is known of it) -> an open, checked source."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from hmrkit import configs
from hmrkit.body import joints
from hmrkit.data.batches import Cut, num_units
from hmrkit.data.cache import fetch_source
from hmrkit.data.mix import BLOCK_SIZE, Mix
from hmrkit.data.prior import PosePrior
from hmrkit.data.remote import check_address, is_remote, local_path
from hmrkit.data.shards import ShardSet
from hmrkit.data.stream import RemoteStream

log = logging.getLogger(__name__)

NODE_KEYS = (
    *("name", "path", "weight", "protocol", "synth", "prepare", "in_place"),
    "has_exact_labels",  # measured or synthetic, not fitted to keypoints
)
Node = Mapping[str, Any]


def check_node(name: str, node: Node) -> None:
    """Check the keys of a node.

    Raises:
        ValueError: naming the source and what is wrong.
    """
    if not isinstance(node, Mapping):
        raise ValueError(
            f"source {name!r} is {node!r}: take it away with ~mix.<map>.{name} instead"
        )
    unknown = sorted(set(node) - set(NODE_KEYS))
    if unknown or not node.get("path"):
        problem = f"unknown keys {unknown}" if unknown else "no `path`"
        raise ValueError(f"source {name!r}: {problem}; a source has {', '.join(NODE_KEYS)}")
    weight = node.get("weight", 1)
    if weight != "auto" and (isinstance(weight, bool) or not isinstance(weight, int | float)):
        raise ValueError(f"source {name!r}: weight={weight!r} is neither a number nor auto")
    if node.get("in_place") and not hasattr(node.get("prepare"), "decode"):
        raise ValueError(
            f"source {name!r}: in_place=true is for the tars of 4D-Humans and TokenHMR, whose "
            "`prepare` node can read record by record; this source needs hmrkit.prepare"
        )


class Opening(NamedTuple):
    """What the sources of a run are opened for, and how."""

    cut: Cut
    required_labels: Sequence[str]  # of training sources
    cache_dir: str | None
    stream_options: tuple[int, int, bool, bool]  # of RemoteStream, from ``seed`` on


class Missing(NamedTuple):
    """A source that is not there."""

    split: str  # train, val or test
    name: str
    node: Node
    error: FileNotFoundError


Opened = dict[tuple[str, str], ShardSet | RemoteStream]  # by split and name


def open_sources(
    maps: Mapping[str, Mapping[str, Node]], opened: Opened, opening: Opening, is_made: bool
) -> list[Missing]:
    """Open every source that is not open yet.

    Args:
        maps: the nodes by split and name.
        opened: gets the sources.
        opening: how.
        is_made: the sources of ``synth`` are made; else they are left alone.

    Returns:
        What is missing.
    """
    missing = []
    for split, name, node in [(s, *item) for s, nodes in maps.items() for item in nodes.items()]:
        is_synthetic = node.get("synth") is not None
        if (split, name) in opened or (is_synthetic and not is_made):
            continue
        try:
            opened[split, name] = open_source(name, node, split, opening)
        except FileNotFoundError as error:
            if is_synthetic:
                raise
            missing.append(Missing(split, name, node, error))
    return missing


def drop_missing(
    maps: Mapping[str, dict[str, Node]], missing: Sequence[Missing], is_allowed: bool
) -> None:
    """Take what is missing out of the maps, with a warning, if that is allowed.

    Raises:
        FileNotFoundError: one message for all; or if nothing would be left of a map.
    """
    paths = {str(node["path"]) for nodes in maps.values() for node in nodes.values()}
    message = _missing_message(missing, len(paths))
    if not is_allowed:
        raise FileNotFoundError(f"{message}\nmix.allow_missing=true goes on without them")
    for split, name, _, _ in missing:
        del maps[split][name]
    empty = [split for split in dict.fromkeys(m.split for m in missing) if not maps[split]]
    if empty:
        without = " ".join(f"~mix.{m.split}.{m.name}" for m in missing if m.split in empty)
        remedy = "" if "train" in empty else f"; to do without: {without}"
        maps_left = " and ".join(f"mix.{split}" for split in empty)
        raise FileNotFoundError(f"{message}\nThat leaves nothing of {maps_left}{remedy}")
    log.warning("%s\nThey are left out, as mix.allow_missing=true says", message)


def open_source(name: str, node: Node, split: str, opening: Opening) -> ShardSet | RemoteStream:
    """Open the shards of a node, wherever they are, and check that they fit the run.

    Raises:
        FileNotFoundError: naming source, path and remedy.
        ValueError: if they are empty, damaged, or lack what the cut or the loss needs.
        ConnectionError: if their server cannot be reached.
    """
    path, is_in_place = node["path"], bool(node.get("in_place"))
    is_cached = is_remote(path) and opening.cache_dir and not path.startswith("pipe:")
    if is_cached:
        check_address(path, name, allow_pipe=False)
        path = fetch_source(path, name, opening.cache_dir, not is_in_place)
        log.info("source %r: %s is read from its copy in %s", name, node["path"], opening.cache_dir)
    elif is_remote(path) and split != "train":
        raise ValueError(
            f"source {name!r}: mix.{split} reads records one by one, which needs local shards: "
            f"have {path} copied with data.cache_dir=<folder>"
        )
    elif is_remote(path):
        return _open_stream(name, node, opening)
    shards = _open_shards(name, local_path(path), node["prepare"] if is_in_place else None)
    cut = PosePrior if split == "prior" else opening.cut
    labels = {"train": opening.required_labels, "prior": PosePrior.required_labels}.get(split, ())
    _check_content(name, node, cut, num_units(shards, cut), shards.manifest, labels)
    return shards


def _open_shards(name: str, path: Any, converter: Any) -> ShardSet:
    try:
        shards = ShardSet(path, name, converter)
        joints.names(shards.joint_set)  # raises, with the known ones, if this hmrkit lacks it
    except (FileNotFoundError, ValueError) as error:
        who = f"source {name!r}: "
        raise type(error)(who + str(error).removeprefix(who)) from error
    return shards


def _open_stream(name: str, node: Node, opening: Opening) -> RemoteStream:
    converter = node["prepare"] if node.get("in_place") else None
    stream = RemoteStream(node["path"], name, *opening.stream_options, converter=converter)
    log.warning(
        "source %r is streamed: a resumed run will not see the same samples "
        "(data.cache_dir=<folder> copies it first, then it will)",
        name,
    )
    if stream.manifest is not None:
        units = stream.num_units(opening.cut.unit)
        labels = opening.required_labels
        _check_content(name, node, opening.cut, units, stream.manifest, labels)
    return stream


def _missing_message(missing: Sequence[Missing], total: int) -> str:
    """One message for all that is missing: names, paths, and the commands that prepare them."""
    splits: dict[str, list[str]] = {}
    for one in missing:
        splits.setdefault(str(one.node["path"]), []).append(f"mix.{one.split}")
    first = {str(one.node["path"]): one for one in reversed(missing)}
    lines = [f"{len(splits)} of {total} sources are missing:"]
    for path, maps in splits.items():
        _, name, node, error = first[path]
        problem, remedy = str(error), None
        if node.get("prepare") is not None:
            problem = problem.partition(": make the shards")[0]
            chosen = {"source": node.get("name", name), "output": path}
            command = configs.command_line("prepare", chosen)
            remedy = f"    {command} input=<folder of the download>"
        if node.get("in_place"):
            remedy = "    put the downloaded tars there, or set `path` to where they are"
        lines += [f"  {', '.join(dict.fromkeys(maps))}: {problem}", *([remedy] if remedy else [])]
    return "\n".join(lines)


def draw_weights(nodes: Mapping[str, Node], num_units: Sequence[int]) -> list[float]:
    """The relative weights of training sources; ``auto`` is the number of units.

    Args:
        nodes: by name of the source.
        num_units: of every source, 0 if unknown.

    Raises:
        ValueError: naming sources whose weights do not go together.
    """
    weights = {name: node.get("weight", 1) for name, node in nodes.items()}
    automatic = [name for name, weight in weights.items() if weight == "auto"]
    fixed = [name for name in weights if name not in automatic]
    if automatic and fixed:
        raise ValueError(
            f"weight=auto (by number of samples) is for all sources of a mix or none: {automatic} "
            f"have it, {fixed} have numbers"
        )
    if automatic:
        unknown = [name for name, num in zip(nodes, num_units, strict=True) if num == 0]
        if unknown:
            raise ValueError(
                f"sources {unknown} have weight=auto, but no manifest that counts their samples: "
                "give all sources numbers"
            )
        return [float(num) for num in num_units]
    return [float(weight) for weight in weights.values()]


def format_shares(mix: Mix, num_units: Sequence[int], unit: str) -> str:
    """What the training draws from each source, in words."""
    lines = [
        f"  {100 * quota / BLOCK_SIZE:5.1f} %  {source.name}"
        + (f" ({num} {unit}s)" if num else " (streamed)")
        for source, quota, num in zip(mix.sources, mix.quotas, num_units, strict=True)
    ]
    return "\n".join(["shares of the training samples:", *lines])


def _check_content(
    name: str,
    node: Node,
    cut: Cut,
    units: int,
    manifest: Mapping[str, Any],
    required_labels: Sequence[str],
) -> None:
    if units == 0:
        raise ValueError(
            f"source {name!r}: {node['path']} has no {cut.unit}s, which is what "
            f"{_name(cut)} takes: choose another data=... or another source"
        )
    labels = manifest["labels"]
    lacking = [label for label in required_labels if not labels.get(label)]
    if lacking:
        raise ValueError(
            f"source {name!r}: {node['path']} carries no {', '.join(lacking)}, which this run "
            f"needs; it has {sorted(k for k, v in labels.items() if v)}"
        )


def _name(cut: Any) -> str:
    return cut.__name__ if isinstance(cut, type) else type(cut).__name__


def make_synthetic(name: str, folder: Path, options: Mapping[str, Any]) -> None:
    """Make a source's shards, or what is missing of them; a finished folder is left as it is.

    Several runs of a sweep may start at the same time: the first one makes them, the others wait.

    Raises:
        ValueError: if the folder was made with other options, or an option is wrong.
    """
    from hmrkit.data.synth.shards import make_shards

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        try:
            make_shards(output=folder, **options)
        except (ValueError, TypeError) as error:
            raise ValueError(f"source {name!r}: {error}") from error
