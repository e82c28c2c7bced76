"""Shards: tar files of records, written whole or not at all, read in any order.

``write_shard`` makes ``x.tar`` and, last, ``x.tar.index``; ``write_manifest`` sums up a folder of
them in ``hmrkit.json``; ``ShardSet`` reads records by number. The tars are plain webdataset tars.
What the bytes mean is in record.py and docs/shards.md.
"""

import hashlib
import os
import re
import tarfile
import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hmrkit.body import joints
from hmrkit.data.images import lazy_images
from hmrkit.data.in_place import decode_in_place
from hmrkit.data.index import (
    BLOCK,
    Member,
    ShardIndex,
    ShardInfo,
    index_folder,
    index_path,
    index_shard,
    publish,
    read_index,
    write_index,
)
from hmrkit.data.manifest import (
    MAKING,
    MANIFEST,
    PREPARING,
    compare,
    read_manifest,
    shard_entry,
    totals,
    write_manifest,
)
from hmrkit.data.record import (
    IMAGE_FORMATS,
    SCHEMA_VERSION,
    BadRecord,
    complete_sample,
    decode_record,
    encode_record,
)
from hmrkit.data.tar_index import open_tars
from hmrkit.types import Sample

__all__ = [
    "BadRecord",
    "ShardInfo",
    "ShardSet",
    "index_folder",
    "index_shard",
    "read_manifest",
    "write_encoded_shard",
    "write_manifest",
    "write_shard",
]

MAX_OPEN_FILES = 64


def write_shard(
    path: str | Path,
    samples: Iterable[Sample],
    joint_set: str,
    image_format: str = "jpg",
    quality: int = 92,
) -> ShardInfo:
    """Write one shard and its index; the same samples give the same bytes.

    A killed writer leaves a hidden temporary file at most, or a whole tar without an index, which
    no reader takes for a shard.

    Args:
        path: ``*.tar``; its folder is created.
        samples: fields that a sample leaves out are written as absent (``record.complete_sample``).
        joint_set: joint set of the keypoints, by name.
        image_format: ``jpg`` (4:2:0) or ``png``; images given as file bytes are kept as they are.
        quality: JPEG quality.

    Raises:
        ValueError: naming the key and field of a sample that breaks the schema; no file is left.
    """
    if image_format not in IMAGE_FORMATS:
        raise ValueError(f"image_format={image_format!r}: expected one of {IMAGE_FORMATS}")

    def encoded() -> Iterator[tuple[Sample, dict[str, bytes]]]:
        for partial in samples:
            sample = complete_sample(partial, joint_set)
            yield sample, encode_record(sample, image_format, quality)

    return write_encoded_shard(path, encoded(), joint_set)


def write_encoded_shard(
    path: str | Path, records: Iterable[tuple[Sample, dict[str, bytes]]], joint_set: str
) -> ShardInfo:
    """Write one shard and its index, as ``write_shard``, of complete samples and their files.

    Args:
        path: ``*.tar``; its folder is created.
        records: complete samples with what ``record.encode_record`` made of them.
        joint_set: of every sample.
    """
    path = Path(path)
    if path.suffix != ".tar":
        raise ValueError(f"cannot write {path}: the name of a shard ends in .tar")
    joints.names(joint_set)  # unknown joint set: raise before anything is written
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        info, members, num_views = _write_tar(temporary, records, joint_set)
        info.name = path.name
        index_path(path).unlink(missing_ok=True)  # an old index must not outlive its tar
        publish(temporary, path)
        write_index(path, info, members, num_views)
    finally:
        temporary.unlink(missing_ok=True)
    return info


def _write_tar(
    path: Path, records: Iterable[tuple[Sample, dict[str, bytes]]], joint_set: str
) -> tuple[ShardInfo, list[Member], list[int]]:
    info = ShardInfo("", joint_set)
    members: list[Member] = []
    num_views: list[int] = []
    seen: set[str] = set()
    digest = hashlib.sha256()
    with path.open("wb") as file:

        def put(data: bytes) -> None:
            file.write(data)
            digest.update(data)

        for sample, files in records:
            key = sample["key"]
            if key in seen:
                raise ValueError(f"record {key!r} occurs twice in one shard")
            seen.add(key)
            for extension, data in files.items():
                entry = tarfile.TarInfo(f"{key}.{extension}")  # mtime, uid, gid 0: same bytes
                entry.size = len(data)
                put(entry.tobuf(tarfile.USTAR_FORMAT))
                members.append(Member(entry.name, file.tell(), entry.size, zlib.crc32(data)))
                put(data + bytes(-len(data) % BLOCK))
            info.count(sample)
            num_views.append(len(sample["image_of_view"]))
        put(bytes(2 * BLOCK))
        info.num_bytes = file.tell()
    if not seen:
        raise ValueError("a shard needs at least one sample")
    info.sha256 = digest.hexdigest()
    return info, members, num_views


