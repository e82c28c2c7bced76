"""Bad records: counted by (source, shard, kind) across workers, logged once per shard, limited."""

import logging
from collections.abc import Mapping, Sequence

import torch
from torch.utils.data import get_worker_info

from hmrkit.data.record import BadRecord

log = logging.getLogger(__name__)

MESSAGE_BYTES = 200
MAX_LIST = 20  # lines of the list in an error


class TooManyBadRecordsError(ValueError):
    """More than ``max_bad`` of a source is unusable; the message lists where."""


class BadRecords:
    """Counters in shared memory: workers add, the main process checks.

    Args:
        shards: every source's shards, by path or address.
        num_units: every source's number of units on this rank, 0 if unknown.
        num_workers: of the loader.
        max_bad: largest fraction of a source that may be bad. It is taken of the units drawn, but
            at least of the source's units (at most 10 000 of them), so one bad record of a small
            source does not stop a run at its first draw.
    """

    def __init__(
        self,
        shards: Mapping[str, Sequence[str]],
        num_units: Sequence[int],
        num_workers: int,
        max_bad: float,
    ) -> None:
        self.max_bad = max_bad
        self.names = list(shards)
        self._rows = [(name, shard) for name, paths in shards.items() for shard in paths]
        self._row_of = {row: i for i, row in enumerate(self._rows)}
        self._floor = [min(max(n, 1), 10_000) if n else 10_000 for n in num_units]
        slots = max(1, num_workers)  # one per worker: no two processes write the same cell
        self._drawn = torch.zeros(slots, len(self.names), dtype=torch.int64).share_memory_()
        self._bad = torch.zeros_like(self._drawn).share_memory_()
        kinds = len(BadRecord.KINDS)
        self._table = torch.zeros(slots, len(self._rows), kinds, dtype=torch.int32).share_memory_()
        size = (len(self._rows), MESSAGE_BYTES)
        self._message = torch.zeros(size, dtype=torch.uint8).share_memory_()
        self._logged: set[int] = set()
        self._checked = 0

    def drawn(self, source: int) -> None:
        """Count a draw (in a worker)."""
        self._drawn[_slot(), source] += 1

    def add(self, source: int, bad: BadRecord) -> None:
        """Count a bad record (in a worker)."""
        row = self._row_of[self.names[source], bad.shard]
        self._table[_slot(), row, BadRecord.KINDS.index(bad.kind)] += bad.number
        self._bad[_slot(), source] += bad.number
        text = f"{bad.key}: {bad.reason}".encode()[:MESSAGE_BYTES]
        if self._message[row, 0] == 0:
            self._message[row, : len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)

    @property
    def total(self) -> int:
        """All bad records so far."""
        return int(self._bad.sum())

    def counts(self) -> dict[tuple[str, str, str], int]:
        """Return ``{(source, shard, kind): number}``."""
        table = self._table.sum(0)
        return {
            (*self._rows[row], BadRecord.KINDS[kind]): int(table[row, kind])
            for row, kind in table.nonzero().tolist()
        }

    def check(self) -> None:
        """Log shards that turned bad since the last call (in the main process).

        Raises:
            TooManyBadRecordsError: if a source is over the limit.
        """
        total = self.total
        if total == self._checked:
            return
        self._checked = total
        for row in self._table.sum((0, 2)).nonzero().flatten().tolist():
            if row not in self._logged:
                self._logged.add(row)
                log.warning(
                    "bad record skipped: %s (later ones of this shard: counted)", self._line(row)
                )
        bad, drawn = self._bad.sum(0).tolist(), self._drawn.sum(0).tolist()
        for source, floor in enumerate(self._floor):
            if bad[source] > self.max_bad * max(drawn[source], floor):
                self._stop(source, bad[source], drawn[source])

    def _line(self, row: int) -> str:
        source, shard = self._rows[row]
        message = bytes(self._message[row].tolist()).rstrip(b"\0").decode(errors="replace")
        counts = self._table[:, row].sum(0).tolist()
        kinds = ", ".join(f"{n} {k}" for k, n in zip(BadRecord.KINDS, counts, strict=True) if n)
        return f"source {source!r}, {shard}: {kinds}; first: {message}"

    def _stop(self, source: int, bad: int, drawn: int) -> None:
        name = self.names[source]
        rows = [row for row in sorted(self._logged) if self._rows[row][0] == name]
        lines = [self._line(row) for row in rows[:MAX_LIST]]
        if len(rows) > MAX_LIST:
            lines.append(f"and {len(rows) - MAX_LIST} more shards")
        raise TooManyBadRecordsError(
            f"source {name!r}: {bad} bad records in {drawn} draws, more than "
            f"max_bad={self.max_bad:g}. "
            "Make or fetch these shards again, or raise data.max_bad:\n  " + "\n  ".join(lines)
        )


def _slot() -> int:
    info = get_worker_info()
    return 0 if info is None else info.id
