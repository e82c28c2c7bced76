"""Show what shards hold, and what is wrong with them: ``python -m hmrkit.inspect <shards>``."""

import logging
import shlex
import sys
from typing import Any

from omegaconf import DictConfig

from hmrkit import configs

log = logging.getLogger(__name__)


def inspect(config: DictConfig) -> None:
    """Write ``inspect.html``, ``inspect.json`` and ``contact_sheet.png``, and log the findings.

    Args:
        config: the composed ``inspect.yaml``.

    Raises:
        SystemExit: code 1, if ``strict`` is set and there is an error among the findings.
    """
    from pathlib import Path

    from hydra.utils import instantiate

    from hmrkit.inspection import run

    options = configs.to_plain(config)
    path, source = options["shards"], options.get("source") or {}
    if not path:
        raise ValueError(
            "nothing to inspect: give a folder of shards (python -m hmrkit.inspect <folder>), or "
            "source=<name> for the folder of a source"
        )
    name, is_in_place = source.get("name"), bool(source.get("in_place"))
    folder = Path(options["paths"]["runs"], "inspect", name or run.set_name(path))
    output = Path(options["output"] or folder)
    where = run.local_copy(path, name, options["cache_dir"], is_in_place)
    if source.get("prepare") and where == source["path"] and not Path(where).exists():
        command = configs.command_line("prepare", {"source": name, "output": where})
        raise FileNotFoundError(f"{where} does not exist: {command} input=<folder of the download>")
    found = run.inspect_shards(
        where,
        instantiate(config.body),
        output,
        name,
        options["num_samples"],
        options["num_pictures"],
        options["workers"],
        options["with_pixels"],
        converter=instantiate(source["prepare"], _convert_="all") if is_in_place else None,
    )
    log.info("\n%s\n\n%s", run.format_inspection(found), output / "inspect.html")
    if options["strict"] and found.num_errors:
        raise SystemExit(1)


def _with_named_path(arguments: list[str]) -> list[str]:
    """Read a bare first argument as ``shards=...``."""
    if not arguments or "=" in arguments[0] or arguments[0][0] in "-+~":
        return arguments
    named: dict[str, Any] = {"shards": arguments[0]}
    return [shlex.split(configs.command_line("inspect", named))[-1], *arguments[1:]]


def main() -> None:
    """Console entry point."""
    sys.argv[1:] = _with_named_path(sys.argv[1:])
    configs.run("inspect", inspect)


if __name__ == "__main__":
    main()
