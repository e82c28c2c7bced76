"""What the converters of official formats share: their interface, and the checks of a download.

A converter is the ``prepare`` node of a source (``configs_hydra/source/*.yaml``). Its constructor
takes options only and reads nothing; ``open(folder)`` lists the records that will be, cheaply and
always in the same order; ``records[i]`` makes one. So shards can be made by many processes and in
many parts, and the same download gives the same bytes.
"""

import hashlib
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from hmrkit.body import joints
from hmrkit.body.pickles import load_pickle
from hmrkit.data.sources.pickles import ANNOTATION_CALLABLES
from hmrkit.types import Sample

MAX_LISTED = 8  # entries of a folder that an error shows


class Skipped(Exception):
    """A record, or all that is left of it, that the converter leaves out.

    Attributes:
        reason: short and the same for all records of a kind; they are counted by it.
        detail: what it is about, such as a file name.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


class Records(Protocol):
    """The records of one download, in their final order."""

    def __len__(self) -> int:
        """Return how many there are, those that will be skipped included."""
        ...

    def __getitem__(self, index: int) -> Sample:
        """Make one record; ``complete_sample`` fills what it leaves out.

        Raises:
            Skipped: if there is nothing to keep.
        """
        ...


class Converter(Protocol):
    """One official format."""

    kind: str  # crops, scenes, rigs or motion: see docs/shards.md
    joint_set: str  # of every record

    def open(self, folder: Path) -> Records:
        """List the records of a download.

        Raises:
            ValueError, FileNotFoundError: if the folder is not what is expected (``expect``).
        """
        ...


def expect(folder: Path, pattern: str, where: str) -> list[Path]:
    """Return the files of a download that match, sorted.

    Args:
        folder: the ``input`` of ``hmrkit.prepare``.
        pattern: glob below the folder.
        where: where users usually get it: page, archive, and how to unpack it.

    Raises:
        FileNotFoundError: with what was found, what was expected and where it usually is.
    """
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "does not exist"
        raise FileNotFoundError(
            f"input={folder} {problem}; expected a folder with {pattern}. {where}"
        )
    found = sorted(path for path in folder.glob(pattern))
    if not found:
        entries = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
        more = f", and {len(entries) - MAX_LISTED} more" if len(entries) > MAX_LISTED else ""
        listed = ", ".join(entries[:MAX_LISTED]) + more or "nothing"
        raise FileNotFoundError(f"{folder} holds {listed}; expected {pattern}. {where}")
    return found


def read_arrays(
    path: Path, needed: Iterable[str], only_needed: bool = False
) -> dict[str, np.ndarray]:
    """Arrays of an official npz; those of objects are read without running what they contain.

    Raises:
        ValueError: naming what is missing or cannot be read.
    """
    arrays: dict[str, np.ndarray] = {}
    with _told(path), np.load(path, allow_pickle=False) as archive:
        for name in needed if only_needed else archive.files:
            if name not in archive.files:
                continue
            try:
                arrays[name] = archive[name]
            except ValueError:  # an object array
                arrays[name] = _read_object_array(archive, name, path)
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise ValueError(f"{path} has {sorted(arrays)}; expected {missing} too")
    return arrays


def npz_shape(path: Path, name: str) -> tuple[int, ...] | None:
    """Shape of an array of an npz, without reading it; None if there is no such array.

    Raises:
        ValueError: if the file cannot be read.
    """
    with _told(path), np.load(path, allow_pickle=False) as archive:
        if name not in archive.files:
            return None
        with archive.zip.open(f"{name}.npy") as file:
            return _read_header(file)[0]


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    reader = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    return reader[np.lib.format.read_magic(file)](file)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as npz: {error}") from error


def _read_object_array(archive: Any, name: str, path: Path) -> np.ndarray:
    with archive.zip.open(f"{name}.npy") as file:
        _read_header(file)
        content = load_pickle(file, path, ANNOTATION_CALLABLES)
    if isinstance(content, np.ndarray):
        return content
    box = np.empty((), object)
    box[()] = content
    return box


def record_key(text: str) -> str:
    """A record's key from an image's name, folders included: unique, at most 72 characters."""
    key = re.sub(r"[^A-Za-z0-9_-]+", "-", text.rsplit(".", 1)[0] if "." in text else text)
    key = key.strip("-")
    if len(key) <= 72 and key:
        return key
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    return f"{key[-61:]}-{digest}"


def read_image(path: Path) -> bytes:
    """Bytes of an image file, which go into the shard as they are.

    Raises:
        Skipped: if there is no such file.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise Skipped("image file is missing", str(path)) from None


def group_rows(names: Sequence[str]) -> list[tuple[str, np.ndarray]]:
    """Rows of the same image, ``[(name, rows)]``, in the order in which the names first occur."""
    order: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        order.setdefault(str(name), []).append(row)
    return [(name, np.array(rows)) for name, rows in order.items()]


def center_size_to_box(center: np.ndarray, size_px: np.ndarray, stored_margin: float) -> np.ndarray:
    """Boxes (..., 4) x1 y1 x2 y2, tight, from the centre and size that annotations store.

    Args:
        center: (..., 2) px.
        size_px: (..., 2) width and height, or (...,) side, px, with the margin in it.
        stored_margin: factor by which the stored size exceeds the tight box (1.2 for SPIN).
    """
    center, size = np.asarray(center, np.float64), np.asarray(size_px, np.float64)
    if size.ndim < center.ndim:
        size = size[..., None]
    half = np.broadcast_to(size / (2 * stored_margin), center.shape)
    return np.concatenate([center - half, center + half], axis=-1).astype(np.float32)


def place_joints(values: np.ndarray, given: str, joint_set: str) -> np.ndarray:
    """Keypoints (..., K_given, C), confidence last, in a larger joint set; others are absent.

    Coordinates become NaN where the confidence is 0.
    """
    rows = joints.mapping(given, joint_set)
    placed = np.zeros((*values.shape[:-2], len(rows), values.shape[-1]), np.float32)
    placed[..., rows >= 0, :] = values[..., rows[rows >= 0], :]
    return absent_to_nan(placed)


def absent_to_nan(keypoints: np.ndarray) -> np.ndarray:
    """Coordinates NaN where the confidence is 0 or below; it becomes 0."""
    keypoints = np.array(keypoints, np.float32)
    is_absent = ~(keypoints[..., -1] > 0)
    keypoints[is_absent] = np.nan
    keypoints[is_absent, -1] = 0
    return keypoints


def gender_codes(names: Sequence[Any], codes: Mapping[str, int]) -> np.ndarray:
    """(P,) int64 of genders as a format writes them; what ``codes`` lacks is -1, unknown."""
    return np.array([codes.get(str(name).lower(), -1) for name in names], np.int64)
