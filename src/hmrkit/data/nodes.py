"""A source node of a mix (its ``path`` and what is known of it) -> an open, checked source."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from hmrkit.body import joints
from hmrkit.data.batches import Cut, num_units
from hmrkit.data.shards import ShardSet
from hmrkit.data.stream import RemoteStream, is_remote

log = logging.getLogger(__name__)

NODE_KEYS = ("name", "path", "weight", "protocol", "synth", "prepare", "in_place")
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


def open_local(name: str, node: Node, cut: Cut, required_labels: Sequence[str]) -> ShardSet:
    """Open the shards of a node and check that they fit the run.

    Raises:
        FileNotFoundError: naming source, path and remedy.
        ValueError: if they are empty, damaged, or lack what the cut or the loss needs.
    """
    if is_remote(node["path"]):
        raise ValueError(
            f"source {name!r}: evaluation reads every record once, which needs local shards: "
            f"copy {node['path']} to a folder first"
        )
    try:
        shards = ShardSet(node["path"], name)
        joints.names(shards.joint_set)  # raises, with the known ones, if this hmrkit lacks it
    except (FileNotFoundError, ValueError) as error:
        who = f"source {name!r}: "
        raise type(error)(who + str(error).removeprefix(who)) from error
    _check_content(name, node, cut, num_units(shards, cut), shards.manifest, required_labels)
    return shards


def open_remote(
    name: str,
    node: Node,
    cut: Cut,
    required_labels: Sequence[str],
    seed: int,
    buffer_size: int,
    allow_pipe: bool,
) -> RemoteStream:
    """Open the address of a node, likewise."""
    stream = RemoteStream(node["path"], name, seed, buffer_size, allow_pipe)
    log.warning("source %r is streamed: a resumed run will not see the same samples", name)
    if stream.manifest is not None:
        units = stream.num_units(cut.unit)
        _check_content(name, node, cut, units, stream.manifest, required_labels)
    return stream


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
            f"{type(cut).__name__} cuts: choose another data=... or another source"
        )
    labels = manifest["labels"]
    lacking = [label for label in required_labels if not labels.get(label)]
    if lacking:
        raise ValueError(
            f"source {name!r}: {node['path']} carries no {', '.join(lacking)}, which this run "
            f"needs; it has {sorted(k for k, v in labels.items() if v)}"
        )


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
