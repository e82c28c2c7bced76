"""The indices of tars of another format, made on first use.

``x.tar.members.index`` says where every file of the tar lies, with its CRC; one reading of the tar
makes it. ``x.tar.<digest>.index`` is what the options of a converter leave of it: the records that
somebody is left in, and how many. Changed options are another digest, for which only the
annotations are read again; a changed tar (size or time) makes both anew. Where the folder of the
tars cannot be written, both lie in the converter's ``index_folder``.
"""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from hmrkit.data.in_place import Counted, TarConverter, count_in_place
from hmrkit.data.index import (
    Member,
    ShardIndex,
    ShardInfo,
    list_records,
    load_index,
    write_index,
)
from hmrkit.data.record import BadRecord
from hmrkit.data.workers import count_workers, do_jobs, progress_bar

log = logging.getLogger(__name__)

INDEX_VERSION = 1  # raise it when the same tar and options would give another index
SMALL_BYTES = 1 << 28  # less than this is indexed in this process: workers take seconds to start
LOST = "rest-of-the-tar.lost"  # stands for what a damaged tar no longer holds


class Whole:
    """Opens tars with all their records, whatever a converter would leave of them.

    Args:
        converter: says where indices may lie.
    """

    def __init__(self, converter: TarConverter) -> None:
        self.kind, self.joint_set = converter.kind, converter.joint_set
        self.label_files, self.index_folder = converter.label_files, converter.index_folder

    def announce(self) -> None:
        """Nothing to say."""

    def signature(self) -> str:
        """Return nothing: no option plays a part."""
        return ""


def open_tars(
    tars: Sequence[Path], converter: TarConverter | Whole, name: str | None
) -> list[ShardIndex]:
    """The indices of tars, made where they are missing or out of date (in parallel).

    Raises:
        FileNotFoundError: naming the tar that is missing.
        PermissionError: if there is no place for an index.
    """
    missing = [str(tar) for tar in tars if not tar.is_file()]
    if missing:
        raise FileNotFoundError(f"source {name!r}: {missing[0]} does not exist ({len(missing)})")
    converter.announce()
    found = {tar: _valid_index(tar, converter) for tar in tars}
    if None in found.values():
        first = next(tar for tar, index in found.items() if index is None)
        lock = _place(first, "", converter.index_folder).with_name(".hmrkit_indices.lock")
        with FileLock(lock):  # who waited finds what the other one made
            todo = [t for t, i in found.items() if i is None and _valid_index(t, converter) is None]
            _make_indices(todo, converter, name)
        found |= {tar: _valid_index(tar, converter) for tar, index in found.items() if not index}
    indices = [found[tar] for tar in tars]
    assert all(index is not None for index in indices), "an index was not made"
    if converter.signature():
        _report(indices, name)  # type: ignore[arg-type]
    return indices  # type: ignore[return-value]


def _report(indices: Sequence[ShardIndex], name: str | None) -> None:
    left_out: Counter[str] = Counter()
    for index in indices:
        left_out.update(index.info.left_out)
    people = sum(index.info.num_people for index in indices)
    reasons = "".join(f"; left out: {n}, {reason}" for reason, n in sorted(left_out.items()))
    log.info("source %r in place: %d tars, %d people%s", name, len(indices), people, reasons)


def _make_indices(tars: Sequence[Path], converter: Any, name: str | None) -> None:
    total = sum(tar.stat().st_size for tar in tars)
    workers = count_workers("auto") if total > SMALL_BYTES else 1
    with progress_bar(total >> 20, 0, " MiB", f"indexing {name or 'tars'}") as bar:
        do_jobs(_make_index, [(tar, converter) for tar in tars], workers, bar)


def _make_index(job: tuple[Path, Any], advance: Callable[[int], None]) -> None:
    tar, converter = job
    whole = _valid_index(tar, Whole(converter)) or _index_members(tar, converter.index_folder)
    if converter.signature():
        _index_people(whole, converter)
    advance(tar.stat().st_size >> 20)


