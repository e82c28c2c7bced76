"""Compose -> build -> run: what ``train`` and ``eval`` do, as functions that tests call too."""

import csv
import hashlib
import importlib.metadata
import logging
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch.distributed.fsdp import FSDPModule

from hmrkit import configs, report
from hmrkit.checkpoints import build_module, load_checkpoint, set_adapt
from hmrkit.data.datamodule import DataModule
from hmrkit.data.machine import auto_workers, num_cores
from hmrkit.evaluation import build_protocol
from hmrkit.initial_weights import set_initial_weights
from hmrkit.module import HMRModule
from hmrkit.reporting import columns as columns_of_report
from hmrkit.types import Batch
from hmrkit.weight_files import read_checkpoint

log = logging.getLogger(__name__)


def build_datamodule(
    config: Mapping[str, Any],
    splits: Sequence[str] = ("train", "prior", "val", "test"),
    is_scored: bool = True,
) -> DataModule:
    """The datamodule of a config's ``data`` node over the sources of its ``mix`` node.

    Args:
        config: plain containers, resolved.
        splits: maps of the mix that are needed; the sources of the others need not be there.
        is_scored: sources of val and test need protocols.

    Raises:
        ValueError: naming the source, if one has a key or a protocol that cannot be.
    """
    mix = config["mix"]
    maps: dict[str, Any] = {split: {} for split in ("train", "prior", "val", "test")}
    maps |= {split: mix.get(split) or {} for split in splits}
    allow_missing = bool(mix.get("allow_missing"))
    data = {k: v for k, v in config["data"].items() if k not in ("eval_cut", "demo_cut")}
    data["eval_cut"] = configs.cut_node(config["data"], "eval")
    datamodule = instantiate(data, **maps, allow_missing=allow_missing, _convert_="all")
    for name in [*datamodule.val_names, *datamodule.test_names] if is_scored else ():
        try:
            build_protocol(datamodule.protocol(name))
        except ValueError as error:
            raise ValueError(f"source {name!r}: {error}") from error
    return datamodule


def build_trainer(config: DictConfig, folder: Path, is_test: bool = False) -> pl.Trainer:
    """The trainer of a config; everything it writes goes below ``folder``.

    Args:
        config: nodes ``trainer``, ``callbacks`` and ``logger``.
        folder: of the run.
        is_test: compute in float32 and keep no log, so that numbers do not depend on the machine.
    """
    loggers = {} if is_test else config.get("logger") or {}
    callbacks = config.get("callbacks") or {}
    options = {"precision": "32-true" if is_test else _precision(config.trainer)}
    if is_test and not isinstance(config.trainer.strategy, str):
        options["strategy"] = "ddp"  # nothing is trained: every process has all weights
    return instantiate(
        {**config.trainer, **options},
        callbacks=[instantiate(node) for node in callbacks.values() if node is not None],
        logger=[instantiate(node) for node in loggers.values() if node is not None],
        default_root_dir=str(folder),
    )


def fit_and_test(config: DictConfig) -> dict[str, float]:
    """Train a config, test its last weights and write ``report.html`` below its run folder.

    Returns:
        Every metric that was logged last, by name.

    Raises:
        ValueError: when the run folder holds another run and neither ``resume`` nor ``overwrite``
            is set, or when an option cannot work.
        SystemExit: code 143 after SIGTERM, with a checkpoint written.
    """
    folder = Path(config.run_dir)
    checkpoint = _starting_point(folder, config.resume, config.overwrite)
    pl.seed_everything(config.seed, workers=True, verbose=False)
    plain = configs.to_plain(config)
    datamodule = build_datamodule(plain)
    module = build_module(plain)
    if checkpoint is None:
        set_initial_weights(module.net, plain["initial_weights"])
    trainer = build_trainer(config, folder)
    _set_threads(config.threads, trainer, config.data.num_workers)
    datamodule.prepare_data()  # every source, also those of the test: what is wrong shows now
    datamodule.setup()
    _check_bodies(datamodule, module)
    if config.compile:
        module.net.compile()
    _save_config(config, folder)
    started = time.perf_counter()
    try:
        trainer.fit(module, datamodule, ckpt_path=checkpoint, weights_only=True)
    except SIGTERMException as error:
        log.warning("stopped by SIGTERM at step %d; continue with resume=true", trainer.global_step)
        raise SystemExit(143) from error
    timing = {"training_s": round(time.perf_counter() - started, 1)}
    last = folder / "checkpoints" / "last.ckpt"
    trainer.save_checkpoint(last)  # the callback saves every n steps, which the end need not be
    metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}
    if isinstance(module.net, FSDPModule):  # put its shards together
        module = build_module(plain)
        module.load_state_dict(read_checkpoint(last)["state_dict"])
    if config.test:
        metrics |= _test(config, module, datamodule, last, timing)
    return metrics


