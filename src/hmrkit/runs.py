"""Compose -> build -> run: what ``train`` and ``eval`` do, as functions that tests call too."""

import csv
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch.distributed.fsdp import FSDPModule

from hmrkit import configs
from hmrkit.checkpoints import build_module, convert_official, load_checkpoint, set_adapt
from hmrkit.data.datamodule import DataModule
from hmrkit.data.machine import auto_workers, num_cores
from hmrkit.evaluation import build_protocol
from hmrkit.initial_weights import set_initial_weights
from hmrkit.module import HMRModule
from hmrkit.scoring.predictions import WritePredictions
from hmrkit.scoring.recorded import recorded_module
from hmrkit.scoring.run import score
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
        trainer = build_trainer(config, folder, is_test=True)
        metrics |= _test(config, trainer, module, datamodule, last, timing=timing)
    return metrics


def test_checkpoint(config: DictConfig) -> dict[str, float]:
    """Score a checkpoint, or predictions from a file, and write the report (``eval.yaml``).

    With ``submission``, write what is submitted instead.

    Returns:
        Every ``test/...`` metric by name.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: if there is nothing to score, or two things.
    """
    if (config.checkpoint is None) == (config.predictions is None):
        raise ValueError(
            "give checkpoint=<file.ckpt>, a network to be scored, or predictions=<file>, what one "
            "has said"
        )
    nodes = {name: config.get(name) for name in ("body", "data", "model")}
    changes = {name: configs.to_plain(node) if node else {} for name, node in nodes.items()}
    path, module = _module_to_score(config, changes)
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
    trainer = build_trainer(config, Path(config.run_dir), is_test=True)
    if submission is not None:
        trainer.callbacks.append(instantiate(submission.writer))
        trainer.predict(module, datamodule, return_predictions=False)
        return {}
    if config.predictions_out is not None:
        trainer.callbacks.append(WritePredictions(config.predictions_out))
    adapt = config.get("adapt")
    options = {**changes, "adapt": None if adapt is None else configs.to_plain(adapt)}
    return _test(
        config,
        trainer,
        module,
        datamodule,
        path,
        options={k: configs.merge({}, v) for k, v in options.items() if v},
        resume=config.resume,
        save_every_s=config.save_every_s,
    )


def _module_to_score(config: DictConfig, changes: dict[str, Any]) -> tuple[Path, HMRModule]:
    """The file that is scored, and what predicts: a network, or the file's predictions."""
    if config.predictions is not None:
        path = Path(config.predictions)
        return path, recorded_module(path, changes, config.trusted)
    path = Path(config.checkpoint)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}: give checkpoint=<file.ckpt>")
    if config.official is None:
        return path, load_checkpoint(path, changes, config.trusted)
    node = configs.load_config("train", [f"model={config.official}", "run_dir=run"])
    for name, change in changes.items():
        OmegaConf.update(node, name, change, merge=True, force_add=True)
    options = configs.to_plain(config.options)
    return path, convert_official(config.official, path, node, **options)


def _test(
    config: DictConfig,
    trainer: pl.Trainer,
    module: HMRModule,
    datamodule: DataModule,
    checkpoint: Path,
    **options: Any,
) -> dict[str, float]:
    """Run the test loop, then write and print the report (rank zero)."""
    folder = Path(config.run_dir)
    _set_threads(config.threads, trainer, datamodule.num_workers)
    options = {"curves": _curves(folder), "num_pictures": config.num_pictures, **options}
    return score(trainer, module, datamodule, folder, checkpoint, **options)


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
