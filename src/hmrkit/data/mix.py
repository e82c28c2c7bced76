"""The weighted mix of sources: sample t of a run is a pure function of (seed, t).

Nothing here has state, so any number of workers and ranks can share one sequence, and a run resumes
at any t. Every random draw is a Philox generator whose 128 bit key names what it is for: the seed
and the purpose in one half, the block, pass or sample number in the other.
"""

import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

BLOCK_SIZE = 1000  # slots; a source's share is exact in every block
_NUM_PURPOSES = 8  # room in the key
_BLOCK, _PASS, _AUGMENT, _RESERVE = range(4)


class MixSource(NamedTuple):
    """One source of a mix."""

    name: str
    weight: float  # relative to the others
    num_units: int  # what one draw takes: views or records; 0 for a stream of unknown length
    group_sizes: np.ndarray | None = None  # units of every group, in order; None for no groups


class Mix:
    """A never-ending sequence of draws.

    Per block of 1000 draws every source gets an exact integer quota, in shuffled order. A source is
    walked in passes, each a new permutation, so that every unit comes once per pass. Where a source
    has groups (the people of one image), it is the groups that are permuted: units of one group
    stay next to each other.

    Args:
        sources: in the order of the mix.
        seed: 0 to 2**60.
        chunk_size: 0 shuffles each pass freely. 64 keeps runs of 64 neighbours (units, or groups)
            near each other (16 runs at a time are shuffled together), for disks and network file
            systems where a read at a random place is slow.

    Raises:
        ValueError: for no source, a weight <= 0, or one too small for a slot in 1000.
    """

    def __init__(self, sources: Sequence[MixSource], seed: int, chunk_size: int = 0) -> None:
        if not sources:
            raise ValueError("a mix needs at least one source")
        if not 0 <= seed < 2**60:
            raise ValueError(f"seed {seed} is not in 0..2**60")
        self.sources = list(sources)
        self.seed = seed
        self.chunk_size = chunk_size
        self.quotas = _quotas(self.sources)  # (S,) slots per block
        self._slots = lru_cache(maxsize=8)(self._shuffled_slots)
        self._permutation = lru_cache(maxsize=2 * len(sources))(self._pass_order)

    def __reduce__(self) -> tuple:
        """Pickle without the caches (workers started by spawn)."""
        return Mix, (self.sources, self.seed, self.chunk_size)

    def draw(self, t: int) -> tuple[int, int]:
        """Return (source, unit) of draw t; unit -1 for a source of unknown length."""
        block, slot = divmod(t, BLOCK_SIZE)
        source_of_slot, rank_of_slot = self._slots(block)
        source = int(source_of_slot[slot])
        count = block * int(self.quotas[source]) + int(rank_of_slot[slot])
        num_units = self.sources[source].num_units
        if num_units == 0:
            return source, -1
        number, position = divmod(count, num_units)
        return source, int(self._permutation(source, number)[position])

    def reserve(self, t: int, attempt: int) -> int:
        """Return the unit that replaces draw t, from the same source, if its record is bad.

        Args:
            t: the draw.
            attempt: 0 for the first replacement, 1 if that is bad too, ...
        """
        source, _ = self.draw(t)
        units = self._generator(_RESERVE, t).integers(
            self.sources[source].num_units, size=attempt + 1
        )
        return int(units[-1])

    def augmentation(self, t: int) -> np.random.Generator:
        """Return the generator that the cut of draw t uses, whatever record fills it."""
        return self._generator(_AUGMENT, t)

    def _generator(self, purpose: int, number: int) -> np.random.Generator:
        key = np.array([self.seed * _NUM_PURPOSES + purpose, number], np.uint64)
        return np.random.Generator(np.random.Philox(key=key))

    def _shuffled_slots(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Return, per slot, its source and how many slots of that source come before it."""
        source = np.repeat(np.arange(len(self.sources)), self.quotas)
        rank = np.concatenate([np.arange(quota) for quota in self.quotas])
        source = self._generator(_BLOCK, block).permutation(source)
        order = np.argsort(source, kind="stable")
        rank_of_slot = np.empty_like(rank)
        rank_of_slot[order] = rank
        return source, rank_of_slot

    def _pass_order(self, source: int, number: int) -> np.ndarray:
        """Return the permutation of a source's units in its pass ``number``."""
        name, _, num_units, sizes = self.sources[source]
        # The name, not the position, is in the key: dropping a source leaves the others' order.
        rng = self._generator(_PASS, zlib.crc32(name.encode()) << 32 | number)
        if sizes is None:
            return self._shuffled(rng, num_units)
        groups = self._shuffled(rng, len(sizes))
        first, counts = (np.cumsum(sizes) - sizes)[groups], sizes[groups]
        starts = np.repeat(first - (np.cumsum(counts) - counts), counts)
        return (starts + np.arange(num_units)).astype(np.int32)

    def _shuffled(self, rng: np.random.Generator, num_units: int) -> np.ndarray:
        if self.chunk_size == 0:
            return rng.permutation(num_units).astype(np.int32)
        starts = rng.permutation(np.arange(0, num_units, self.chunk_size, dtype=np.int32))
        order = (starts[:, None] + np.arange(self.chunk_size, dtype=np.int32)).ravel()
        order = order[order < num_units]  # the last run may be short
        window = 16 * self.chunk_size
        for begin in range(0, num_units, window):
            rng.shuffle(order[begin : begin + window])
        return order


def _quotas(sources: Sequence[MixSource]) -> np.ndarray:
    """Share BLOCK_SIZE slots by weight: floors first, then the largest remainders."""
    for name, weight, num_units, _ in sources:
        if not weight > 0 or not np.isfinite(weight):
            raise ValueError(
                f"source {name!r}: weight {weight} must be > 0 (~mix.train.{name} drops it)"
            )
        if num_units < 0:
            raise ValueError(f"source {name!r} is empty")
    weights = np.array([source.weight for source in sources], np.float64)
    exact = weights / weights.sum() * BLOCK_SIZE
    quotas = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(quotas - exact, kind="stable")
    quotas[by_remainder[: BLOCK_SIZE - quotas.sum()]] += 1
    if (quotas == 0).any():
        name = sources[int(np.argmin(quotas))].name
        raise ValueError(
            f"source {name!r}: its share is under 1/{BLOCK_SIZE}, it would never be drawn"
        )
    return quotas