def test_checkpoint(config: DictConfig) -> dict[str, float]:
    """Score a checkpoint (composed ``eval.yaml``) and write its report, or what is submitted.

    Returns:
        Every ``test/...`` metric by name.

    Raises:
        FileNotFoundError: no such checkpoint.
    """
    path = Path(config.checkpoint)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}: give checkpoint=<file.ckpt>")
    changes = {"body": config.body, "data": config.data, "model": config.get("model") or {}}
    module = load_checkpoint(path, changes, config.trusted)
    set_adapt(module, config.get("adapt"))
    mix, submission = configs.to_plain(config.mix), config.get("submission")
    if submission is not None:  # the sources whose labels a server keeps
        mix["test"] = configs.to_plain(submission.test)
    if not mix.get("test"):  # no other sources than the run's own
        mix = {**module.config["mix"], **mix}
    merged = configs.merge(module.config, changes) | {"mix": mix}
    datamodule = build_datamodule(merged, ["test"], is_scored=submission is None)
    datamodule.prepare_data()
    datamodule.setup("test")
    _check_bodies(datamodule, module)
    if submission is not None:
        trainer = build_trainer(config, Path(config.run_dir), is_test=True)
        trainer.callbacks.append(instantiate(submission.writer))
        trainer.predict(module, datamodule, return_predictions=False)
        return {}
    return _test(config, module, datamodule, path, {})


def _test(
    config: DictConfig,
    module: HMRModule,
    datamodule: DataModule,
    checkpoint: Path,
    timing: dict[str, float],
) -> dict[str, float]:
    """Run the test loop, then write and print the report (rank zero)."""
    folder = Path(config.run_dir)
    trainer = build_trainer(config, folder, is_test=True)
    _set_threads(config.threads, trainer, datamodule.num_workers)
    started = time.perf_counter()
    trainer.test(module, datamodule, verbose=False)
    timing = {**timing, "test_s": round(time.perf_counter() - started, 1)}
    metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("test/")}
    rows = _gather_rows(module)
    summaries = {name: module.protocols[name].summary(rows[name]) for name in rows}
    for name, summary in summaries.items():
        metrics |= {f"test/{name}/{metric}": value for metric, value in summary.items()}
    if trainer.is_global_zero:
        pictures = _pictures(module, datamodule, rows, config.num_pictures)
        meta = _meta(module, datamodule, checkpoint, timing)
        path = report.write_report(folder, rows, meta, _curves(folder), pictures, summaries)
        log.info("\n%s\nreport: %s", report.format_table(path.parent / "report.json"), path)
    return metrics


def _gather_rows(module: HMRModule) -> dict[str, dict[str, np.ndarray]]:
    """Per-person columns of every process, in the order of the test set."""
    mine = module.rows
    parts = [mine]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        parts = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, mine)
    rows = {}
    for source in mine:
        chunks = [chunk for part in parts for chunk in part.get(source, [])]
        columns = {k: np.concatenate([c[k] for c in chunks]) for k in chunks[0]}
        order = np.argsort(columns["index"], kind="stable")
        rows[source] = {k: v[order] for k, v in columns.items()}
    return rows


def _pictures(module: HMRModule, datamodule: Any, rows: dict, num: int) -> list[tuple]:
    """Overlays of the worst, median and best persons of every test source."""
    pictures = []
    module.eval()
    for source, columns in rows.items():
        error = "pa_mpjpe" if "pa_mpjpe" in columns else columns_of_report.metric_names(columns)[0]
        measure = columns_of_report.metric(error)
        for group, picked in report.pick_samples(columns[error], num).items():
            for row in picked:
                unit = columns["index"][row]
                person = int(columns["person"][row])
                batch = datamodule.test_batch(source, [int(unit)])
                batch = module.transfer_batch_to_device(batch, module.device, 0)
                prediction = module.protocols[source].shown(module.predict(batch))
                if _has_row_per_view(batch, columns["index"] == unit):
                    view = int((columns["index"][:row] == unit).sum())
                else:
                    view = _first_view(batch, person)
                picture = report.sample_picture(batch, prediction, module.body, view)
                value = f"{columns[error][row]:.{max(0, measure.decimals - 1)}f} {measure.unit}"
                caption = f"{columns['key'][row]}: {measure.title} {value}"
                pictures.append((group, source, caption, picture))
    return pictures


def _has_row_per_view(batch: Batch, is_of_unit: np.ndarray) -> bool:
    """Whether the rows of a unit are the views of its people, of which they have several."""
    owner = batch.get("person_of_view")
    is_rig = owner is not None and len(owner) != len(batch["has_pose"])
    return is_rig and int(is_of_unit.sum()) == len(owner)


