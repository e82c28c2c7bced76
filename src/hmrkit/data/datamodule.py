"""Shards in, batches out: the one LightningDataModule, for every cut and every mix."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_only

from hmrkit.data.bad import BadRecords
from hmrkit.data.batches import (
    BatchLoader,
    Cut,
    EvalBatches,
    Steps,
    TrainBatches,
    UnitReader,
    collate_units,
    num_units,
    start_worker,
    views_per_image,
)
from hmrkit.data.collate import normalize_image
from hmrkit.data.machine import auto_workers, num_cores
from hmrkit.data.mix import Mix, MixSource
from hmrkit.data.nodes import (
    Node,
    Opening,
    check_node,
    draw_weights,
    drop_missing,
    format_shares,
    make_synthetic,
    open_sources,
)
from hmrkit.data.prior import PosePrior
from hmrkit.data.shards import ShardSet
from hmrkit.data.stream import RemoteStream
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
        train: ``{name: {path, weight, protocol, synth, ...}}``. ``path`` is a folder, a pattern, a
            list, or an address (nodes.py); ``weight`` is relative, 1 by default, or for all sources
            "auto": by number of units; ``synth`` are the options of
            ``hmrkit.data.synth.shards.make_shards``, which makes the folder.
        val: likewise, without weights; every unit of every source once.
        test: likewise.
        prior: motion sources, with weights, that ``Batch.prior`` is drawn from; none, no prior.
        num_prior: real bodies for each unit of a batch.
        num_workers: worker processes per training process; "auto" = ``auto_workers``.
        seed: of order and augmentation.
        steps_per_epoch: None = so many that an epoch draws as many units as the sources have.
        max_bad: fraction of a source's records that may be unusable; more stops the run.
        required_labels: labels (``manifest["labels"]``) that every training source must carry.
        chunk_size: see ``mix.Mix``.
        shuffle_buffer: records that a worker of a remote source shuffles among.
        group_views: draw the people of one image one after the other, decoding it once; for cuts
            of views.
        cache_dir: folder to which sources behind addresses are copied before the first step, to be
            read like local ones; None streams them (train only).
        allow_missing: leave out sources that are not there, with a warning.
        allow_pipe: accept ``pipe:`` addresses, which run a shell command.
        allow_changed_data: resume although seed or sources are not those of the checkpoint.
        start_method: of workers: "fork" (Linux: instant), "spawn" or "forkserver" (seconds; for
            parents with threads that do not survive a fork). None = the platform's own.
        eval_cut: the cut of val and test; None for that of training.
    """

    def __init__(
        self,
        cut: Cut,
        batch_size: int,
        train: Mapping[str, Node],
        val: Mapping[str, Node],
        test: Mapping[str, Node],
        prior: Mapping[str, Node] = MappingProxyType({}),
        num_prior: int = 2,
        num_workers: int | str = "auto",
        seed: int = 0,
        steps_per_epoch: int | None = None,
        max_bad: float = 0.01,
        required_labels: Sequence[str] = (),
        chunk_size: int = 0,
        shuffle_buffer: int = 1000,
        group_views: bool = False,
        cache_dir: str | None = None,
        allow_missing: bool = False,
        allow_pipe: bool = False,
        allow_changed_data: bool = False,
        start_method: str | None = None,
        eval_cut: Cut | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"data.batch_size={batch_size} must be at least 1")
        if not 0 <= max_bad <= 1:
            raise ValueError(f"data.max_bad={max_bad} is a fraction: 0 to 1")
        self.cut, self.eval_cut = cut, eval_cut or cut
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        maps = {"train": train, "prior": prior, "val": val, "test": test}
        self.nodes = {split: dict(nodes) for split, nodes in maps.items()}
        self.num_prior = num_prior
        for name, node in [item for nodes in self.nodes.values() for item in nodes.items()]:
            check_node(name, node)
        self.steps_per_epoch, self.max_bad = steps_per_epoch, max_bad
        self.required_labels, self.chunk_size = tuple(required_labels), chunk_size
        self.group_views, self.allow_missing = group_views, allow_missing
        self.allow_changed_data, self.start_method = allow_changed_data, start_method
        self.sources: dict[str, dict[str, ShardSet | RemoteStream]] = {}
        stream_options = (seed, shuffle_buffer, allow_pipe, group_views)
        self._opening = Opening(cut, self.required_labels, cache_dir, stream_options)
        self._opened: dict[tuple[str, str], ShardSet | RemoteStream] = {}  # by split and name
        self._has_dropped = False
        self.done: dict[str, Any] = {}  # units of test sources that are scored already
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
        """Fetch what is to be cached, then make the shards of ``synth`` sources that have none.

        Lightning calls it on one process per machine.
        """
        splits = self._splits(None)
        self._open(splits, is_made=False)  # what is missing shows before anything is made
        for split in splits:
            for name, node in self.nodes[split].items():
                if node.get("synth") is not None:
                    make_synthetic(name, Path(node["path"]), node["synth"])

    def setup(self, stage: str | None = None) -> None:
        """Open the sources of a stage and check them, so that errors come before the first step.

        Raises:
            FileNotFoundError: naming all sources that are missing, and how they are prepared.
        """
        splits = [split for split in self._splits(stage) if split not in self.sources]
        self._open(splits, is_made=True)
        for split in splits:
            self.sources[split] = {name: self._opened[split, name] for name in self.nodes[split]}
        if "train" in splits and self.nodes["train"]:
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
        exact = [name for name, n in self.nodes["train"].items() if n.get("has_exact_labels")]
        order = (self.mix, sources, self.cut, self.batch_size, rank, world_size, steps)
        dataset = TrainBatches(*order, self.origin, bad, exact, self._prior())
        return self._loader(dataset, Steps(steps, self._position), workers, is_kept=True)

    def val_dataloader(self) -> list[BatchLoader]:
        """One loader per validation source, in the order of ``val_names``."""
        return self._eval_loaders("val")

    def test_dataloader(self) -> list[BatchLoader]:
        """One loader per test source, in the order of ``test_names``."""
        return self._eval_loaders("test")

    predict_dataloader = test_dataloader

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Normalise the images on the device; they travel as uint8."""
        raw = {name: batch[name] for name in ("image", "keypoint_image") if name in batch}
        bytes_only = {name: image for name, image in raw.items() if image.dtype == torch.uint8}
        return {**batch, **{name: normalize_image(image) for name, image in bytes_only.items()}}

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
        state = {"group_views": False, "prior": {}, **state}  # of before these options
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
        reader = UnitReader(shards, self.eval_cut)
        batch = collate_units([reader.read(i, None) for i in indices], indices)
        return self.on_after_batch_transfer(batch, 0)

    # Parts

    def _splits(self, stage: str | None) -> list[str]:
        if stage is None and self.trainer is not None and self.trainer.state.fn is not None:
            stage = self.trainer.state.fn.value
        fit = ["train", "prior", "val"]
        known = {"fit": fit, "validate": ["val"], "test": ["test"], "predict": ["test"]}
        return known.get(stage or "", [*fit, "test"])

    def _prior(self) -> PosePrior | None:
        nodes, sources = self.nodes["prior"], self.sources["prior"]
        if not nodes:
            return None
        weights = [float(node.get("weight", 1)) for node in nodes.values()]
        return PosePrior(list(nodes), list(sources.values()), weights, self.num_prior, self.seed)

    def _open(self, splits: Sequence[str], is_made: bool) -> None:
        """Open the sources of some maps, those of ``synth`` only if they are made."""
        maps = {split: self.nodes[split] for split in splits}
        missing = open_sources(maps, self._opened, self._opening, is_made)
        if missing:
            drop_missing(maps, missing, self.allow_missing)
            self._has_dropped = True

    def _make_mix(self) -> Mix:
        opened = self.sources["train"]
        counts = [
            num_units(s, self.cut) if isinstance(s, ShardSet) else s.num_units(self.cut.unit)
            for s in opened.values()
        ]
        weights = draw_weights(self.nodes["train"], counts)
        is_grouped = self.group_views and self.cut.unit == "view"
        sources = []
        for (name, source), weight, count in zip(opened.items(), weights, counts, strict=True):
            is_local = isinstance(source, ShardSet)
            groups = views_per_image(source) if is_local and is_grouped else None
            sources.append(MixSource(name, weight, count if is_local else 0, groups))
        mix = Mix(sources, self.seed, self.chunk_size)
        if rank_zero_only.rank == 0:
            level = logging.WARNING if self._has_dropped else logging.INFO
            log.log(level, "%s", format_shares(mix, counts, self.cut.unit))
        return mix

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
            "group_views": any(
                source.group_sizes is not None and int(source.group_sizes.max()) > 1
                for source in self.mix.sources
            ),
            "sources": sources,
            "prior": {name: source.digest() for name, source in self.sources["prior"].items()},
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
            done = self.done.get(name, ()) if split == "test" else ()
            share = (self.batch_size, rank, world_size, bad, done)
            batches = EvalBatches(shards, self.eval_cut, *share)
            steps = Steps(len(batches), lambda: 0)
            loaders.append(self._loader(batches, steps, workers, is_kept=False))
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
