"""What a demo run has done already, so that the same command goes on where it stopped."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_NAME = ".hmrkit_demo.jsonl"


class Journal:
    """A line for each input whose files are all written; kept in the output folder.

    An input counts as done if it is the same file and every option that shapes the results is the
    same. Lines are short, so that several processes may append them.

    Args:
        output: the folder of the results.
        options: plain options that shape the results, and files among them.
    """

    def __init__(self, output: Path, options: dict[str, Any]) -> None:
        self._path = output / _NAME
        text = json.dumps(options, sort_keys=True, default=str)
        self._options = hashlib.sha256(text.encode()).hexdigest()[:16]

    def add(self, name: str, source: Path) -> None:
        """Everything of this input is written."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self._entry(name, source)) + "\n")

    def done(self, sources: Iterable[tuple[str, Path]]) -> set[str]:
        """The names that need no second time."""
        if not self._path.is_file():
            return set()
        lines = self._path.read_text(encoding="utf-8").splitlines()
        known = set(lines)
        return {n for n, source in sources if json.dumps(self._entry(n, source)) in known}

    def _entry(self, name: str, source: Path) -> list[Any]:
        return [name, str(source), *file_state(source), self._options]


def file_state(path: Path) -> list[int]:
    """Size and time of change, which tell a file from a newer one; empty if there is none."""
    if not path.is_file():
        return []
    state = path.stat()
    return [state.st_size, state.st_mtime_ns]
