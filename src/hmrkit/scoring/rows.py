"""Rows of a test: kept in parts while they come, gathered from all processes in the end."""

import json
import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from hmrkit.types import Batch

log = logging.getLogger(__name__)

_PARTS, _IDENTITY, _UNITS = "rows_parts", "scored.json", "_units"
Columns = dict[str, np.ndarray]


class KeepRows(pl.Callback):
    """Writes the rows that a test has made so far, every few seconds and when it is interrupted.

    Args:
        folder: of the evaluation; the parts lie in a folder of it until the report is there.
        identity: plain values that say what is scored; only rows of the same are gone on with.
        seconds: between two parts: as much is lost to a kill.
        resume: go on with the rows in the folder; else they are removed.

    Raises:
        ValueError: if those rows are of another evaluation.
    """

    def __init__(
        self, folder: Path, identity: Mapping[str, Any], seconds: float, resume: bool
    ) -> None:
        self.folder, self.seconds = folder, seconds
        self.kept: dict[str, Columns] = {}  # rows of earlier tries
        self.done: dict[str, np.ndarray] = {}  # their units: they need not be read again
        self.is_complete = False  # all rows are there, the report was written
        self._identity = json.loads(json.dumps(dict(identity)))
        self._written: dict[str, int] = {}
        self._units: dict[str, list[np.ndarray]] = {}
        self._next_s = 0.0
        if resume:
            self._read_kept()

    def start(self) -> None:
        """Make the folder ready (one process)."""
        if not self.kept:
            shutil.rmtree(self.folder / _PARTS, ignore_errors=True)
            (self.folder / "rows.npz").unlink(missing_ok=True)
        (self.folder / _PARTS).mkdir(parents=True, exist_ok=True)
        (self.folder / _IDENTITY).write_text(json.dumps(self._identity, indent=2) + "\n")

    def finish(self) -> None:
        """Remove the parts, the report being there (one process)."""
        shutil.rmtree(self.folder / _PARTS, ignore_errors=True)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write what is new, if the last time is long enough ago."""
        source = trainer.datamodule.test_names[dataloader_idx]
        self._units.setdefault(source, []).append(batch["unit"].cpu().numpy())
        if time.monotonic() >= self._next_s:
            self._write(pl_module)

    def on_test_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Write what is new."""
        self._write(pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Write what is new."""
        self._write(pl_module)

    def _write(self, module: Any) -> None:
        """A part of whole batches: one that was measured and is not counted yet is for the next."""
        self._next_s = time.monotonic() + self.seconds
        new = {}
        for source, units in self._units.items():
            first, end = self._written.get(source, 0), len(units)
            self._written[source] = end
            if end > first:
                new[f"{source}/{_UNITS}"] = np.concatenate(units[first:end])
                columns = joined(module.rows[source][first:end])
                new |= {f"{source}/{k}": v for k, v in columns.items()}
        if new:
            _write_part(self.folder / _PARTS, new)

    def _read_kept(self) -> None:
        paths = sorted((self.folder / _PARTS).glob("*.npz"))
        self.is_complete = not paths and (self.folder / "rows.npz").is_file()
        if not paths and not self.is_complete:
            log.info("resume=true: no rows in %s yet, starting at the first record", self.folder)
            return
        stored, now = self.folder / _IDENTITY, self._identity
        was = json.loads(stored.read_text()) if stored.is_file() else {}
        if changed := [name for name in {**was, **now} if was.get(name) != now.get(name)]:
            raise ValueError(
                f"the rows in {self.folder} are of another evaluation ({', '.join(changed)}: not "
                "the same): give the options of the first try, or another output="
            )
        chunks: dict[str, list[Columns]] = {}
        for path in paths or [self.folder / "rows.npz"]:
            for source, columns in _tables(path).items():
                chunks.setdefault(source, []).append(columns)
        for source, found in chunks.items():
            units = [columns.pop(_UNITS) for columns in found if _UNITS in columns]
            self.done[source] = np.concatenate([np.empty(0, np.int64), *units])
            self.kept[source] = joined(found)
        num = sum(len(columns["index"]) for columns in self.kept.values())
        log.info("resume=true: %d rows are there already", num)


def joined(chunks: Sequence[Columns]) -> Columns:
    """Columns of several batches as one table."""
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def gather(rows: Mapping[str, list[Columns]], kept: Mapping[str, Columns]) -> dict[str, Columns]:
    """The rows of every process and those that were kept, in the order of the test set.

    Args:
        rows: source -> columns per batch, of this process.
        kept: source -> columns of an earlier try.
    """
    parts: list[Any] = [rows]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        parts = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, dict(rows))
    tables = {}
    for source in dict.fromkeys([*kept, *(name for part in parts for name in part)]):
        chunks = [kept[source]] if source in kept else []
        columns = joined([*chunks, *(chunk for part in parts for chunk in part.get(source, []))])
        order = np.argsort(columns["index"], kind="stable")
        tables[source] = {k: v[order] for k, v in columns.items()}
    return tables


def _write_part(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a part under a name of its own; complete or not at all."""
    name = f"{time.time_ns():020d}-{os.getpid()}.npz"
    partial = folder / f".{name}.partial"
    with partial.open("wb") as file:
        np.savez(file, **arrays)
    partial.replace(folder / name)


def _tables(path: Path) -> dict[str, Columns]:
    tables: dict[str, Columns] = {}
    with np.load(path, allow_pickle=False) as arrays:
        for name in arrays.files:
            source, _, column = name.rpartition("/")
            tables.setdefault(source, {})[column] = arrays[name]
    return tables
