"""The index beside a shard: where every file of every record lies in the tar, with its CRC.

``x.tar.index`` is a safetensors file. It makes a read one ``pread``, and it is what notices a loss:
Python's tarfile and webdataset take garbage in the middle of a tar for its end, without a word.
``write_shard`` writes it along with the tar; ``index_shard`` makes it for a tar from elsewhere.
"""

import hashlib
import json
import logging
import os
import re
import secrets
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from hmrkit.data.record import LABELS, SCHEMA_VERSION, decode_labels, labels_present, save_arrays
from hmrkit.types import Sample

log = logging.getLogger(__name__)

BLOCK = 512  # bytes of a tar block
_ARRAYS = (
    "keys",
    "first_member",
    "extension",
    "offset",
    "size",
    "crc",
    "num_views",
)
_SPLIT = re.compile(r"((?:.*/|)[^./]+)\.([^/]+)")  # webdataset's: key, then all after the first dot


@dataclass
class ShardInfo:
    """What is known of one shard, all shapes counted; ``labels`` counts views or people."""

    name: str
    joint_set: str
    num_records: int = 0
    num_people: int = 0
    num_views: int = 0
    num_images: int = 0
    num_bytes: int = 0
    sha256: str = ""
    labels: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    schema_version: int = SCHEMA_VERSION
    origin: str = ""  # of the index of another format's tar (foreign.py): what it was made from
    left_out: dict[str, int] = field(default_factory=dict)  # people of such a tar, by reason

    def count(self, sample: Sample) -> None:
        """Add one complete sample."""
        self.num_records += 1
        self.num_people += len(sample["person_id"])
        self.num_views += len(sample["image_of_view"])
        self.num_images += len(sample["intrinsics"])
        for name, number in labels_present(sample).items():
            self.labels[name] = self.labels.get(name, 0) + number


class Member(NamedTuple):
    """One file inside a tar."""

    name: str
    offset: int  # of its content, bytes from the start of the tar
    size: int
    crc: int


@dataclass
class ShardIndex:
    """The index of one shard in memory; N records, M files."""

    path: Path
    info: ShardInfo
    keys: list[str]  # N
    extensions: list[str]  # the distinct ones
    first_member: np.ndarray  # (N + 1,) record i has the files first_member[i]:first_member[i + 1]
    extension: np.ndarray  # (M,) position in extensions
    offset: np.ndarray  # (M,)
    size: np.ndarray  # (M,)
    crc: np.ndarray  # (M,)
    num_views: np.ndarray  # (N,)


def index_path(shard: Path) -> Path:
    """Return the path of a shard's index."""
    return shard.with_name(shard.name + ".index")


def write_index(
    path: Path,
    info: ShardInfo,
    members: list[Member],
    num_views: list[int],
    target: Path | None = None,
) -> None:
    """Write the index of the shard at ``path``; files of one record are neighbours.

    Args:
        path: the tar.
        info: of the tar.
        members: its files.
        num_views: of every record.
        target: where to; None for beside the tar.
    """
    split = [_SPLIT.fullmatch(member.name) for member in members]
    keys = [match[1] for match in split]  # type: ignore[index]
    extensions = sorted({match[2] for match in split})  # type: ignore[index]
    starts = [i for i, key in enumerate(keys) if i == 0 or key != keys[i - 1]]
    arrays = {
        "keys": np.frombuffer("\n".join(keys[i] for i in starts).encode(), np.uint8),
        "first_member": np.array([*starts, len(keys)], np.int64),
        "extension": np.array([extensions.index(m[2]) for m in split], np.int32),  # type: ignore[index]
        "offset": np.array([m.offset for m in members], np.int64),
        "size": np.array([m.size for m in members], np.int64),
        "crc": np.array([m.crc for m in members], np.uint32),
        "num_views": np.array(num_views, np.int32),
    }
    metadata = {"info": json.dumps(asdict(info)), "extensions": json.dumps(extensions)}
    write_atomically(target or index_path(path), save_arrays(arrays, metadata))


