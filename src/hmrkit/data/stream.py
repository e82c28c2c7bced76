"""Remote shards, streamed in order by webdataset: no random access, so resume is statistical.

webdataset takes the tar apart; the order of the shards, their split over workers and the shuffle
buffer are ours (its own are unseeded, or repeat themselves), and the records of every shard are
counted against the manifest. Nothing is unpickled: ``.decode()`` is never used.
"""

import hashlib
import http.client
import logging
import random
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Iterator
from itertools import count
from typing import Any, BinaryIO

from torch.utils.data import get_worker_info

from hmrkit.data.manifest import MANIFEST, parse_manifest
from hmrkit.data.record import LABELS, BadRecord, decode_labels, decode_record
from hmrkit.types import Sample

log = logging.getLogger(__name__)

ATTEMPTS = 3  # to open an address
TIMEOUT_S = 60.0
_READ_ERRORS = (OSError, http.client.HTTPException, tarfile.TarError, EOFError, zlib.error)


def is_remote(path: Any) -> bool:
    """Tell an address from a path."""
    return isinstance(path, str) and ("://" in path or path.startswith("pipe:"))


class RemoteStream:
    """Records of one source from http(s) addresses, endless and shuffled.

    Args:
        path: address of a folder that has ``hmrkit.json``, or of tars (``{000000..000009}.tar``).
        name: the source's name in the mix.
        seed: of the shard order and the shuffle buffer.
        buffer_size: records that a worker shuffles among, undecoded.
        allow_pipe: accept ``pipe:`` addresses. They run a shell command.

    Raises:
        ValueError: for a scheme that is not allowed.
        FileNotFoundError: if the address of a folder has no manifest.

    Attributes:
        manifest: None if there is none beside the tars: then a lost record cannot be noticed.
    """

    def __init__(
        self, path: str, name: str, seed: int, buffer_size: int = 1000, allow_pipe: bool = False
    ) -> None:
        from braceexpand import braceexpand

        _check_scheme(path, name, allow_pipe)
        self.name, self.seed, self.buffer_size = name, seed, buffer_size
        is_folder = not path.startswith("pipe:") and not urllib.parse.urlsplit(path).path.endswith(
            ".tar"
        )
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
        self._units: Iterator[tuple[dict[str, bytes], int | None] | BadRecord] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the iterator behind: every process streams for itself."""
        return {**self.__dict__, "_units": None}

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
    ) -> tuple[Sample, int | None]:
        """Return the next record and, for unit "view", a view of it.

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
        members, url, view = item
        try:
            return {**decode_record(members), "source": self.name}, view
        except BadRecord as bad:
            raise BadRecord(url, bad.key, bad.reason, bad.kind) from bad

    def _shuffled(self, unit: str, start: int, rank: int, world_size: int) -> Iterator[Any]:
        import webdataset

        info = get_worker_info()
        worker, num_workers = (0, 1) if info is None else (info.id, info.num_workers)
        first, step = rank * num_workers + worker, world_size * num_workers
        rng = random.Random(f"{self.seed}/{self.name}/{start}/{first}")
        shuffle = webdataset.shuffle(self.buffer_size, initial=self.buffer_size // 4, rng=rng)
        return shuffle(self._endless(unit, start, first, step))

    def _endless(self, unit: str, start: int, first: int, step: int) -> Iterator[Any]:
        """Walk this worker's part of one endless sequence of passes over the shards."""
        for number in count(first, step):
            number_of_pass, position = divmod(number, len(self.urls))
            key = f"{self.seed}/{self.name}/{start}/{number_of_pass}"
            order = list(range(len(self.urls)))
            random.Random(key).shuffle(order)
            yield from self._units_of_shard(self.urls[order[position]], unit)

    def _units_of_shard(self, url: str, unit: str) -> Iterator[Any]:
        found, damage, kind = 0, "", "truncated"
        try:
            for members in stream_records(url):
                found += 1
                views: Any = (None,)
                if unit == "view":
                    views = _views(members)
                yield from ((members, url, view) for view in views)
        except urllib.error.URLError as error:
            damage, kind = f"cannot be opened: {error}", "file"
        except _READ_ERRORS as error:
            damage = f"cannot be read to its end: {error}"
        expected = self._expected.get(url)
        if expected is not None and found != expected:
            damage = f"{found} of {expected} records arrived {damage}".strip()
        if damage:
            yield BadRecord(url, "", damage, kind, max(1, (expected or 0) - found))


def stream_records(url: str) -> Iterator[dict[str, bytes]]:
    """Yield the files of every record of one remote tar, ``{extension: content}``."""
    from webdataset import gopen, tariterators

    stream = gopen(url) if url.startswith("pipe:") else _open(url)
    with stream:
        files = tariterators.tar_file_expander([{"url": url, "stream": stream}])
        for record in tariterators.group_by_keys(files):
            yield {name: data for name, data in record.items() if not name.startswith("__")}


def _views(members: dict[str, bytes]) -> range:
    """Return the views of an undecoded record; unreadable labels count as one, which then fails."""
    try:
        return range(len(decode_labels(members[LABELS])["image_of_view"]))
    except (ValueError, KeyError, TypeError):
        return range(1)


def _check_scheme(path: str, name: str, allow_pipe: bool) -> None:
    scheme = path.partition(":")[0]
    if scheme == "pipe" and not allow_pipe:
        raise ValueError(
            f"source {name!r}: {path!r} runs a shell command; set data.allow_pipe=true to allow it"
        )
    if scheme not in ("http", "https", "pipe"):
        raise ValueError(
            f"source {name!r}: cannot stream {path!r}: use a local path or an http(s) address"
        )


def _fetch_manifest(folder: str) -> dict[str, Any] | None:
    url = f"{folder}/{MANIFEST}"
    try:
        with _open(url) as response:
            return parse_manifest(response.read().decode(), url)
    except urllib.error.HTTPError as error:
        if error.code in (403, 404):  # object stores answer 403 for what is not there
            return None
        raise ConnectionError(f"{url}: {error}") from error
    except urllib.error.URLError as error:
        raise ConnectionError(f"{url} cannot be reached: {error.reason}") from error


def _open(url: str) -> BinaryIO:
    for attempt in range(ATTEMPTS):
        try:
            return urllib.request.urlopen(url, timeout=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            if error.code < 500 or attempt == ATTEMPTS - 1:
                raise
        except urllib.error.URLError:
            if attempt == ATTEMPTS - 1:
                raise
        time.sleep(2**attempt)
    raise AssertionError("unreachable")
