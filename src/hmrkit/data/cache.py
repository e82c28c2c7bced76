"""A local copy of a remote source: fetched whole and verified, then read like any other folder.

Every address has a folder of its own below ``data.cache_dir``. A tar is fetched under a temporary
name, its size and SHA-256 are held against the manifest (or the index beside it), then it gets its
name, and its index comes last; a killed fetch therefore goes on with the tars that are not there
yet. The manifest is written when all are: a folder that has one is used without asking the server.
"""

import hashlib
import os
import re
import time
import urllib.parse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock
from tqdm import tqdm

from hmrkit.data.index import index_path, index_shard, publish, read_index, write_atomically
from hmrkit.data.manifest import MANIFEST, parse_manifest
from hmrkit.data.remote import ATTEMPTS, RemoteFile, is_tar, read_address

THREADS = 4  # tars fetched at a time
_CHUNK = 1 << 20
_NAME = re.compile(r"[^./\\][^/\\]*\.tar")


class _Tar(NamedTuple):
    url: str
    path: Path  # of the copy
    size: int | None  # bytes; None where no manifest says
    sha256: str | None


def fetch_source(
    address: str, name: str, cache_dir: str | Path, is_hmrkits: bool = True
) -> str | list[str]:
    """Copy what is not there yet of the source at an address.

    Args:
        address: of a folder with ``hmrkit.json``, or of tars (``{000000..000009}.tar``).
        name: of the source, for the progress bar and messages.
        cache_dir: holds one folder per address.
        is_hmrkits: the tars are shards; those of other formats have no manifest and no indices.

    Returns:
        The folder, or the tars, to read.

    Raises:
        FileNotFoundError: if the address has no manifest, or a tar is not there.
        ValueError: if what arrived is not what the manifest says.
        ConnectionError: if the server cannot be reached.
    """
    from braceexpand import braceexpand

    urls = list(braceexpand(address)) if is_tar(address) else None
    source = address.rpartition("/")[0] if urls else address.rstrip("/")
    folder = Path(cache_dir) / _folder_name(source)
    if urls:
        copies = [folder / _file_name(url) for url in urls]
        if all(_is_whole(path, None, is_hmrkits) for path in copies):
            return [str(path) for path in copies]
    elif (folder / MANIFEST).is_file():
        return str(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):  # one process of a machine fetches
        text, manifest = _manifest(source, name, is_needed=urls is None)
        entries = {entry["name"]: entry for entry in manifest["shards"]}
        wanted = urls or [f"{source}/{shard}" for shard in entries]
        tars = [_tar(url, folder, entries) for url in wanted]
        missing = [tar for tar in tars if not _is_whole(tar.path, tar.sha256, is_hmrkits)]
        _fetch_all(missing, name, is_hmrkits)
        if urls:
            return [str(tar.path) for tar in tars]
        write_atomically(folder / MANIFEST, text)
    return str(folder)


def _folder_name(source: str) -> str:
    """A readable name that no other address has."""
    words = re.sub(r"[^A-Za-z0-9]+", "-", source.partition("?")[0].rpartition("://")[2])
    return f"{words[-60:].strip('-')}-{hashlib.sha256(source.encode()).hexdigest()[:12]}"


def _file_name(url: str) -> str:
    return Path(urllib.parse.urlsplit(url).path).name


def _manifest(source: str, name: str, is_needed: bool) -> tuple[bytes, dict[str, Any]]:
    url = f"{source}/{MANIFEST}"
    try:
        text = read_address(url)
    except (FileNotFoundError, PermissionError) as error:
        if is_needed:
            raise FileNotFoundError(f"source {name!r}: no manifest to fetch: {error}") from error
        return b"", {"shards": []}
    manifest = parse_manifest(text.decode(), url)
    strange = [s["name"] for s in manifest["shards"] if not _NAME.fullmatch(s["name"])]
    if strange:
        raise ValueError(
            f"source {name!r}: {url} names {strange[:3]}, which no shard can be called"
        )
    return text, manifest


def _tar(url: str, folder: Path, entries: dict[str, Any]) -> _Tar:
    entry = entries.get(_file_name(url), {})
    return _Tar(url, folder / _file_name(url), entry.get("num_bytes"), entry.get("sha256"))


def _is_whole(path: Path, sha256: str | None, is_hmrkits: bool) -> bool:
    """Whether a tar was fetched to its end: its index, written last, is there and fits."""
    if not is_hmrkits:
        return path.is_file()
    if not path.is_file() or not index_path(path).is_file():
        return False
    try:
        info = read_index(path).info
    except ValueError:
        return False
    return info.num_bytes == path.stat().st_size and sha256 in (None, info.sha256)


def _fetch_all(tars: Sequence[_Tar], name: str, is_hmrkits: bool) -> None:
    sizes = [tar.size for tar in tars]
    total = None if None in sizes else sum(sizes)  # type: ignore[arg-type]
    with (
        tqdm(total=total, desc=f"fetching {name}", unit="B", unit_scale=True) as bar,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        fetched = [pool.submit(_fetch, tar, name, bar, is_hmrkits) for tar in tars]
        try:
            for one in fetched:
                one.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)  # the others would be fetched first, then lost
            raise


def _fetch(tar: _Tar, name: str, bar: tqdm, is_hmrkits: bool) -> None:
    temporary = tar.path.with_name(f".{tar.path.name}.{os.getpid()}.tmp")
    try:
        sha256 = _download(tar, name, temporary, bar)
        index_path(tar.path).unlink(missing_ok=True)  # an old index must not outlive its tar
        publish(temporary, tar.path)
    finally:
        temporary.unlink(missing_ok=True)
    if not is_hmrkits:
        return
    try:
        index = read_address(f"{tar.url}.index")
    except (FileNotFoundError, PermissionError):
        index_shard(tar.path)  # tars from elsewhere have none
        return
    write_atomically(index_path(tar.path), index)
    if not _is_whole(tar.path, sha256, is_hmrkits):
        index_path(tar.path).unlink()
        raise ValueError(
            f"source {name!r}: {tar.url}.index is not the index of the tar beside it: upload both "
            "anew"
        )


def _download(tar: _Tar, name: str, path: Path, bar: tqdm) -> str:
    """Write the tar to ``path`` and return its SHA-256."""
    for attempt in range(ATTEMPTS):
        done = 0
        try:
            digest = hashlib.sha256()
            with RemoteFile(tar.url) as remote, path.open("wb") as file:
                while chunk := remote.read(_CHUNK):
                    file.write(chunk)
                    digest.update(chunk)
                    _advance(bar, len(chunk))
                    done += len(chunk)
                expected = remote.size if tar.size is None else tar.size
            sha256 = digest.hexdigest()
            if expected not in (None, done) or tar.sha256 not in (None, sha256):
                raise _OtherContentError(
                    f"source {name!r}: {tar.url} arrived with {done} bytes, SHA-256 {sha256}; "
                    f"expected {expected} bytes, SHA-256 {tar.sha256}: upload it anew"
                )
            return sha256
        except (FileNotFoundError, PermissionError):
            raise
        except (ConnectionError, _OtherContentError):
            _advance(bar, -done)
            if attempt == ATTEMPTS - 1:
                raise
        time.sleep(2**attempt)
    raise AssertionError("unreachable")


def _advance(bar: tqdm, num_bytes: int) -> None:
    with bar.get_lock():
        bar.update(num_bytes)


class _OtherContentError(ValueError):
    """What arrived is not what was announced."""