def read_index(path: str | Path, is_short_allowed: bool = False) -> ShardIndex:
    """Read and verify the index of the shard at ``path``.

    Args:
        path: of the tar.
        is_short_allowed: take a tar that ends early, with a warning: what is left of it can be
            read, and each record that is lost is a bad one.

    Raises:
        FileNotFoundError: if the tar or its index is missing.
        ValueError: if the index is damaged, of another schema, or not of this tar.
    """
    path = Path(path)
    remedy = (
        f'make it anew, or python -c "from hmrkit.data.index import *; index_shard({str(path)!r})"'
    )
    if not path.is_file():
        raise FileNotFoundError(f"shard {path} does not exist")
    if not index_path(path).is_file():
        raise FileNotFoundError(f"shard {path} has no index {index_path(path).name}: {remedy}")
    try:
        index = load_index(index_path(path), path)
    except ValueError as error:
        raise ValueError(f"index of shard {path} is damaged ({error}): {remedy}") from error
    info, keys, num_bytes = index.info, index.keys, path.stat().st_size
    if info.schema_version != SCHEMA_VERSION:
        problem = f"has schema {info.schema_version}, this hmrkit reads {SCHEMA_VERSION}"
    elif info.num_bytes != num_bytes and not (is_short_allowed and num_bytes < info.num_bytes):
        problem = f"has {num_bytes} bytes, its index says {info.num_bytes}"
    elif not info.num_records == len(keys) == len(index.first_member) - 1 == len(index.num_views):
        problem = f"counts {info.num_records} records, its index lists {len(keys)}"
    else:
        if num_bytes < info.num_bytes:
            log.warning("shard %s ends %d bytes early", path, info.num_bytes - num_bytes)
        return index
    raise ValueError(f"shard {path} {problem}: {remedy}")


def load_index(file: Path, path: Path) -> ShardIndex:
    """Read an index file of the tar at ``path`` as it is.

    Raises:
        ValueError: if it is no index.
    """
    try:
        with safe_open(file, "numpy") as content:
            metadata = content.metadata()
            arrays = {name: content.get_tensor(name) for name in _ARRAYS}
        info = ShardInfo(**json.loads(metadata["info"]))
        text = arrays.pop("keys").tobytes().decode()
        keys = text.split("\n") if text else []
        return ShardIndex(path, info, keys, json.loads(metadata["extensions"]), **arrays)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(str(error)) from error


def index_shard(path: str | Path) -> ShardInfo:
    """Index a tar that has no index (a download), and say what is wrong with it.

    Records behind garbage are found again by searching for the next header. Incomplete records stay
    in the index, so that reading them fails, is counted and is reported; ``problems`` lists every
    damage and what a webdataset pipeline would have dropped without a word.

    Raises:
        ValueError: if no record is found.
    """
    path = Path(path)
    info = ShardInfo(path.name, "")
    members: list[Member] = []
    num_views: list[int] = []
    with path.open("rb") as file:
        for key, record in list_records(file, info.problems):
            members += record
            num_views.append(_count_record(file, key, record, info))
        info.sha256 = _sha256(file)
    if not members:
        raise ValueError(f"shard {path} holds no record: {info.problems or 'it is empty'}")
    info.num_bytes = path.stat().st_size
    for problem in info.problems:
        log.warning("shard %s: %s", path, problem)
    write_index(path, info, members, num_views)
    return info


def list_records(file: BinaryIO, problems: list[str]) -> Iterator[tuple[str, list[Member]]]:
    """Yield the key and the files of every record of a tar, and append what is wrong with it."""
    found = list(_scan(file, problems))
    dropped = [m.name for m in found if _is_dropped(m.name)]
    if dropped:
        problems.append(f"{len(dropped)} files without a key, such as {dropped[0]!r}")
    kept = (m for m in found if not _is_dropped(m.name))
    seen: set[str] = set()
    for key, group in groupby(kept, key=lambda member: _SPLIT.fullmatch(member.name)[1]):  # type: ignore[index]
        if key in seen:
            problems.append(f"record {key!r} occurs twice or is not contiguous")
        seen.add(key)
        yield key, list(group)