def _first_view(batch: Batch, person: int) -> int:
    """The row of a person's first view; without images, of the person."""
    if "person_of_view" not in batch or person < 0:
        return person
    return int((batch["person_of_view"] == person).int().argmax())


def _meta(
    module: HMRModule, datamodule: Any, checkpoint: Path, timing: dict[str, float]
) -> dict[str, Any]:
    """What a reader needs to trust the numbers: who, with what, on what."""
    packages = ("torch", "pytorch-lightning", "numpy", "opencv-python-headless", "hmrkit")
    is_file = checkpoint.is_file()
    return {
        "method": type(module.net).__name__.lower(),
        "checkpoint": str(checkpoint),
        "checkpoint_sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest() if is_file else "",
        "body": module.body.name,
        "protocols": {name: protocol.name for name, protocol in module.protocols.items()},
        "config": module.config,
        "skipped_records": {" ".join(k): n for k, n in datamodule.bad_counts().items()},
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
        "num_parameters": sum(p.numel() for p in module.net.parameters()),
        "timing": timing,
    }


def _curves(folder: Path) -> list[dict[str, float]]:
    """What the CSV logger wrote, over every restart of the run; later lines win."""
    by_step: dict[int, dict[str, float]] = {}
    for path in sorted(folder.glob("csv/version_*/metrics.csv"), key=lambda p: p.stat().st_mtime):
        with path.open(newline="") as lines:
            for line in csv.DictReader(lines):
                values = {k: float(v) for k, v in line.items() if v}
                by_step.setdefault(int(values["step"]), {}).update(values)
    return [by_step[step] for step in sorted(by_step)]


def _starting_point(folder: Path, resume: bool, overwrite: bool) -> str | None:
    """The checkpoint to continue from, or None for a fresh start."""
    if resume and overwrite:
        raise ValueError(
            "resume=true continues a run, overwrite=true replaces it: give one of them"
        )
    checkpoints = sorted((folder / "checkpoints").glob("*.ckpt"), key=lambda p: p.stat().st_mtime)
    if overwrite and rank_zero_only.rank == 0:
        for part in ("checkpoints", "csv", "tensorboard"):
            shutil.rmtree(folder / part, ignore_errors=True)
    if overwrite or not checkpoints:
        if resume:
            log.info("resume=true: no checkpoint in %s yet, starting at step 0", folder)
        return None
    if not resume:
        raise ValueError(
            f"{folder} already holds a run ({checkpoints[-1].name}): continue it with resume=true, "
            "give the new run another name with name=..., or replace it with overwrite=true"
        )
    for path in reversed(checkpoints):
        try:
            read_checkpoint(path)
        except ValueError as error:
            log.warning("%s; trying the checkpoint before it", error)
        else:
            return str(path)
    raise ValueError(f"no checkpoint in {folder} can be read: start again with overwrite=true")


def _check_bodies(datamodule: DataModule, module: HMRModule) -> None:
    """Refuse made-up people whose labels are parameters of another body than the run's."""
    for sources in datamodule.sources.values():
        for name, source in sources.items():
            made_with = (source.manifest or {}).get("options", {}).get("body")
            if made_with not in (None, module.body.name):
                raise ValueError(
                    f"source {name!r} is labelled with poses and shapes of the body {made_with!r}, "
                    f"which mean nothing to {module.body.name!r}: choose another mix, or body=free"
                )


def metric(metrics: dict[str, float], name: str | None) -> float | None:
    """The metric that a sweep minimises; None, with a warning, if this run has no such one."""
    if name is not None and name not in metrics:
        log.warning("optimized_metric=%s: this run has %s", name, ", ".join(sorted(metrics)))
    return metrics.get(name) if name else None


def _save_config(config: DictConfig, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, folder / "config.yaml", resolve=True)


def _set_threads(threads: int | str, trainer: pl.Trainer, workers: int | str) -> None:
    """``auto``: what the loader's workers leave of the cores of this process."""
    if threads == "auto":
        cores = num_cores() // max(1, trainer.num_devices)
        is_cpu = trainer.strategy.root_device.type == "cpu"
        threads = cores - (auto_workers(cores, is_cpu) if workers == "auto" else int(workers))
    torch.set_num_threads(max(1, int(threads)))


def _precision(trainer: DictConfig) -> str | int:
    """``auto``: bfloat16 autocast where the device computes it natively, float32 elsewhere."""
    if trainer.precision != "auto":
        return trainer.precision
    if torch.cuda.is_available() and trainer.accelerator != "cpu":
        is_native = torch.cuda.get_device_capability()[0] >= 8
    else:
        is_native = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()  # not in every torch
    return "bf16-mixed" if is_native else "32-true"
