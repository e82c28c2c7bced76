"""Files behind addresses: http(s) by the standard library, every other scheme by fsspec.

A remote file is read once, from front to back. Whatever the library behind it raises arrives as an
``OSError``: ``FileNotFoundError`` or ``PermissionError`` for what is not there or not ours to read,
``ConnectionError`` for all else. File systems are opened in the process that reads from them, since
most of fsspec's do not survive a fork.
"""

import http.client
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

ATTEMPTS = 3  # to open an http address; the libraries behind the other schemes try again themselves
TIMEOUT_S = 60.0
_HTTP = ("http", "https")


def is_remote(path: Any) -> bool:
    """Tell an address from a path; ``file://`` is a path."""
    if not isinstance(path, str) or path.startswith("file://"):
        return False
    return "://" in path or path.startswith("pipe:")


def local_path(path: Any) -> Any:
    """A path without ``file://``."""
    return path.removeprefix("file://") if isinstance(path, str) else path


def is_tar(address: str) -> bool:
    """Whether an address is that of tars, not of a folder of them."""
    return urllib.parse.urlsplit(address).path.endswith(".tar")


def check_address(address: str, name: str, allow_pipe: bool) -> None:
    """Check that the scheme of a source's address can be read here.

    Raises:
        ValueError: naming the source and what to do.
    """
    scheme = address.partition(":")[0]
    if scheme == "pipe" and not allow_pipe:
        raise ValueError(
            f"source {name!r}: {address!r} runs a shell command; set data.allow_pipe=true to "
            "allow it"
        )
    if scheme in (*_HTTP, "pipe"):
        return
    from fsspec import get_filesystem_class

    try:
        for part in address.split("::"):  # fsspec chains them: simplecache::s3://...
            get_filesystem_class(part.partition("://")[0])
    except ImportError as error:
        raise ValueError(
            f"source {name!r}: {scheme}:// needs a package that is not installed ({error}): for "
            's3:// run pip install "hmrkit[remote]", for another scheme install what it names; '
            "python -m hmrkit.doctor shows the extras that are installed"
        ) from error
    except ValueError as error:
        raise ValueError(f"source {name!r}: cannot read {address!r}: {error}") from error


class RemoteFile:
    """A file behind an address, opened for one reading.

    Args:
        url: of any scheme but ``pipe:``.

    Attributes:
        size: bytes, None if the server does not say.

    Raises:
        OSError: as said above.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        is_http = url.partition(":")[0] in _HTTP
        self._file, self.size = _open_http(url) if is_http else _open_other(url)

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes; none at the end."""
        try:
            return self._file.read(size)
        except Exception as error:
            raise _as_os_error(error, self.url) from error

    def __enter__(self) -> "RemoteFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def read_address(url: str) -> bytes:
    """The content of a small remote file."""
    with RemoteFile(url) as file:
        return file.read()


def _open_http(url: str) -> tuple[Any, int | None]:
    for attempt in range(ATTEMPTS):
        try:
            response = urllib.request.urlopen(url, timeout=TIMEOUT_S)
            return response, response.length
        except urllib.error.HTTPError as error:
            if error.code in (404, 410):
                raise FileNotFoundError(f"{url}: {error}") from error
            if error.code in (401, 403):  # object stores answer 403 for what is not there
                raise PermissionError(f"{url}: {error}") from error
            if error.code < 500 or attempt == ATTEMPTS - 1:
                raise ConnectionError(f"{url}: {error}") from error
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError) as error:
            if attempt == ATTEMPTS - 1:
                reason = getattr(error, "reason", error)
                raise ConnectionError(f"{url} cannot be reached: {reason}") from error
        time.sleep(2**attempt)
    raise AssertionError("unreachable")


def _open_other(url: str) -> tuple[Any, int | None]:
    from fsspec.core import url_to_fs

    try:
        system, path = url_to_fs(url)
        file = system.open(path, "rb")
        return file, getattr(file, "size", None)
    except Exception as error:
        raise _as_os_error(error, url) from error


def _as_os_error(error: Exception, url: str) -> OSError:
    kind = type(error) if isinstance(error, FileNotFoundError | PermissionError) else None
    return (kind or ConnectionError)(f"{url}: {type(error).__name__}: {error}")