def index_folder(folder: str | Path) -> list[ShardInfo]:
    """Index every tar of a folder that has no index yet."""
    paths = sorted(Path(folder).glob("*.tar"))
    if not paths:
        raise FileNotFoundError(f"no *.tar in {folder}")
    return [index_shard(path) for path in paths if not index_path(path).is_file()]


def _sha256(file: BinaryIO) -> str:
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def _is_dropped(name: str) -> bool:
    return _SPLIT.fullmatch(name) is None or re.match(r"__[^/]*__($|/)", name) is not None


def _count_record(file: BinaryIO, key: str, record: list[Member], info: ShardInfo) -> int:
    """Count one record of a foreign tar and return its number of views."""
    labels = next((m for m in record if m.name.endswith("." + LABELS)), None)
    try:
        if labels is None:
            raise ValueError(f"no {LABELS}, only {[m.name for m in record]}")
        file.seek(labels.offset)
        sample = decode_labels(file.read(labels.size))
        info.count(sample)
    except (ValueError, KeyError, TypeError) as error:
        info.num_records += 1
        info.problems.append(f"record {key!r}: {error}")
        return 0
    info.joint_set = info.joint_set or sample["joint_set"]
    return len(sample["image_of_view"])


def _scan(file: BinaryIO, problems: list[str]) -> Iterator[Member]:
    """Yield every complete file of a tar, also behind garbage, and append what is wrong."""
    end = file.seek(0, os.SEEK_END)
    position: int | None = 0
    num_lost = 0  # files behind the first garbage
    is_damaged = False
    while position is not None and position < end:
        file.seek(position)
        tar = None
        try:
            tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 (the file stays ours)
            while (entry := tar.next()) is not None:
                tar.members = []  # tarfile keeps every entry otherwise
                if not entry.isfile():
                    continue
                if entry.offset_data + entry.size > end:
                    problems.append(f"truncated inside {entry.name!r}")
                    return
                num_lost += is_damaged
                file.seek(entry.offset_data)
                yield Member(entry.name, entry.offset_data, entry.size, _crc(file, entry.size))
            stop = behind = tar.offset
        except tarfile.ReadError:  # at a header, of which what belongs to it is missing
            stop = position if tar is None else tar.offset
            behind = stop + BLOCK
        if stop >= end:
            problems.append("truncated: the mark of its end is missing")
            break
        position = _next_header(file, behind, end)
        if position is not None or _has_content(file, stop, end):
            problems.append(f"garbage at byte {stop}, tarfile takes it for the end")
            is_damaged = True
    if num_lost:
        problems.append(f"webdataset would drop the {num_lost} files behind the garbage, silently")


def _crc(file: BinaryIO, size: int) -> int:
    crc = 0
    while size > 0 and (chunk := file.read(min(size, 1 << 20))):
        crc, size = zlib.crc32(chunk, crc), size - len(chunk)
    return crc


def _has_content(file: BinaryIO, start: int, end: int) -> bool:
    file.seek(start)
    return any(file.read(end - start))


def _next_header(file: BinaryIO, start: int, end: int) -> int | None:
    """Return where the next valid tar header begins, at or behind ``start``; None at the end."""
    file.seek(start)
    for position in range(start, end, BLOCK):
        block = file.read(BLOCK)
        if block[257:262] == b"ustar":
            try:
                tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except tarfile.HeaderError:
                continue
            return position
    return None


def write_atomically(path: Path, data: bytes) -> None:
    """Write a small file so that it is either whole or absent."""
    unique = f"{os.getpid()}-{secrets.token_hex(4)}"  # machines that share a disk share pids too
    temporary = path.with_name(f".{path.name}.{unique}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
    publish(temporary, path)


def publish(temporary: Path, path: Path) -> None:
    """Flush a finished temporary file to the disk and give it its name."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)  # the rename itself must survive a power cut
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
