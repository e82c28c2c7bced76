"""Annotation files that are pickles, read without running what is in them.

On top of what body models need (``body/pickles.py``): torch tensors, which become arrays, and the
files of joblib, in which the bytes of an array lie behind the opcodes that announce it.
"""

import bz2
import io
import lzma
import pickle
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch

from hmrkit.body.pickled_arrays import (
    ArrayKind,
    Record,
    RefusedError,
    holds_objects,
    raw_dtype,
    size_of,
    with_plain_arrays,
)
from hmrkit.body.pickles import find_allowed, load_pickle, told_as_value_error


def _storage(data: bytes) -> torch.UntypedStorage:
    """The storage of a pickled tensor; torch itself refuses code in it."""
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _tensor(storage: Any, offset: int, size: tuple, stride: tuple, *_: Any) -> np.ndarray:
    if not isinstance(storage, torch.storage.TypedStorage):
        raise RefusedError(f"a tensor made of a {type(storage).__name__}")
    flat = torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage)
    return flat.as_strided(size, stride, offset).clone().numpy()


def _parameter(data: np.ndarray, *_: Any) -> np.ndarray:
    return data


ANNOTATION_CALLABLES: Mapping[str, Callable] = MappingProxyType(
    {
        "torch.storage._load_from_bytes": _storage,
        "torch._utils._rebuild_tensor_v2": _tensor,
        "torch._utils._rebuild_parameter": _parameter,
    }
)


def read_pickle(path: str | Path) -> Any:
    """What an annotation pickle holds, tensors as arrays.

    Raises:
        ValueError: if it asks for anything else than arrays and plain containers, or is damaged.
    """
    with Path(path).open("rb") as file:
        return load_pickle(file, Path(path), ANNOTATION_CALLABLES)


class _ArrayWrapper(Record):
    """What joblib pickles in place of an array: its dtype, shape and order."""


_JOBLIB_CALLABLES: Mapping[str, Callable] = MappingProxyType(
    {
        **ANNOTATION_CALLABLES,
        "joblib.numpy_pickle.NumpyArrayWrapper": _ArrayWrapper,
        # kinds of array, named in a wrapper only: every array becomes a plain one
        "numpy.memmap": ArrayKind,
        "numpy.matrix": ArrayKind,
        "numpy.core.memmap.memmap": ArrayKind,
        "numpy.matrixlib.defmatrix.matrix": ArrayKind,
    }
)


class _JoblibUnpickler(pickle._Unpickler):  # the one of C cannot stop for the bytes of an array
    dispatch: ClassVar = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="latin1")
        self.file = file

    def find_class(self, module: str, name: str) -> Any:
        return find_allowed(module, name, _JOBLIB_CALLABLES)

    def load_build(self) -> None:
        super().load_build()
        if isinstance(self.stack[-1], _ArrayWrapper):
            self.stack[-1] = self._array(**self.stack[-1].state)

    dispatch[pickle.BUILD[0]] = load_build

    def _array(
        self,
        shape: tuple[int, ...],
        order: str,
        dtype: Any,
        numpy_array_alignment_bytes: int | None = None,
        **_: Any,
    ) -> np.ndarray:
        if holds_objects(dtype):
            return _JoblibUnpickler(self.file).load()
        real = raw_dtype(dtype)
        if numpy_array_alignment_bytes is not None:
            self.file.read(self.file.read(1)[0])  # padding, since joblib 1.2
        num_bytes = size_of(shape) * real.itemsize
        start = self.file.tell()
        if self.file.seek(0, io.SEEK_END) - start < num_bytes:
            raise EOFError(f"the file ends in an array {shape} of {real}")
        self.file.seek(start)
        data = bytearray(num_bytes)
        self.file.readinto(data)
        array = np.frombuffer(data, real).reshape(shape, order=order)
        return array.astype(real.newbyteorder("="), copy=False)


_DECOMPRESS: Mapping[bytes, Callable[[bytes], bytes]] = MappingProxyType(
    {
        b"\x78": zlib.decompress,
        b"\x1f\x8b": lambda data: zlib.decompress(data, wbits=zlib.MAX_WBITS | 16),
        b"BZ": bz2.decompress,
        b"\xfd7zXZ": lzma.decompress,
        b"\x5d\x00": lzma.decompress,
    }
)


def read_joblib(path: str | Path) -> Any:
    """What ``joblib.dump`` wrote (0.10 or later, any compression but lz4), or a plain pickle.

    Raises:
        ValueError: if it asks for anything else than arrays and plain containers, or is damaged.
    """
    path = Path(path)
    with path.open("rb") as file, told_as_value_error(path):
        start = file.read(8)
        file.seek(0)
        content: BinaryIO = file
        for magic, decompress in _DECOMPRESS.items():
            if start.startswith(magic):
                content = io.BytesIO(decompress(file.read()))
                break
        return with_plain_arrays(_JoblibUnpickler(content).load())
