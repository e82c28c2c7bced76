"""All checks one after the other, as a page for people and as JSON for programs."""

import importlib
import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hmrkit import __version__
from hmrkit.configs import config_dir
from hmrkit.diagnosis.line import STATUSES, Line

_WIDTH = 100


def diagnose(body_models: Path, weights: Path, detector: str, folder: Path) -> list[Line]:
    """Everything that is looked at, in the order of the page; about ten seconds.

    Args:
        body_models: where the files of ``body=smpl`` should be.
        weights: where published weights should be.
        detector: name of torchvision's function, as ``detector.name`` of the demo.
        folder: that runs and datasets are written to.
    """
    recipes = sorted(Path(config_dir(), "experiment").glob("*.yaml"))
    checks: list[tuple[str, str, tuple[Any, ...]]] = [
        ("machine", "check_python", ()),
        ("machine", "check_torch", ()),
        ("machine", "check_opengl", ()),
        ("machine", "check_resources", (folder,)),
        ("software", "check_packages", ()),
        ("software", "check_codecs", ()),
        ("files", "check_bodies", (body_models,)),
        ("files", "check_weights", (weights, recipes)),
        ("files", "check_detector", (detector,)),
    ]
    return [line for check in checks for line in _lines(*check)]


def _lines(module: str, function: str, arguments: tuple[Any, ...]) -> list[Line]:
    """The lines of one check; where what it stands on is broken, that is its line."""
    try:
        check = getattr(importlib.import_module(f"hmrkit.diagnosis.{module}"), function)
        return list(check(*arguments))
    except Exception as error:  # broken libraries raise whatever they like
        name = function.removeprefix("check_")
        found = f"could not be looked at: {type(error).__name__}: {error}"
        return [Line(module, name, "fail", found, "repair what is above, then ask again")]


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
