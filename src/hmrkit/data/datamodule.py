"""Shards in, batches out: the one LightningDataModule, for every cut and every mix."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn

from hmrkit.data.bad import BadRecords
from hmrkit.data.batches import (
    BatchLoader,
    Cut,
    EvalBatches,
    Steps,
    TrainBatches,
    collate_units,
    num_units,
    read_unit,
    start_worker,
)
from hmrkit.data.collate import normalize_image
from hmrkit.data.machine import num_cores
from hmrkit.data.mix import Mix, MixSource
from hmrkit.data.nodes import Node, check_node, make_synthetic, open_local, open_remote
from hmrkit.data.shards import ShardSet
from hmrkit.data.stream import RemoteStream, is_remote
from hmrkit.types import Batch

log = logging.getLogger(__name__)


class DataModule(pl.LightningDataModule):
    """Weighted mix of shard sources for training, whole sources in order for evaluation.

    Training draws sample t of the run as a pure function of (seed, t) (mix.py): the batches do not
    depend on the number of workers, nor on how a global batch is shared by processes, and a run
    resumes in the middle of an epoch exactly where it stopped.

    Args:
        cut: record -> network input; its ``unit`` is what one draw is, a view or a record.
        batch_size: units per process and step.
        train: ``{name: {path, weight, protocol, synth}}``. ``path`` is a folder, a pattern, a list,
            or an http(s) address (train only); ``weight`` is relative, 1 by default; ``synth`` are
            the options of ``hmrkit.data.synth.shards.make_shards``, which makes the folder.
        val: likewise, without weights; every unit of every source once.
        test: likewise.
        num_workers: worker processes per training process; "auto" = ``auto_workers``.
        seed: of order and augmentation.
        steps_per_epoch: None = so many that an epoch draws as many units as the sources have.
        max_bad: fraction of a source's records that may be unusable; more stops the run.
        required_labels: labels (``manifest["labels"]``) that every training source must carry.
        chunk_size: see ``mix.Mix``.
        shuffle_buffer: records that a worker of a remote source shuffles among.
        allow_pipe: accept ``pipe:`` addresses, which run a shell command.
        allow_changed_data: resume although seed or sources are not those of the checkpoint.
        start_method: of workers: "fork" (Linux: instant), "spawn" or "forkserver" (seconds; for
            parents with threads that do not survive a fork). None = the platform's own.
    """

    def __init__(
        self,
        cut: Cut,
        batch_size: int,
        train: Mapping[str, Node],
        val: Mapping[str, Node],
        test: Mapping[str, Node],
        num_workers: int | str = "auto",
        seed: int = 0,
        steps_per_epoch: int | None = None,
        max_bad: float = 0.01,
        required_labels: Sequence[str] = (),
        chunk_size: int = 0,
        shuffle_buffer: int = 1000,
        allow_pipe: bool = False,
        allow_changed_data: bool = False,
        start_method: str | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"data.batch_size={batch_size} must be at least 1")
        if not 0 <= max_bad <= 1:
            raise ValueError(f"data.max_bad={max_bad} is a fraction: 0 to 1")
        self.cut, self.batch_size, self.num_workers, self.seed = cut, batch_size, num_workers, seed
        self.nodes = {"train": dict(train), "val": dict(val), "test": dict(test)}
        for name, node in [item for nodes in self.nodes.values() for item in nodes.items()]:
            check_node(name, node)
        self.steps_per_epoch, self.max_bad = steps_per_epoch, max_bad
        self.required_labels, self.chunk_size = tuple(required_labels), chunk_size
        self.shuffle_buffer, self.allow_pipe = shuffle_buffer, allow_pipe
        self.allow_changed_data, self.start_method = allow_changed_data, start_method
        self.sources: dict[str, dict[str, ShardSet | RemoteStream]] = {}
        self.origin = (0, 0)  # (batch number, sample number) from where batches are counted
        self._bad: list[BadRecords] = []

    # What there is

    @property
    def val_names(self) -> list[str]:
        """Names of the validation sources, in the order of their loaders."""
        return list(self.nodes["val"])

    @property
    def test_names(self) -> list[str]:
        """Names of the test sources, in the order of their loaders."""
        return list(self.nodes["test"])

    def protocol(self, name: str) -> Any:
        """Return the ``protocol`` of a test or validation source."""
        node = self.nodes["test"].get(name) or self.nodes["val"].get(name) or {}
        if node.get("protocol") is None:
            raise ValueError(f"source {name!r} has no protocol: set it in its node of the mix")
        return node["protocol"]

    @property
    def num_bad(self) -> int:
        """Records skipped so far on this process."""
        return sum(bad.total for bad in self._bad)

    def bad_counts(self) -> dict[tuple[str, str, str], int]:
        """Return ``{(source, shard, kind): records skipped}`` on this process."""
        counts: dict[tuple[str, str, str], int] = {}
        for bad in self._bad:
            for row, number in bad.counts().items():
                counts[row] = counts.get(row, 0) + number
        return counts

    # Lightning's hooks

    def prepare_data(self) -> None:
        """Make the shards of ``synth`` sources that have none (on one process per machine)."""
        splits = self._splits(None)
        nodes = [(split, *item) for split in splits for item in self.nodes[split].items()]
        for split, name, node in nodes:
            if node.get("synth") is None and not is_remote(node["path"]):
                self._open(name, node, split)  # what is missing shows before anything is made
        for _, name, node in nodes:
            if node.get("synth") is not None:
                make_synthetic(name, Path(node["path"]), node["synth"])

    def setup(self, stage: str | None = None) -> None:
        """Open the sources of a stage and check them, so that errors come before the first step."""
        for split in self._splits(stage):
            if split not in self.sources:
                opened = {name: self._open(name, n, split) for name, n in self.nodes[split].items()}
                self.sources[split] = opened
        if "train" in self.sources and self.nodes["train"]:
            self.mix = self._make_mix()

    def train_dataloader(self) -> BatchLoader:
        """Batches without end; an epoch is ``steps_per_epoch`` of them."""
        if not self.nodes["train"]:
            raise ValueError("no training source: choose a mix with a non-empty `train` map")
        rank, world_size = self._rank()
        sources = list(self.sources["train"].values())
        workers = self._num_workers()
        units = [-(-source.num_units // world_size) for source in self.mix.sources]
        bad = self._counters(self.sources["train"], units, workers)
        steps = self._steps_per_epoch(world_size)
        dataset = TrainBatches(
            self.mix, sources, self.cut, self.batch_size, rank, world_size, steps, self.origin, bad
        )
        return self._loader(dataset, Steps(steps, self._position), workers, is_kept=True)

    def val_dataloader(self) -> list[BatchLoader]:
        """One loader per validation source, in the order of ``val_names``."""
        return self._eval_loaders("val")

    def test_dataloader(self) -> list[BatchLoader]:
        """One loader per test source, in the order of ``test_names``."""
        return self._eval_loaders("test")

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Normalise the images on the device; they travel as uint8."""
        if "image" in batch and batch["image"].dtype == torch.uint8:
            return {**batch, "image": normalize_image(batch["image"])}
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the run: one number, and what it counts."""
        if "train" not in self.sources:
            return {}
        step = self._position()
        return {"step": step, "sample": self._sample(step), **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at a position.

        Raises:
            ValueError: if the data are not those of the checkpoint.
        """
        if self.trainer is not None and self.trainer.state.fn != TrainerFn.FITTING:
            return
        identity = self._identity()
        changed = [k for k, v in identity.items() if state[k] != v]
        if changed:
            was, now = ({k: s[k] for k in changed} for s in (state, identity))
            message = f"the training data are not those of the checkpoint: {was} then, {now} now"
            if not self.allow_changed_data:
                raise ValueError(
                    f"{message}. Restore them, start a new run, or resume on the new data with "
                    "data.allow_changed_data=true (then the run is no exact continuation)"
                )
            log.warning("%s", message)
        self.origin = (state["step"], state["sample"])

    def test_batch(self, name: str, indices: Sequence[int]) -> Batch:
        """Read chosen units of a test (or validation) source again, as the loader gives them.

        Args:
            name: of the source.
            indices: unit numbers, ``batch["index"]`` of the loaders.
        """
        split = "test" if name in self.nodes["test"] else "val"
        if split not in self.sources:
            self.setup("test" if split == "test" else "validate")
        shards = self.sources[split][name]
        batch = collate_units([read_unit(shards, i, self.cut, None) for i in indices], indices)
        return self.on_after_batch_transfer(batch, 0)

    # Parts

    def _splits(self, stage: str | None) -> list[str]:
        if stage is None and self.trainer is not None and self.trainer.state.fn is not None:
            stage = self.trainer.state.fn.value
        known = {"fit": ["train", "val"], "validate": ["val"], "test": ["test"]}
        return known.get(stage or "", ["train", "val", "test"])

    def _open(self, name: str, node: Node, split: str) -> ShardSet | RemoteStream:
        labels = self.required_labels if split == "train" else ()
        if split == "train" and is_remote(node["path"]):
            options = (self.seed, self.shuffle_buffer, self.allow_pipe)
            return open_remote(name, node, self.cut, labels, *options)
        return open_local(name, node, self.cut, labels)

    def _make_mix(self) -> Mix:
        sources = []
        for name, source in self.sources["train"].items():
            units = num_units(source, self.cut) if isinstance(source, ShardSet) else 0
            sources.append(
                MixSource(name, float(self.nodes["train"][name].get("weight", 1)), units)
            )
        return Mix(sources, self.seed, self.chunk_size)

    def _steps_per_epoch(self, world_size: int) -> int:
        if self.steps_per_epoch is not None:
            return self.steps_per_epoch
        unknown = [s.name for s in self.mix.sources if s.num_units == 0]
        if unknown:
            raise ValueError(f"sources {unknown} are streamed: set data.steps_per_epoch")
        total = sum(source.num_units for source in self.mix.sources)
        return max(1, total // (self.batch_size * world_size))

    def _identity(self) -> dict[str, Any]:
        """What must not change between a checkpoint and its resume, as plain values."""
        sources = {
            source.name: [int(quota), self.sources["train"][source.name].digest()]
            for source, quota in zip(self.mix.sources, self.mix.quotas, strict=True)
        }
        return {
            "seed": self.seed,
            "unit": self.cut.unit,
            "chunk_size": self.chunk_size,
            "sources": sources,
        }

    def _position(self) -> int:
        """Return the number of batches trained on; Lightning restores it before it asks."""
        if self.trainer is None:
            return self.origin[0]
        # `processed`, not `ready`: a batch that an exception interrupts is given again.
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.processed

    def _sample(self, step: int) -> int:
        _, world_size = self._rank()
        return self.origin[1] + (step - self.origin[0]) * self.batch_size * world_size

    def _rank(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size

    def _num_workers(self) -> int:
        if self.num_workers != "auto":
            return int(self.num_workers)
        if self.trainer is None:
            return auto_workers(num_cores(), is_cpu=True)
        cores = num_cores() // max(1, self.trainer.num_devices)
        return auto_workers(cores, self.trainer.strategy.root_device.type == "cpu")

    def _counters(
        self, sources: Mapping[str, Any], units: Sequence[int], workers: int
    ) -> BadRecords:
        shards = {
            name: source.urls
            if isinstance(source, RemoteStream)
            else [str(shard.path) for shard in source.shards]
            for name, source in sources.items()
        }
        self._bad.append(BadRecords(shards, units, workers, self.max_bad))
        return self._bad[-1]

    def _eval_loaders(self, split: str) -> list[BatchLoader]:
        rank, world_size = self._rank()
        workers = self._num_workers()
        loaders = []
        for name, shards in self.sources[split].items():
            units = -(-num_units(shards, self.cut) // world_size)
            bad = self._counters({name: shards}, [units], workers)
            batches = EvalBatches(shards, self.cut, self.batch_size, rank, world_size, bad)
            loaders.append(
                self._loader(batches, Steps(len(batches), _zero), workers, is_kept=False)
            )
        return loaders

    def _loader(self, dataset: Any, steps: Steps, workers: int, is_kept: bool) -> BatchLoader:
        is_cuda = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return BatchLoader(
            dataset,
            sampler=steps,
            batch_size=None,  # an item is a batch already
            num_workers=workers,
            worker_init_fn=start_worker if workers else None,
            persistent_workers=is_kept and workers > 0,
            pin_memory=is_cuda,
            multiprocessing_context=self.start_method if workers else None,
            generator=torch.Generator().manual_seed(self.seed),  # else it draws from torch's own
        )


def auto_workers(cores: int, is_cpu: bool) -> int:
    """Worker processes of one training process that has so many cores to itself.

    On a GPU all cores but one prepare samples. On a CPU the network needs the most of them: a third
    of the cores feeds it.
    """
    return min(cores // 3 if is_cpu and cores > 2 else cores - 1, 8)


def _zero() -> int:
    return 0
