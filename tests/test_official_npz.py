"""Official npz files that cannot be used: always a ValueError that names the file."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from hmrkit.data.sources.official import npz_shape, read_arrays


def _npy(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array, version=version)
    return out.getvalue()


def _zip(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("_npy", ".npy"), content)
    return path


def _single_array(path: Path) -> None:
    path.write_bytes(_npy(np.arange(3.0)))


def _patched(path: Path, offset: int, value: int) -> None:
    """Change a 2-byte field of the member, in front of it and in the list at the end."""
    _zip(path, a_npy=_npy(np.arange(3.0)))
    content = bytearray(path.read_bytes())
    for start in (content.index(b"PK\3\4") + offset, content.index(b"PK\1\2") + offset + 2):
        content[start : start + 2] = value.to_bytes(2, "little")
    path.write_bytes(content)


def _encrypted(path: Path) -> None:
    _patched(path, 6, 1)


def _unknown_compression(path: Path) -> None:
    _patched(path, 8, 97)


def _huge_shape(path: Path) -> None:
    header = io.BytesIO()
    form = {"descr": "<f8", "fortran_order": False, "shape": (10**9, 10**9)}
    np.lib.format.write_array_header_1_0(header, form)
    _zip(path, a_npy=header.getvalue() + bytes(80))


def _negative_shape(path: Path) -> None:
    header = io.BytesIO()
    form = {"descr": "<f8", "fortran_order": False, "shape": (-1, 10)}
    np.lib.format.write_array_header_1_0(header, form)
    _zip(path, a_npy=header.getvalue() + bytes(80))


def _not_an_array(path: Path) -> None:
    _zip(path, a=b"text")


def _text_called_array(path: Path) -> None:
    _zip(path, a_npy=b"text")


def _damaged_objects(path: Path) -> None:
    _zip(path, a_npy=_npy(np.array([None, "x"], dtype=object))[:-3])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (_single_array, "it is a single array"),
        (_encrypted, "encrypted"),
        (_unknown_compression, "compression"),
        (_huge_shape, r"'a' says float64 of shape \(1000000000, 1000000000\)"),
        (_negative_shape, "shape"),
        (_not_an_array, "holds 'a', which is no array"),
        (_text_called_array, "magic string"),
        (_damaged_objects, "damaged"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, write, message):
    path = tmp_path / "labels.npz"
    write(path)
    with pytest.raises(ValueError, match=rf"labels\.npz cannot be read as npz: .*{message}"):
        read_arrays(path, ["a"])
    if write in (_single_array, _encrypted, _unknown_compression, _text_called_array):
        with pytest.raises(ValueError, match=rf"labels\.npz cannot be read as npz: .*{message}"):
            npz_shape(path, "a")


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_npy_is_read_with_objects_and_numbers(tmp_path, version):
    objects = np.array([{"x": 1}, "text", None], dtype=object)
    numbers = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    path = _zip(tmp_path / "labels.npz", a_npy=_npy(objects, version), b_npy=_npy(numbers, version))
    found = read_arrays(path, ["a", "b"])
    assert found["a"].tolist() == objects.tolist()
    np.testing.assert_array_equal(found["b"], numbers)
    assert npz_shape(path, "b") == (2, 3)
