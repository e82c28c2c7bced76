"""A case's files -> shards, as ``python -m hmrkit.prepare`` makes them of a download."""

from collections.abc import Sequence
from pathlib import Path

from hydra.utils import instantiate

from hmrkit.configs import load_config, to_plain
from hmrkit.data.prepare import prepare
from hmrkit.data.shards import ShardSet


def official_shards(
    source: str, folder: Path, overrides: Sequence[str] = (), name: str | None = None
) -> ShardSet:
    """Prepare a folder by a source of the configuration.

    Args:
        source: its name.
        folder: the download; the shards are made in a new folder beside it.
        overrides: of the command line.
        name: of the source in a mix, if another.
    """
    config = to_plain(load_config("prepare", [f"source={source}", f"input={folder}", *overrides]))
    output = folder.with_name(f"{folder.name}_shards_{source}")
    converter = instantiate(config["source"]["prepare"], _convert_="all")
    prepare(converter, source, folder, output, workers=0)
    return ShardSet(output, name or source)
