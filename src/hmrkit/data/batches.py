"""Batches by number: batch b of a run is a pure function of (seed, b), whoever makes it."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, get_worker_info

from hmrkit.data.bad import BadRecords, TooManyBadRecordsError
from hmrkit.data.collate import collate
from hmrkit.data.mix import Mix
from hmrkit.data.record import BadRecord
from hmrkit.data.shards import ShardSet
from hmrkit.data.stream import RemoteStream
from hmrkit.types import Batch, Sample

MAX_ATTEMPTS = 10  # replacements in a row before a source counts as unusable


class Cut(Protocol):
    """What turns a record into the network's input (data/crops.py, scenes.py, ...)."""

    unit: str  # "view" or "record": what one draw is

    def __call__(self, sample: Sample, view: int | None, rng: np.random.Generator | None) -> Sample:
        """Cut one unit; no ``rng``, no augmentation."""
        ...


def read_unit(shards: ShardSet, unit: int, cut: Cut, rng: np.random.Generator | None) -> Sample:
    """Read unit ``unit`` (a view or a record, as the cut says) and cut it.

    Raises:
        BadRecord: if the record is unusable.
        RuntimeError: if the cut fails, naming the record.
    """
    record, view = shards.locate_view(unit) if cut.unit == "view" else (unit, None)
    return cut_sample(shards.read(record), view, cut, rng)


def cut_sample(
    sample: Sample, view: int | None, cut: Cut, rng: np.random.Generator | None
) -> Sample:
    """Apply a cut and name the record if that fails."""
    try:
        return cut(sample, view, rng)
    except (ValueError, LookupError, ArithmeticError, cv2.error) as error:
        where = f"source {sample['source']!r}, record {sample['key']!r}, view {view}"
        raise RuntimeError(f"{where}: the cut failed: {error}") from error


def num_units(shards: ShardSet, cut: Cut) -> int:
    """Return how many draws one pass over a source is."""
    return shards.num_views if cut.unit == "view" else len(shards)


def collate_units(samples: Sequence[Sample], units: Sequence[int]) -> Batch:
    """Collate whole units and say for every person of which unit they are, ``index`` (P,)."""
    num_people = [len(sample["has_pose"]) for sample in samples]
    index = torch.from_numpy(np.repeat(np.asarray(units, np.int64), num_people))
    return {**collate(samples), "index": index}


class TrainBatches(Dataset[Batch]):
    """Item b is batch b of this rank: samples t of the mix, augmented, collated.

    Args:
        mix: the sequence of draws.
        sources: readers, in the mix's order: ``ShardSet`` or a remote stream (stream.py).
        cut: makes samples.
        batch_size: per process.
        rank: of this process, of ``world_size``.
        world_size: number of processes.
        steps_per_epoch: only for samplers of other people (Lightning's ``overfit_batches``).
        origin: (batch number, sample number) from where batches are counted.
        bad: counters.
    """

    def __init__(
        self,
        mix: Mix,
        sources: Sequence[ShardSet | RemoteStream],
        cut: Cut,
        batch_size: int,
        rank: int,
        world_size: int,
        steps_per_epoch: int,
        origin: tuple[int, int],
        bad: BadRecords,
    ) -> None:
        self.mix, self.sources, self.cut, self.bad = mix, sources, cut, bad
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.steps_per_epoch = steps_per_epoch
        self.origin = origin
        self._start: int | None = None  # batch number that this process's workers began at

    def __len__(self) -> int:
        return self.steps_per_epoch

    def first_sample(self, step: int) -> int:
        """Return the number of the first sample of batch ``step``, over all ranks."""
        return self.origin[1] + (step - self.origin[0]) * self.batch_size * self.world_size

    def __getitem__(self, step: int) -> Batch:
        if self._start is None:
            info = get_worker_info()
            self._start = step - (0 if info is None else info.id)
        start = self.first_sample(step) + self.rank * self.batch_size
        return collate([self.sample(t) for t in range(start, start + self.batch_size)])

    def sample(self, t: int) -> Sample:
        """Return sample t; others of its source, always the same, stand in for a bad record."""
        source, unit = self.mix.draw(t)
        reader = self.sources[source]
        for attempt in range(MAX_ATTEMPTS):
            self.bad.drawn(source)
            try:
                rng = self.mix.augmentation(t)
                if isinstance(reader, ShardSet):
                    return read_unit(reader, unit, self.cut, rng)
                sample, view = reader.next_unit(
                    self.cut.unit, self._start, self.rank, self.world_size
                )
                return cut_sample(sample, view, self.cut, rng)
            except BadRecord as error:
                self.bad.add(source, error)
                last = error
            if unit >= 0:
                unit = self.mix.reserve(t, attempt)
        raise TooManyBadRecordsError(
            f"source {self.mix.sources[source].name!r}: {MAX_ATTEMPTS} bad records in a row; "
            f"last: {last}"
        )


class EvalBatches(Dataset[Batch]):
    """Every unit of one source once over all ranks, in order; rank r takes units r, r + W, ...

    All ranks have the same number of batches, whose sizes differ by one at most: with distributed
    training a rank with fewer batches would leave the others waiting in a collective for ever.

    Raises:
        ValueError: if there are fewer units than processes.
    """

    def __init__(
        self,
        shards: ShardSet,
        cut: Cut,
        batch_size: int,
        rank: int,
        world_size: int,
        bad: BadRecords,
    ) -> None:
        self.shards, self.cut, self.bad = shards, cut, bad
        total = num_units(shards, cut)
        if total < world_size:
            raise ValueError(
                f"source {shards.name!r}: {total} units for {world_size} processes: "
                "evaluate with trainer.devices=1"
            )
        largest = -(-total // world_size)
        num_batches = min(-(-largest // batch_size), total // world_size)
        self.units = np.array_split(np.arange(rank, total, world_size), num_batches)

    def __len__(self) -> int:
        return len(self.units)

    def __getitem__(self, number: int) -> Batch:
        samples, units = [], []
        for unit in self.units[number].tolist():
            self.bad.drawn(0)
            try:
                samples.append(read_unit(self.shards, unit, self.cut, None))
                units.append(unit)
            except BadRecord as error:
                self.bad.add(0, error)
                last = error
        if not samples:
            raise TooManyBadRecordsError(f"every record of a batch is bad; last: {last}")
        return collate_units(samples, units)


class Steps(DistributedSampler[int]):
    """The batch numbers of one epoch, from wherever the run is when the epoch's iterator is made.

    It is a DistributedSampler by name only: Lightning leaves those alone, and would otherwise deal
    the batches out over ranks a second time.
    """

    def __init__(self, length: int, start: Callable[[], int]) -> None:
        self.length, self.start = length, start

    def __iter__(self) -> Iterator[int]:
        start = self.start()
        return iter(range(start, start + self.length))

    def __len__(self) -> int:
        return self.length

    def set_epoch(self, epoch: int) -> None:
        """Ignore the epoch: batch numbers never start again."""


class BatchLoader(DataLoader):
    """A DataLoader over batches by number that checks the counters of bad records after each."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        return self._checked(super().__iter__())  # workers start now, not at the first batch

    def _checked(self, iterator: Iterator[Batch]) -> Iterator[Batch]:
        for batch in iterator:
            self.dataset.bad.check()
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return nothing: the position lives in the data module. Tells Lightning "resumable"."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Accept what ``state_dict`` returned."""


def start_worker(worker: int) -> None:
    """Keep a worker on one thread; the cores are shared out by the number of workers."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