def _index_members(tar: Path, index_folder: str | None) -> ShardIndex:
    """Read a tar once and write where its files lie.

    A damaged tar gets one more file, behind its end: reading that fails, so the loss is counted
    like every other bad record.
    """
    info = ShardInfo(tar.name, "", num_bytes=tar.stat().st_size, origin=_origin(tar, ""))
    members: list[Member] = []
    with tar.open("rb") as file:
        for _, record in list_records(file, info.problems):
            members += record
            info.num_records += 1
    is_damaged = any("garbage" in problem or "truncated" in problem for problem in info.problems)
    if not members:
        info.problems.append("no file in it, is it a tar?")
    if is_damaged or not members:
        members.append(Member(LOST, info.num_bytes, 1, 0))
        info.num_records += 1
    for problem in info.problems:
        log.warning("%s: %s", tar, problem)
    info.sha256 = _digest(members, "")
    target = _place(tar, "", index_folder)
    write_index(tar, info, members, [0] * info.num_records, target)
    return load_index(target, tar)


def _index_people(whole: ShardIndex, converter: TarConverter) -> None:
    """Write what a converter's options leave of a tar.

    A record that cannot be used stays in it, as one view, so that it is drawn and counted.
    """
    signature = converter.signature()
    origin = _origin(whole.path, signature)
    info = ShardInfo(whole.info.name, converter.joint_set, origin=origin)
    info.num_bytes, info.problems = whole.info.num_bytes, whole.info.problems
    members: list[Member] = []
    num_views: list[int] = []
    labels: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    with whole.path.open("rb") as file:
        for row, key in enumerate(whole.keys):
            record = _members(whole, row)
            files = {}
            for member in record:
                extension = member.name.removeprefix(f"{key}.")
                is_read = extension.lower() in converter.label_files
                file.seek(member.offset)
                files[extension] = file.read(member.size) if is_read else b""
            try:
                counted = count_in_place(converter, files, key)
            except BadRecord as bad:
                if not LOST.startswith(f"{key}."):  # said when the members were listed
                    log.warning("%s: record %r: %s", whole.path, key, bad.reason)
                counted = Counted(1, {}, {})
            else:
                info.num_people += counted.num_people
                labels.update(counted.labels)
                left_out.update(counted.left_out)
            if counted.num_people:
                members += record
                num_views.append(counted.num_people)
    info.num_records = info.num_images = len(num_views)
    info.num_views, info.labels, info.left_out = sum(num_views), dict(labels), dict(left_out)
    info.sha256 = _digest(members, signature)
    target = _place(whole.path, signature, converter.index_folder)
    write_index(whole.path, info, members, num_views, target)


def _members(index: ShardIndex, row: int) -> list[Member]:
    """The files of one record."""
    first, last = index.first_member[row : row + 2].tolist()
    return [
        Member(
            f"{index.keys[row]}.{index.extensions[index.extension[i]]}",
            int(index.offset[i]),
            int(index.size[i]),
            int(index.crc[i]),
        )
        for i in range(first, last)
    ]


def _digest(members: Sequence[Member], signature: str) -> str:
    return hashlib.sha256(json.dumps([signature, members]).encode()).hexdigest()


def _origin(tar: Path, signature: str) -> str:
    """What an index must have been made from to be the one of this tar."""
    status = tar.stat()
    return json.dumps([INDEX_VERSION, status.st_size, status.st_mtime_ns, signature])


def _valid_index(tar: Path, converter: TarConverter | Whole) -> ShardIndex | None:
    """The index that is up to date, if there is one."""
    signature = converter.signature()
    for path in _places(tar, signature, converter.index_folder):
        if not path.is_file():
            continue
        try:
            index = load_index(path, tar)
        except ValueError as error:
            log.warning("%s is damaged, it is made anew: %s", path, error)
            continue
        if index.info.origin == _origin(tar, signature):
            return index
    return None


def _places(tar: Path, signature: str, index_folder: str | None) -> list[Path]:
    """Where an index may lie: beside its tar, and in the folder of indices."""
    word = hashlib.sha256(signature.encode()).hexdigest()[:8] if signature else "members"
    name = f"{tar.name}.{word}.index"
    places = [tar.with_name(name)]
    if index_folder is not None:
        owner = hashlib.sha256(str(tar.resolve().parent).encode()).hexdigest()[:12]
        places.append(Path(index_folder) / owner / name)
    return places


def _place(tar: Path, signature: str, index_folder: str | None) -> Path:
    """Where a new index goes.

    Raises:
        PermissionError: if there is no such place.
    """
    beside, *elsewhere = _places(tar, signature, index_folder)
    if os.access(tar.parent, os.W_OK):
        return beside
    if not elsewhere:
        raise PermissionError(
            f"{tar.parent} cannot be written, so an index of its tars has no place: set "
            "index_folder in the source's `prepare` node"
        )
    elsewhere[0].parent.mkdir(parents=True, exist_ok=True)
    return elsewhere[0]
