"""Remote shards, streamed in order by webdataset: no random access, so resume is statistical.

webdataset takes the tar apart; the order of the shards, their split over workers and the shuffle
buffer are ours (its own are unseeded, or repeat themselves), and the records of every shard are
counted against the manifest. Nothing is unpickled: ``.decode()`` is never used.
"""

import hashlib
import logging
import random
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

from torch.utils.data import get_worker_info

from hmrkit.data.images import IMAGE_FILES, lazy_images
from hmrkit.data.in_place import TarConverter, count_in_place, decode_in_place
from hmrkit.data.manifest import MANIFEST, parse_manifest
from hmrkit.data.record import LABELS, BadRecord, decode_labels, decode_record
from hmrkit.data.remote import RemoteFile, check_address, is_tar, read_address
from hmrkit.types import Sample

log = logging.getLogger(__name__)

_READ_ERRORS = (OSError, tarfile.TarError, EOFError, zlib.error)


class RemoteStream:
    """Records of one source from addresses of any scheme, endless and shuffled.

    Args:
        path: address of a folder that has ``hmrkit.json``, or of tars (``{000000..000009}.tar``).
        name: the source's name in the mix.
        seed: of the shard order and the shuffle buffer.
        buffer_size: records that a worker shuffles among, undecoded.
        allow_pipe: accept ``pipe:`` addresses. They run a shell command.
        group_views: give the people of an image one after the other.
        converter: reads tars of another format as they are (``in_place.TarConverter``).

    Raises:
        ValueError: for a scheme that is not allowed or not installed.
        FileNotFoundError: if the address of a folder has no manifest.

    Attributes:
        manifest: None if there is none beside the tars: then a lost record cannot be noticed.
    """

    def __init__(
        self,
        path: str,
        name: str,
        seed: int,
        buffer_size: int = 1000,
        allow_pipe: bool = False,
        group_views: bool = False,
        converter: TarConverter | None = None,
    ) -> None:
        from braceexpand import braceexpand

        check_address(path, name, allow_pipe)
        self.name, self.seed, self.buffer_size = name, seed, buffer_size
        self.group_views, self.converter = group_views, converter
        if converter is not None:
            converter.announce()
        is_folder = not path.startswith("pipe:") and not is_tar(path)
        folder = path.rstrip("/") if is_folder else path.rpartition("/")[0]
        self.manifest = None if path.startswith("pipe:") else _fetch_manifest(folder)
        if not is_folder:
            self.urls = list(braceexpand(path))
        elif self.manifest is None:
            raise FileNotFoundError(
                f"source {name!r}: {folder}/{MANIFEST} does not exist: give the address of a "
                "folder of shards, or of the tars (.../{000000..000009}.tar)"
            )
        else:
            self.urls = [f"{folder}/{shard['name']}" for shard in self.manifest["shards"]]
        entries = self.manifest["shards"] if self.manifest else []
        self._expected = {f"{folder}/{entry['name']}": entry["num_records"] for entry in entries}
        if self.manifest is None:
            log.warning("source %r has no %s: lost records cannot be noticed", name, MANIFEST)
        self._units: Iterator[Any] | None = None  # (files, key, address, view), or a BadRecord
        self._last: tuple[dict[str, bytes], Sample] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the iterator behind: every process streams for itself."""
        return {**self.__dict__, "_units": None, "_last": None}

    def num_units(self, unit: str) -> int:
        """Return how many draws one pass is; 0 if unknown."""
        if self.manifest is None:
            return 0
        return self.manifest["num_views" if unit == "view" else "num_records"]

    def digest(self) -> str:
        """Return a hash over the content, or over the addresses where nothing more is known."""
        known = [s["sha256"] for s in self.manifest["shards"]] if self.manifest else self.urls
        return hashlib.sha256("\n".join(known).encode()).hexdigest()

    def next_unit(
        self, unit: str, start: int, rank: int, world_size: int
    ) -> tuple[Sample, int | None, str]:
        """Return the next record, for unit "view" a view of it, and the address of its tar.

        Args:
            unit: "view" or "record".
            start: batch number at which this run began or resumed: each resume gets an order of its
                own, else it would see the first shards again and again.
            rank: of this process.
            world_size: number of processes.

        Raises:
            BadRecord: the next call goes on behind it.
        """
        if self._units is None:
            self._units = self._shuffled(unit, start, rank, world_size)
        item = next(self._units)
        if isinstance(item, BadRecord):
            raise item
        members, key, url, view = item
        if self._last is None or self._last[0] is not members:
            self._last = None
            try:
                sample = self._decode(members, key, url)
            except BadRecord as bad:
                raise BadRecord(url, bad.key, bad.reason, bad.kind) from bad
            self._last = members, {**sample, "source": self.name}
        return self._last[1], view, url

    def _decode(self, members: dict[str, bytes], key: str, url: str) -> Sample:
        if self.converter is None:
            return decode_record(members, lazy_images(url))
        return decode_in_place(self.converter, members, key, lazy_images(url))

    def _views(self, members: dict[str, bytes], key: str, unit: str) -> Sequence[int | None]:
        """What is drawn of an undecoded record; an unreadable one is drawn once, and then fails."""
        if self.converter is None:
            return _views(members) if unit == "view" else (None,)
        try:
            num_people = count_in_place(self.converter, members, key).num_people
        except BadRecord:
            num_people = 1
        return range(num_people) if unit == "view" else (None,) * min(num_people, 1)

    def _shuffled(self, unit: str, start: int, rank: int, world_size: int) -> Iterator[Any]:
        import webdataset

        info = get_worker_info()
        worker, num_workers = (0, 1) if info is None else (info.id, info.num_workers)
        first, step = rank * num_workers + worker, world_size * num_workers
        rng = random.Random(f"{self.seed}/{self.name}/{start}/{first}")
        shuffle = webdataset.shuffle(self.buffer_size, initial=self.buffer_size // 4, rng=rng)
        if not self.group_views:
            return shuffle(
                one for units in self._endless(unit, start, first, step) for one in units
            )
        return (one for units in shuffle(self._endless(unit, start, first, step)) for one in units)

    def _endless(self, unit: str, start: int, first: int, step: int) -> Iterator[list[Any]]:
        """Walk this worker's part of one endless sequence of passes over the shards.

        Yields:
            The units of one image, or of one record without a choice of views, or one
            ``BadRecord`` for what is lost of a shard.
        """
        for number in count(first, step):
            number_of_pass, position = divmod(number, len(self.urls))
            key = f"{self.seed}/{self.name}/{start}/{number_of_pass}"
            order = list(range(len(self.urls)))
            random.Random(key).shuffle(order)
            yield from self._units_of_shard(self.urls[order[position]], unit)

    def _units_of_shard(self, url: str, unit: str) -> Iterator[list[Any]]:
        found, damage, kind = 0, "", "truncated"
        try:
            for key, members in stream_records(url):
                found += 1
                units = [(members, key, url, view) for view in self._views(members, key, unit)]
                is_rig = sum(name.lower().endswith(IMAGE_FILES) for name in members) > 1
                yield from ([one] for one in units) if is_rig else [units]
        except _READ_ERRORS as error:
            damage = f"cannot be read to its end: {error}"
            kind = "file" if isinstance(error, OSError) else "truncated"
        expected = self._expected.get(url)
        if expected is not None and found != expected:
            damage = f"{found} of {expected} records arrived {damage}".strip()
        if damage:
            yield [BadRecord(url, "", damage, kind, max(1, (expected or 0) - found))]


def stream_records(url: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield key and files, ``{extension: content}``, of every record of one remote tar."""
    from webdataset import gopen, tariterators

    stream = gopen(url) if url.startswith("pipe:") else RemoteFile(url)
    with stream:
        files = tariterators.tar_file_expander([{"url": url, "stream": stream}])
        for record in tariterators.group_by_keys(files):
            files_of_record = {name: x for name, x in record.items() if not name.startswith("__")}
            yield record["__key__"], files_of_record


def _views(members: dict[str, bytes]) -> range:
    """Return the views of an undecoded record; unreadable labels count as one, which then fails."""
    try:
        return range(len(decode_labels(members[LABELS])["image_of_view"]))
    except (ValueError, KeyError, TypeError):
        return range(1)


def _fetch_manifest(folder: str) -> dict[str, Any] | None:
    url = f"{folder}/{MANIFEST}"
    try:
        return parse_manifest(read_address(url).decode(), url)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        log.warning("%s; going on as if it were not there", error)
        return None