class ShardSet:
    """Records of one source by number, from any process.

    Args:
        path: a folder, a ``.tar``, a pattern with ``*`` or ``{0..9}``, or a list of those.
        name: the source's name in the mix; it replaces the stored one in every sample.
        converter: reads tars of another format as they are (``in_place.TarConverter``); their
            indices are made where they are missing.

    Raises:
        FileNotFoundError: naming source, path and remedy.
        ValueError: if manifest, indices and files disagree.

    Attributes:
        manifest: ``hmrkit.json`` of the folder, or the same made from the indices.
        num_views: all views of all records.
        joint_set: of the records.
    """

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        name: str | None = None,
        converter: Any = None,
    ) -> None:
        self.name, self.converter = name, converter
        paths, stored = _find_shards(path, name, converter)
        if converter is None:
            self.shards: list[ShardIndex] = [read_index(shard, True) for shard in paths]
        else:
            self.shards = open_tars(paths, converter, name)
        infos = [shard.info for shard in self.shards]
        if stored is not None:
            compare(stored, infos, path)
        joint_sets = sorted({info.joint_set for info in infos})
        if len(joint_sets) > 1:
            raise ValueError(f"source {name or path}: shards of several joint sets {joint_sets}")
        self.joint_set = joint_sets[0]
        self.manifest: dict[str, Any] = stored or {
            "schema_version": SCHEMA_VERSION,
            "source": name,
            "kind": getattr(converter, "kind", None),
            "joint_set": self.joint_set,
            **totals(infos),
            "shards": [shard_entry(info) for info in infos],
        }
        self.num_views: int = sum(info.num_views for info in infos)
        self._first = np.cumsum([0] + [info.num_records for info in infos]).tolist()
        self._files: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return self._first[-1]

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open files behind: every process opens its own, when it needs them."""
        return {**self.__dict__, "_files": OrderedDict()}

    @cached_property
    def views_per_record(self) -> np.ndarray:
        """(records,) int32, the number of views of every record."""
        return np.concatenate([shard.num_views for shard in self.shards])

    @cached_property
    def record_of_view(self) -> np.ndarray:
        """(num_views,) int32, the record that view v of the set is in."""
        return np.repeat(np.arange(len(self), dtype=np.int32), self.views_per_record)

    @cached_property
    def first_view(self) -> np.ndarray:
        """(records,) int64, number of the first view of every record."""
        counts = self.views_per_record
        return np.cumsum(counts, dtype=np.int64) - counts

    def locate_view(self, view: int) -> tuple[int, int]:
        """Return (record, view within the record) of view ``view`` of the whole set."""
        record = int(self.record_of_view[view])
        return record, int(view - self.first_view[record])

    def locate(self, record: int) -> tuple[int, int]:
        """Return (shard, record within the shard)."""
        if not 0 <= record < len(self):
            raise IndexError(f"record {record} of {len(self)}")
        shard = bisect_right(self._first, record) - 1
        return shard, record - self._first[shard]

    def key(self, record: int) -> str:
        """Return a record's key without reading it."""
        shard, row = self.locate(record)
        return self.shards[shard].keys[row]

    def digest(self) -> str:
        """Return one hash over the content of all shards."""
        hashes = "\n".join(shard.info.sha256 for shard in self.shards)
        return hashlib.sha256(hashes.encode()).hexdigest()

    def read(self, record: int, is_lazy: bool = False) -> Sample:
        """Read, decode and check one record.

        Args:
            record: its number.
            is_lazy: leave the images undecoded until they are asked for (``images.LazyImages``);
                asking for one then raises what reading would have raised.

        Raises:
            BadRecord: if anything is wrong with it.
        """
        members = self.read_files(record)
        path, key = str(self.shards[self.locate(record)[0]].path), self.key(record)
        read_images = lazy_images(path) if is_lazy else None
        try:
            if self.converter is None:
                sample = decode_record(members, read_images)
            else:
                sample = decode_in_place(self.converter, members, key, read_images)
        except BadRecord as bad:
            raise BadRecord(path, key, bad.reason, bad.kind) from bad
        return sample if self.name is None else {**sample, "source": self.name}

    def read_files(self, record: int) -> dict[str, bytes]:
        """Read the files of one record, ``{extension: content}``, and check their CRC."""
        number, row = self.locate(record)
        shard = self.shards[number]
        first, last = shard.first_member[row : row + 2].tolist()
        offset, size = shard.offset[first:last].tolist(), shard.size[first:last].tolist()
        start, end = offset[0], offset[-1] + size[-1]
        path, key = str(shard.path), shard.keys[row]
        try:
            block = os.pread(self._file(number), end - start, start)
        except OSError as error:
            raise BadRecord(path, key, f"cannot be read: {error}", "file") from error
        if len(block) != end - start:
            raise BadRecord(
                path, key, f"the file ends {end - start - len(block)} bytes early", "truncated"
            )
        members = {}
        for i, begin, length in zip(range(first, last), offset, size, strict=True):
            data = block[begin - start : begin - start + length]
            extension = shard.extensions[shard.extension[i]]
            if zlib.crc32(data) != shard.crc[i]:
                raise BadRecord(
                    path, key, f"{extension} has another CRC than the index", "checksum"
                )
            members[extension] = data
        return members

    def _file(self, number: int) -> int:
        """Return an open descriptor; pread shares no position, so forked processes may share it."""
        if number in self._files:
            self._files.move_to_end(number)
            return self._files[number]
        if len(self._files) >= MAX_OPEN_FILES:
            os.close(self._files.popitem(last=False)[1])
        self._files[number] = os.open(self.shards[number].path, os.O_RDONLY)
        return self._files[number]

    def close(self) -> None:
        """Close the open files; reading opens them again."""
        while self._files:
            os.close(self._files.popitem()[1])

    def __del__(self) -> None:
        if hasattr(self, "_files"):
            self.close()


