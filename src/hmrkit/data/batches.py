"""Batches by number: batch b of a run is a pure function of (seed, b), whoever makes it."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Protocol

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, get_worker_info

from hmrkit.data.bad import BadRecords, TooManyBadRecordsError
from hmrkit.data.collate import collate
from hmrkit.data.images import IMAGE_FILES
from hmrkit.data.machine import keep_freed_memory
from hmrkit.data.mix import Mix
from hmrkit.data.prior import PosePrior
from hmrkit.data.record import BadRecord, Unusable
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


class UnitReader:
    """Reads and cuts units of one source: views or records, as the cut says.

    The last record is kept with what was decoded of its images: its other people often come next
    (evaluation, ``group_views``), and are then cut from the same pixels.
    """

    def __init__(self, shards: ShardSet, cut: Cut) -> None:
        self.shards, self.cut = shards, cut
        self._last: tuple[int, Sample] | None = None

    def __getstate__(self) -> dict[str, object]:
        """Leave the record behind: it would travel to every worker."""
        return {**self.__dict__, "_last": None}

    def read(self, unit: int, rng: np.random.Generator | None) -> Sample:
        """Read unit ``unit`` and cut it, augmented if there is an ``rng``.

        Raises:
            BadRecord: if the record is unusable.
            RuntimeError: if the cut fails for a reason of its own, naming the record.
        """
        is_view = self.cut.unit == "view"
        record, view = self.shards.locate_view(unit) if is_view else (unit, None)
        if self._last is None or self._last[0] != record:
            self._last = None  # frees the pixels before the next ones are decoded
            self._last = record, self.shards.read(record, is_lazy=True)
        sample = self._last[1]
        if not is_view:
            self._last = None
        shard = self.shards.shards[self.shards.locate(record)[0]]
        return cut_sample(sample, view, self.cut, rng, str(shard.path))


def cut_sample(
    sample: Sample, view: int | None, cut: Cut, rng: np.random.Generator | None, shard: str
) -> Sample:
    """Apply a cut, and let go of the source images: a batch of them is hundreds of megabytes.

    Raises:
        BadRecord: of kind "cut", if it is the record that is unusable.
        RuntimeError: if the cut fails for another reason, naming the record.
    """
    try:
        done = cut(sample, view, rng)
    except (Unusable, np.linalg.LinAlgError) as error:  # no code is wrong if a matrix is singular
        raise BadRecord(shard, sample["key"], str(error), "cut") from error
    except (ValueError, LookupError, ArithmeticError, cv2.error) as error:
        where = f"source {sample['source']!r}, record {sample['key']!r}, view {view}"
        raise RuntimeError(
            f"{where}: the cut failed: {error}. (A cut that cannot use a record's content raises "
            "hmrkit.data.record.Unusable: then the record is skipped and counted.)"
        ) from error
    return {name: value for name, value in done.items() if name != "images"}  # type: ignore[return-value]


def num_units(shards: ShardSet, cut: Cut) -> int:
    """Return how many draws one pass over a source is."""
    return shards.num_views if cut.unit == "view" else len(shards)


def views_per_image(shards: ShardSet) -> np.ndarray:
    """Sizes of the groups of views that share an image, in order.

    In a record of several images every view is a group of its own: cameras of a rig show the same
    people at the same moment, which are better kept apart.
    """
    groups = []
    for shard in shards.shards:
        is_image = np.array([e.lower().endswith(IMAGE_FILES) for e in shard.extensions])
        images = np.add.reduceat(is_image[shard.extension].astype(int), shard.first_member[:-1])
        is_rig = images > 1
        sizes = np.where(is_rig, 1, shard.num_views)
        groups.append(np.repeat(sizes, np.where(is_rig, shard.num_views, 1)))
    return np.concatenate(groups)


def collate_units(
    samples: Sequence[Sample], units: Sequence[int], exact_sources: Collection[str] = ()
) -> Batch:
    """Collate whole units; say which, ``unit`` (n,), and of which everybody is, ``index`` (P,)."""
    num_people = [len(sample["has_pose"]) for sample in samples]
    index = torch.from_numpy(np.repeat(np.asarray(units, np.int64), num_people))
    unit = torch.from_numpy(np.asarray(units, np.int64))
    return {**collate(samples, exact_sources), "index": index, "unit": unit}


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
        exact_sources: names of sources whose bodies are measured, not fitted.
        prior: where ``Batch.prior`` comes from, or None.
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
        exact_sources: Collection[str] = (),
        prior: PosePrior | None = None,
    ) -> None:
        self.mix, self.cut, self.bad = mix, cut, bad
        self.exact_sources, self.prior = exact_sources, prior
        self.readers = [UnitReader(s, cut) if isinstance(s, ShardSet) else s for s in sources]
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
        samples = [self.sample(t) for t in range(start, start + self.batch_size)]
        batch = collate(samples, self.exact_sources)
        if self.prior is not None:
            batch["prior"] = self.prior.draw(start, self.batch_size)
        return batch

    def sample(self, t: int) -> Sample:
        """Return sample t; others of its source, always the same, stand in for a bad record."""
        source, unit = self.mix.draw(t)
        reader = self.readers[source]
        for attempt in range(MAX_ATTEMPTS):
            self.bad.drawn(source)
            try:
                rng = self.mix.augmentation(t)
                if isinstance(reader, UnitReader):
                    return reader.read(unit, rng)
                sample, view, url = reader.next_unit(
                    self.cut.unit, self._start, self.rank, self.world_size
                )
                return cut_sample(sample, view, self.cut, rng, url)
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

    Args:
        shards: the source.
        cut: makes samples.
        batch_size: per process.
        rank: of this process, of ``world_size``.
        world_size: number of processes.
        bad: counters.
        done: units that an earlier try has evaluated: they are left out.

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
        done: Collection[int] = (),
    ) -> None:
        self.reader, self.bad = UnitReader(shards, cut), bad
        left = np.setdiff1d(np.arange(num_units(shards, cut)), np.asarray(done, np.int64))
        total = len(left)
        if total < world_size and not (total == 0 and len(done)):
            raise ValueError(
                f"source {shards.name!r}: {total} units for {world_size} processes: "
                "evaluate with trainer.devices=1"
            )
        largest = -(-total // world_size)
        num_batches = min(-(-largest // batch_size), total // world_size)
        self.units = np.array_split(left[rank::world_size], num_batches) if total else []

    def __len__(self) -> int:
        return len(self.units)

    def __getitem__(self, number: int) -> Batch:
        samples, units = [], []
        for unit in self.units[number].tolist():
            self.bad.drawn(0)
            try:
                samples.append(self.reader.read(unit, None))
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
    keep_freed_memory()
