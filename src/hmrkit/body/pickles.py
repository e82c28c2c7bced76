"""Read the pickles that body models are distributed in, without running what is in them.

They were written by Python 2 with chumpy and scipy objects inside. Nothing here imports chumpy: its
classes, and scipy's, become inert records, and arrays are taken out of those; NumPy's own become
what ``pickled_arrays.py`` makes of them. A pickle can only use what is listed below; anything else
is refused by name before it is even looked up.
"""

import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import numpy as np

from hmrkit.body.pickled_arrays import (
    ArrayKind,
    DTypeRecord,
    Record,
    RefusedError,
    array_of_buffer,
    empty_array,
    scalar,
    with_plain_arrays,
)

_RECORDS = {
    *(f"chumpy.ch.{name}" for name in ("Ch", "MatVecMult")),
    *(f"chumpy.ch_ops.{name}" for name in ("add", "dot")),
    *(f"chumpy.reordering.{name}" for name in ("Select", "transpose", "Concatenate", "AtleastNd")),
    *(f"scipy.sparse.{_}{f}.{f}_matrix" for f in ("csc", "csr", "coo") for _ in ("", "_")),
}


class _Function:
    """A function that a pickle may call but, unlike a plain one, not alter."""

    __slots__ = ("_run",)

    def __init__(self, run: Callable) -> None:
        self._run = run

    def __call__(self, *args: Any) -> Any:
        return self._run(*args)

    def __setstate__(self, state: Any) -> None:
        raise RefusedError("a state for a function")


def _rebuild(cls: type, base: type, state: Any) -> Record:
    if not (isinstance(cls, type) and issubclass(cls, Record)):
        raise RefusedError(f"an object of {cls!r}")
    return cls()


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise RefusedError(f"text in the encoding {encoding!r}")
    return text.encode("latin1")


_CALLABLES: dict[str, Callable] = {
    **{f"{module}.set": set for module in ("__builtin__", "builtins")},
    **{f"{module}.frozenset": frozenset for module in ("__builtin__", "builtins")},
    **{f"{module}.object": object for module in ("__builtin__", "builtins")},
    **{f"{module}._reconstructor": _rebuild for module in ("copy_reg", "copyreg")},
    "collections.OrderedDict": OrderedDict,
    "_codecs.encode": _encode,
    "numpy.ndarray": ArrayKind,
    "numpy.dtype": DTypeRecord,
    **{f"numpy.{core}.multiarray._reconstruct": empty_array for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": array_of_buffer for core in ("core", "_core")},
}


def find_allowed(module: str, name: str, extra: Mapping[str, Callable]) -> Any:
    """What a pickle gets for a name that it asks for; for ``find_class`` of an unpickler.

    Raises:
        pickle.UnpicklingError: if the name is neither on the list above nor in ``extra``.
    """
    full = f"{module}.{name}"
    if full in extra:
        found = extra[full]
        return found if isinstance(found, type) else _Function(found)
    if full in _RECORDS:
        return type(name, (Record,), {"kind": full})
    if full in _CALLABLES:
        found = _CALLABLES[full]
        return found if isinstance(found, type) else _Function(found)
    raise RefusedError(f"{full}, which no such file needs")


class _Unpickler(pickle.Unpickler):
    extra: Mapping[str, Callable] = MappingProxyType({})

    def find_class(self, module: str, name: str) -> Any:
        return find_allowed(module, name, self.extra)


@contextmanager
def told_as_value_error(path: Path) -> Iterator[None]:
    """Turn what goes wrong while ``path`` is unpickled into a ValueError that names it."""
    try:
        yield
    except RefusedError as error:
        raise ValueError(
            f"{path} is refused, nothing in it was run: it holds {error}. Use the file as it is "
            "distributed, or an npz of its arrays"
        ) from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise ValueError(f"{path} is damaged or not what it should be: {error!r}") from error


def load_pickle(file: BinaryIO, path: Path, extra: Mapping[str, Callable] | None = None) -> Any:
    """Whatever the pickle holds, with foreign objects as ``Record``.

    Args:
        file: open at the pickle's first byte.
        path: for messages.
        extra: what else this kind of file may call, by the full name it asks for; classes must be
            inert (``Record``), functions must not run what they are given.

    Raises:
        ValueError: if the pickle asks for anything that is not on the list above, or is damaged.
    """
    with told_as_value_error(path):
        unpickler = _Unpickler(file, encoding="latin1")
        unpickler.extra = extra or {}
        return with_plain_arrays(unpickler.load())


def to_array(value: Any) -> np.ndarray:
    """The numbers of an array, a chumpy variable or a sparse matrix.

    Raises:
        TypeError: for anything else.
    """
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value
    if isinstance(value, np.ndarray) and value.ndim == 0:  # how npz files wrap one object
        return to_array(value.item())
    state = value.state if isinstance(value, Record) and isinstance(value.state, dict) else {}
    kind = value.kind.rpartition(".")[2] if state else ""
    if kind == "Ch" and "x" in state:
        return to_array(state["x"])
    if kind == "Select":
        picked = to_array(state["a"]).ravel()[np.asarray(state["idxs"])]
        shape = state.get("preferred_shape")
        return picked if shape is None else picked.reshape(shape)
    if kind == "add":
        return to_array(state["a"]) + to_array(state["b"])
    if kind.endswith("_matrix"):
        return _dense(kind, state)
    raise TypeError(f"no array but {getattr(value, 'kind', '') or type(value).__name__}")


def _dense(kind: str, state: dict) -> np.ndarray:
    """The array of a scipy sparse matrix's state."""
    out = np.zeros(state["_shape"], state["data"].dtype)
    if kind == "coo_matrix":
        rows, columns = state["row"], state["col"]
    else:
        major = np.repeat(np.arange(len(state["indptr"]) - 1), np.diff(state["indptr"]))
        minor = state["indices"]
        rows, columns = (minor, major) if kind == "csc_matrix" else (major, minor)
    np.add.at(out, (rows, columns), state["data"])
    return out
