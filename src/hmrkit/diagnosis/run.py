"""All checks one after the other, as a page for people and as JSON for programs."""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from hmrkit import __version__
from hmrkit.configs import config_dir
from hmrkit.diagnosis import files, machine, software
from hmrkit.diagnosis.line import STATUSES, Line

_WIDTH = 100


def diagnose(body_models: Path, weights: Path, folder: Path) -> list[Line]:
    """Everything that is looked at, in the order of the page; about ten seconds.

    Args:
        body_models: where the files of ``body=smpl`` should be.
        weights: where published weights should be.
        folder: that runs and datasets are written to.
    """
    recipes = sorted(Path(config_dir(), "experiment").glob("*.yaml"))
    return [
        *machine.check_python(),
        *machine.check_torch(),
        *machine.check_opengl(),
        *machine.check_resources(folder),
        *software.check_packages(),
        *software.check_codecs(),
        *files.check_bodies(body_models),
        *files.check_weights(weights, recipes),
    ]


def count(lines: Sequence[Line]) -> dict[str, int]:
    """How many lines have each status."""
    return {status: sum(line.status == status for line in lines) for status in STATUSES}


def format_page(lines: Sequence[Line]) -> str:
    """The page for a terminal."""
    wide = max(len(line.name) for line in lines)
    page = [f"hmrkit {__version__}: what works here"]
    section = ""
    for line in lines:
        if line.section != section:
            section = line.section
            page += ["", section]
        mark = line.status if line.status == "ok" else line.status.upper()
        page += _wrapped(f"  {mark:4}  {line.name:{wide}}  ", line.found)
        if line.remedy:
            page += _wrapped(" " * (8 + wide) + "  -> ", line.remedy)
    numbers = count(lines)
    verdict = (
        f"{numbers['fail']} things must be repaired first."
        if numbers["fail"]
        else "Training, evaluation and the demo work here."
    )
    if numbers["warn"]:
        verdict += f" {numbers['warn']} optional things are missing or could be better: see ->"
    return "\n".join([*page, "", verdict])


def _wrapped(start: str, text: str) -> list[str]:
    indent = " " * len(start)
    options = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.wrap(
        " ".join(text.split()), _WIDTH, initial_indent=start, subsequent_indent=indent, **options
    ) or [start]


def to_json(lines: Sequence[Line]) -> str:
    """The same for programs: ``{"version", "count", "lines": [{section, name, status, ...}]}``."""
    content = {
        "version": __version__,
        "count": count(lines),
        "lines": [asdict(line) for line in lines],
    }
    return json.dumps(content, indent=2)
