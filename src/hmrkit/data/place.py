"""Where prepared shards go: a folder, or one behind a URL that fsspec can write to.

Both kinds of place appear the same: small files that are whole or absent, and shards that are made
on this machine and put there whole, the tar first and its index last.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hmrkit.data.index import ShardInfo, index_path, write_atomically
from hmrkit.data.remote import is_remote, local_path

NUM_THREADS = 16  # that read from, or remove at, a remote place at once


def open_place(output: str | Path) -> "LocalPlace | RemotePlace":
    """The place at a path or a URL; nothing is made yet.

    Raises:
        ValueError: if the URL cannot be written to: no such protocol, or its package is missing;
            or if the path is a file, or below one.
        OSError: if it cannot be reached.
    """
    if is_remote(output):
        return RemotePlace(str(output))
    folder = Path(local_path(output))
    there = next((path for path in (folder, *folder.parents) if path.exists()), None)
    if there is not None and not there.is_dir():
        raise ValueError(f"output={folder}: {there} is a file; give a folder, new or empty")
    return LocalPlace(folder)


class LocalPlace:
    """A folder of this machine, or of a network that it has mounted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __str__(self) -> str:
        return str(self.folder)

    def sizes(self, subfolder: str = "") -> dict[str, int]:
        """Bytes of every file by name; none if there is no such folder."""
        found = {}
        with suppress(FileNotFoundError):
            for path in (self.folder / subfolder).iterdir():
                with suppress(FileNotFoundError):  # another part's temporary file
                    if path.is_file():
                        found[path.name] = path.stat().st_size
        return found

    def read(self, names: Sequence[str]) -> dict[str, bytes]:
        """Content by name; absent files are left out."""
        found = {}
        for name in names:
            with suppress(FileNotFoundError):
                found[name] = (self.folder / name).read_bytes()
        return found

    def write(self, name: str, data: bytes) -> None:
        """Write a small file, whole or not at all."""
        path = self.folder / name
        with self._told():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; those that are absent are no error."""
        for name in names:
            (self.folder / name).unlink(missing_ok=True)

    def remove_folder(self, name: str) -> None:
        """Remove a folder with its files; another part may be doing so too."""
        shutil.rmtree(self.folder / name, ignore_errors=True)

    def add_shard(self, name: str, write: Callable[[Path], ShardInfo]) -> ShardInfo:
        """Have ``write`` make the shard where it belongs."""
        with self._told():
            return write(self.folder / name)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(
                f"output={self.folder} cannot be written to: {error.strerror or error}; mend that "
                "(rights, room on the disk), or give another output"
            ) from error


class RemotePlace:
    """A folder behind a URL such as ``s3://bucket/shards``."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        if url.partition(":")[0] in ("http", "https", "pipe"):
            raise ValueError(f"output={url}: hmrkit can write to folders and to s3://, gs://, ...")
        self.sizes()

    def __str__(self) -> str:
        return self.url

    def _open(self) -> tuple[Any, str]:
        """The file system, which fsspec keeps per process, and the path in it."""
        from fsspec.core import url_to_fs

        try:
            system, path = url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise ValueError(f"output={self.url} cannot be written to: {error}") from error
        system.invalidate_cache()
        return system, path.rstrip("/")

    def sizes(self, subfolder: str = "") -> dict[str, int]:
        """Bytes of every file by name; none if there is no such folder."""
        system, folder = self._open()
        try:
            entries = system.ls(f"{folder}/{subfolder}".rstrip("/"), detail=True)
        except FileNotFoundError:
            return {}
        except Exception as error:  # each library has its own
            raise _as_os_error(error, self.url) from error
        return {e["name"].rpartition("/")[2]: e["size"] for e in entries if e["type"] == "file"}

    def read(self, names: Sequence[str]) -> dict[str, bytes]:
        """Content by name; absent files are left out."""
        system, folder = self._open()

        def read_one(name: str) -> bytes | None:
            try:
                return system.cat_file(f"{folder}/{name}")
            except FileNotFoundError:
                return None

        with ThreadPoolExecutor(NUM_THREADS) as pool:
            contents = dict(zip(names, pool.map(read_one, names), strict=True))
        return {name: data for name, data in contents.items() if data is not None}

    def write(self, name: str, data: bytes) -> None:
        """Write a small file, whole or not at all."""
        system, folder = self._open()
        try:
            system.pipe_file(f"{folder}/{name}", data)
        except Exception as error:
            raise _as_os_error(error, f"{self.url}/{name}") from error

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; those that are absent are no error."""
        system, folder = self._open()

        def remove_one(name: str) -> None:
            with suppress(FileNotFoundError):
                system.rm_file(f"{folder}/{name}")

        with ThreadPoolExecutor(NUM_THREADS) as pool:
            list(pool.map(remove_one, names))

    def remove_folder(self, name: str) -> None:
        """Remove the files of a folder; another part may be doing so too."""
        self.remove(f"{name}/{file}" for file in self.sizes(name))

    def add_shard(self, name: str, write: Callable[[Path], ShardInfo]) -> ShardInfo:
        """Have ``write`` make the shard here, then upload it."""
        system, folder = self._open()
        with tempfile.TemporaryDirectory(prefix="hmrkit-") as scratch:
            path = Path(scratch) / name
            info = write(path)
            for file in (path, index_path(path)):
                try:
                    system.put_file(str(file), f"{folder}/{file.name}")
                except Exception as error:
                    raise _as_os_error(error, f"{self.url}/{file.name}") from error
        return info


def _as_os_error(error: Exception, url: str) -> OSError:
    """What the library behind a URL raised, as an error for users."""
    return OSError(f"{url}: {type(error).__name__}: {error}")
