"""What the converters of official formats share: their interface, and the checks of a download.

A converter is the ``prepare`` node of a source (``configs_hydra/source/*.yaml``). Its constructor
takes options only and reads nothing; ``open(folder)`` lists the records that will be, cheaply and
always in the same order; ``records[i]`` makes one. So shards can be made by many processes and in
many parts, and the same download gives the same bytes.
"""

import hashlib
import math
import os
import re
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
MISSING_IMAGE = "image file is missing"  # a reason of ``Skipped``
_GENDER_WORDS = {"m", "male", "f", "female", "n", "neutral"}


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
    """The records of one download, in their final order.

    Two more members are optional: ``left_out``, a list of ``Skipped``, the people that the record
    made last lacks; ``name(index) -> str``, what a record is made from, for messages.
    """

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
    with _open_npz(path) as archive:
        for name in needed if only_needed else archive.files:
            if name in archive.files:
                arrays[name] = _read_member(archive, name, path)
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise ValueError(f"{path} has {sorted(arrays)}; expected {missing} too")
    return arrays


def npz_shape(path: Path, name: str) -> tuple[int, ...] | None:
    """Shape of an array of an npz, without reading it; None if there is no such array.

    Raises:
        ValueError: if the file cannot be read.
    """
    with _open_npz(path) as archive:
        if name not in archive.files:
            return None
        with archive.zip.open(f"{name}.npy") as file:
            return _read_header(file)[0]


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    reader = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
        (3, 0): np.lib.format.read_array_header_2_0,  # differs in the names of fields only
    }
    return reader[np.lib.format.read_magic(file)](file)


@contextmanager
def _open_npz(path: Path) -> Iterator[Any]:
    """The open archive; whatever goes wrong with it is a ValueError that names the file."""
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it is a single array (npy)")
        with archive:
            yield archive
    except Exception as error:  # damaged, encrypted, compressed in some other way
        text = str(error) or type(error).__name__
        raise ValueError(f"{path} cannot be read as npz: {text}") from error


def _read_member(archive: Any, name: str, path: Path) -> np.ndarray:
    if f"{name}.npy" not in archive.zip.namelist():
        raise ValueError(f"it holds {name!r}, which is no array (npy)")
    member = archive.zip.getinfo(f"{name}.npy")
    with archive.zip.open(member) as file:
        shape, _, dtype = _read_header(file)
        if dtype.hasobject:
            return _object_array(load_pickle(file, path, ANNOTATION_CALLABLES))
        size, left = math.prod(shape) * dtype.itemsize, member.file_size - file.tell()
    if min(shape, default=0) < 0 or size > left:
        raise ValueError(f"{name!r} says {dtype} of shape {shape}, {size} bytes, but has {left}")
    return archive[name]


def _object_array(content: Any) -> np.ndarray:
    if isinstance(content, np.ndarray):
        return content
    box = np.empty((), object)
    box[()] = content
    return box


def record_key(text: str) -> str:
    """A record's key from an image's name, folders included, at most 72 characters.

    Names of letters, digits and ``_./-`` stay readable; a digest of the whole name keeps others
    apart, and those that are too long.
    """
    key = re.sub(r"[^A-Za-z0-9_-]+", "-", text.rsplit(".", 1)[0] if "." in text else text)
    key = key.strip("-")
    if len(key) <= 72 and key and re.fullmatch(r"[A-Za-z0-9_./-]+", text):
        return key
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:10]
    return f"{key[-61:]}-{digest}" if key else digest


def image_path(folder: Path, name: str) -> Path:
    """The file that an annotation file calls ``name``, below the folder of images.

    Raises:
        Skipped: if the name leads out of the folder; whoever wrote it shall not choose what of
            this machine goes into shards.
    """
    inner = os.path.normpath(name)
    if os.path.isabs(inner) or inner.split(os.sep)[0] == os.pardir:
        raise Skipped("image lies outside the input", name)
    return folder / inner


def read_image(path: Path) -> bytes:
    """Bytes of an image file, which go into the shard as they are.

    Raises:
        Skipped: if there is no such file.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise Skipped(MISSING_IMAGE, str(path)) from None


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


def gender_codes(names: Sequence[Any], codes: Mapping[Any, int], where: Any = "") -> np.ndarray:
    """(P,) int64 of genders as a format writes them; words that ``codes`` lacks are -1, unknown.

    Args:
        names: text or bytes.
        codes: what the format writes, in lower case -> 0 male, 1 female.
        where: the file, for the message.

    Raises:
        ValueError: for what is neither in ``codes`` nor a word for a gender, such as 0 and 1.
    """
    known = {str(name): code for name, code in codes.items()}
    texts = [n.decode(errors="replace") if isinstance(n, bytes) else str(n) for n in names]
    words = [text.strip().lower() for text in texts]
    strange = sorted(set(words) - known.keys() - _GENDER_WORDS)
    if strange:
        raise ValueError(
            f"{where or 'the file'} has genders {', '.join(map(repr, strange[:MAX_LISTED]))}, and "
            "does not say which is which: write m, f or neutral into it, or leave genders out"
        )
    return np.array([known.get(word, -1) for word in words], np.int64)