def _find_shards(
    path: str | Path | Sequence[str | Path], name: str | None, converter: Any
) -> tuple[list[Path], dict[str, Any] | None]:
    """Resolve folders and patterns to tars, with the manifest if it is one folder that has one."""
    who = f"source {name!r}: " if name else ""
    if not isinstance(path, str | Path):
        found = [shard for part in path for shard in _find_shards(part, name, converter)[0]]
        if not found:
            raise FileNotFoundError(f"{who}an empty list of shards")
        return found, None
    if Path(path).is_dir() and converter is not None:
        return converter.find(Path(path)), None
    if Path(path).is_dir():
        if (Path(path) / MANIFEST).is_file():
            manifest = read_manifest(path)
            return [Path(path) / shard["name"] for shard in manifest["shards"]], manifest
        if any((Path(path) / mark).exists() for mark in (PREPARING, MAKING)):
            raise FileNotFoundError(
                f"{who}{path} is not finished: run the command again that makes it (hmrkit.prepare "
                "or hmrkit.synth), it goes on where it stopped"
            )
        shards = sorted(Path(path).glob("*.tar"))
        unindexed = [shard.name for shard in shards if not index_path(shard).is_file()]
        if unindexed:
            raise FileNotFoundError(
                f"{who}{path} has no {MANIFEST} and {len(unindexed)} tars without an index "
                f"({unindexed[0]}, ...): finish making it, or, if it is a download, run "
                f'python -c "from hmrkit.data.shards import *; index_folder({str(path)!r})"'
            )
    else:
        shards = _expand(str(path))
    if not shards:
        what = "has no *.tar" if Path(path).exists() else "does not exist"
        raise FileNotFoundError(
            f"{who}{path} {what}: make the shards (python -m hmrkit.synth output={path} for "
            "synthetic people), or set the source's `path` to where they are"
        )
    return shards, None


def _expand(pattern: str) -> list[Path]:
    from braceexpand import braceexpand

    found: list[Path] = []
    for one in braceexpand(pattern):
        if re.search(r"[*?\[]", one):
            root = Path(one).anchor or "."
            found += sorted(Path(root).glob(str(Path(one).relative_to(Path(one).anchor))))
        elif Path(one).is_file() or "{" in pattern:
            found.append(Path(one))  # a missing one of a brace pattern is named by read_index
    return found
