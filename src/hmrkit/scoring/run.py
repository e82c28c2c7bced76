"""Test a module, gather its rows, write its report."""

import hashlib
import importlib.metadata
import json
import logging
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl

from hmrkit import report
from hmrkit.body import joints
from hmrkit.evaluation import Protocol, build_protocol
from hmrkit.module import HMRModule
from hmrkit.scoring.rows import KeepRows, gather
from hmrkit.scoring.samples import pick

log = logging.getLogger(__name__)

_PACKAGES = ("torch", "pytorch-lightning", "numpy", "opencv-python-headless", "hmrkit")


def score(
    trainer: pl.Trainer,
    module: HMRModule,
    datamodule: Any,
    folder: Path,
    checkpoint: Path,
    *,
    num_pictures: int,
    resume: bool = False,
    save_every_s: float = 10.0,
    options: Mapping[str, Any] | None = None,
    timing: Mapping[str, float] | None = None,
    curves: Sequence[Mapping[str, float]] = (),
) -> dict[str, float]:
    """Run the test loop, then write and print the report (rank zero).

    Args:
        trainer: of the test.
        module: in one piece, on any device.
        datamodule: with its test sources.
        folder: of the report, and of the rows while they come.
        checkpoint: path of what is scored.
        num_pictures: people in each of the report's groups.
        resume: go on with the rows in the folder.
        save_every_s: so often rows are saved.
        options: how it was scored other than the checkpoint says; part of its identity.
        timing: other times to report, in seconds.
        curves: rows of the training's log.

    Returns:
        ``test/<source>/<metric>``, and ``test/<metric>``, the mean over the sources.
    """
    sha256 = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    keep = KeepRows(folder, _identity(datamodule, sha256, options), save_every_s, resume)
    if trainer.is_global_zero:
        keep.start()
    trainer.callbacks.append(keep)
    datamodule.done = keep.done
    started = time.perf_counter()
    if not keep.is_complete:
        trainer.test(module, datamodule, verbose=False)
    passed_s = round(time.perf_counter() - started, 1)
    gathered = gather(module.rows, keep.kept)
    protocols = {
        name: build_protocol(datamodule.protocol(name))
        for name in datamodule.test_names
        if name in gathered
    }
    rows = {name: protocol.complete(gathered[name]) for name, protocol in protocols.items()}
    summaries = {name: protocol.summary(rows[name]) for name, protocol in protocols.items()}
    if trainer.is_global_zero:
        samples = pick(module, datamodule, protocols, rows, num_pictures)
        meta = about(module, protocols, str(checkpoint), sha256) | {
            "options": options or None,
            "skipped_records": {" ".join(k): n for k, n in datamodule.bad_counts().items()},
            "timing": {**(timing or {}), "test_s": passed_s, **_network_ms(rows)},
        }
        pictures = [(s.group, s.source, s.caption, s.picture) for s in samples]
        figures = [(s.group, s.source, s.caption, s.figure) for s in samples if s.figure]
        path = report.write_report(folder, rows, meta, curves, pictures, summaries, figures)
        keep.finish()
        log.info("\n%s\nreport: %s", report.format_table(folder / "report.json"), path)
    return _flat(rows, summaries)


def about(
    module: HMRModule, protocols: Mapping[str, Protocol], checkpoint: str, sha256: str
) -> dict[str, Any]:
    """What a reader needs to trust the numbers: who, with what, by which protocol."""
    return {
        "method": type(module.net).__name__.lower(),
        "checkpoint": checkpoint,
        "checkpoint_sha256": sha256,
        "body": module.body.name,
        "protocols": {name: protocol.name for name, protocol in protocols.items()},
        "protocols_in_words": {name: protocol.words() for name, protocol in protocols.items()},
        "joint_names": {name: list(joints.names(p.joint_set)) for name, p in protocols.items()},
        "config": module.config,
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in _PACKAGES},
        "num_parameters": sum(p.numel() for p in module.net.parameters()),
    }


def _identity(datamodule: Any, sha256: str, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """What must be the same for rows to be gone on with, as plain values."""
    sources = datamodule.sources["test"]
    protocols = {name: build_protocol(datamodule.protocol(name)).words() for name in sources}
    return {
        "checkpoint": sha256,
        "options": json.loads(json.dumps(options or {}, default=str)),
        "sources": {name: source.digest() for name, source in sources.items()},
        "protocols": protocols,
    }


def _network_ms(rows: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, float]:
    """Median time of the network per picture, by source; it stands beside the accuracy."""
    return {
        f"network_ms_per_image_{name}": round(float(np.median(columns["_network_ms"])), 2)
        for name, columns in rows.items()
        if "_network_ms" in columns
    }


def _flat(
    rows: Mapping[str, Mapping[str, np.ndarray]], summaries: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    found: dict[str, dict[str, float]] = {}
    for source, columns in rows.items():
        for name, value in report.means(columns).items():
            found.setdefault(name, {})[source] = value
        for name, value in summaries[source].items():
            found.setdefault(name, {})[source] = value
    flat = {f"test/{s}/{name}": v for name, values in found.items() for s, v in values.items()}
    return flat | {f"test/{name}": float(np.nanmean([*v.values()])) for name, v in found.items()}
