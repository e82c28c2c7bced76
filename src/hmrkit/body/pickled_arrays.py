"""NumPy's part of a pickle, made without trusting it.

NumPy believes what a pickle says of a type: bytes of a file that are objects, declared to be none,
are taken for pointers. So a pickle gets neither ``numpy.dtype`` nor ``numpy.ndarray``. The type is
made anew from its text, and an array only from a buffer of exactly its size.
"""

import math
import pickle
import re
from typing import Any

import numpy as np


class Record:
    """What is left of an object of a class that is not loaded: its class's name and its state."""

    kind = ""
    state: Any = None

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        self.state = state


class RefusedError(pickle.UnpicklingError):
    """The pickle asked for something that is not on the list."""


class ArrayKind(Record):
    """Stands for ``numpy.ndarray``; named in a pickle only, every array becomes a plain one."""


class DTypeRecord(Record):
    """Stands for ``numpy.dtype``."""

    args: tuple = ()


class RawArray(np.ndarray):
    """An array while its pickle is read: the only one that a state can be given to, once."""

    __slots__ = ()

    def __setstate__(self, state: tuple) -> None:
        shape, dtype, is_fortran, content = state[-4:]
        if self.size:
            raise RefusedError("a second state for an array")
        if holds_objects(dtype):
            if type(content) is not list or len(content) != size_of(shape):
                raise RefusedError(f"an array {shape} of objects that is not made of as many")
            super().__setstate__((1, shape, np.dtype(object), bool(is_fortran), content))
        else:
            real = raw_dtype(dtype)
            content = _bytes_of(content, size_of(shape) * real.itemsize)
            super().__setstate__((1, shape, real, bool(is_fortran), bytes(content)))


def holds_objects(dtype: Any) -> bool:
    """Whether a pickle's type is that of plain objects, by its text, which is what counts."""
    return isinstance(dtype, DTypeRecord) and dtype.args[:1] in (("O8",), ("O4",), ("O",))


def raw_dtype(dtype: Any) -> np.dtype:
    """The type of numbers or text that a pickle names, made anew from its text and byte order.

    Raises:
        pickle.UnpicklingError: for other types; numbers cannot be made into those.
    """
    text = dtype.args[0] if isinstance(dtype, DTypeRecord) and dtype.args else None
    if not (isinstance(text, str) and re.fullmatch(r"[<>=|]?[biufcSU?]\d{0,9}", text)):
        raise RefusedError(f"an array of the type {text!r} made of raw bytes")
    real = np.dtype(text)
    if not real.itemsize:
        raise RefusedError(f"an array of the type {text!r}, which has no size")
    if dtype.state is None:
        return real
    order = dtype.state[1]
    if order not in ("<", ">", "=", "|"):
        raise RefusedError(f"the byte order {order!r}")
    return real.newbyteorder(order)


def size_of(shape: Any) -> int:
    """The number of elements of an array of that shape, which can be anything.

    Raises:
        pickle.UnpicklingError: if it is no shape.
    """
    if not (
        isinstance(shape, tuple) and all(isinstance(side, int) and side >= 0 for side in shape)
    ):
        raise RefusedError(f"an array of the shape {shape!r}")
    return math.prod(shape)


def _bytes_of(content: Any, num_bytes: int) -> bytes | bytearray:
    if isinstance(content, str):  # of Python 2
        content = content.encode("latin1")
    if not isinstance(content, bytes | bytearray) or len(content) != num_bytes:
        length = f"{len(content)} of" if isinstance(content, bytes | bytearray) else "no bytes but"
        raise RefusedError(f"{length} {type(content).__name__} for an array of {num_bytes} bytes")
    return content


def empty_array(kind: Any, *_: Any) -> RawArray:
    """Stands for ``_reconstruct``; the array's state follows."""
    if not (isinstance(kind, type) and issubclass(kind, ArrayKind)):
        raise RefusedError(f"an array of the class {kind!r}")
    return RawArray(0, np.uint8)


def array_of_buffer(
    buffer: Any, dtype: Any, shape: tuple, order: str, axis_order: tuple | None = None
) -> np.ndarray:
    """Stands for ``_frombuffer``."""
    real = raw_dtype(dtype)
    flat = np.frombuffer(_bytes_of(buffer, size_of(shape) * real.itemsize), real)
    if axis_order is not None:
        return flat.reshape(shape).transpose(axis_order)
    return flat.reshape(shape, order=order)


def scalar(dtype: Any, data: Any = b"") -> np.generic:
    """Stands for NumPy's ``scalar``."""
    real = raw_dtype(dtype)
    return np.frombuffer(_bytes_of(data, real.itemsize), real)[0]


_LEAVES = frozenset({str, int, float, bool, bytes, type(None)})


def with_plain_arrays(value: Any, done: dict[int, tuple[Any, Any]] | None = None) -> Any:
    """What was unpickled, with its ``RawArray`` as plain arrays; containers are changed in place.

    Args:
        value: with containers in it, which may be shared and hold each other.
        done: by identity, what was met and what became of it.
    """
    done = {} if done is None else done
    kind = type(value)
    if kind in _LEAVES or (kind is np.ndarray and value.dtype != object):
        return value
    if id(value) in done:
        return done[id(value)][1]
    if kind is tuple:
        items = [with_plain_arrays(item, done) for item in value]
        changed = any(new is not old for new, old in zip(items, value, strict=True))
        done[id(value)] = value, tuple(items) if changed else value
        return done[id(value)][1]
    plain = value.view(np.ndarray) if kind is RawArray else value
    done[id(value)] = value, plain
    if isinstance(plain, np.ndarray):
        inside = plain.ravel("K") if plain.dtype == object else ()  # of one piece: no copy
        pairs: Any = enumerate(inside)
    elif isinstance(value, Record):
        inside = vars(value)
        pairs = inside.items()
    elif isinstance(value, dict):
        inside, pairs = value, value.items()
    elif isinstance(value, list):
        inside, pairs = value, enumerate(value)
    elif isinstance(value, set | frozenset):  # what is in these has no arrays but in its state
        inside, pairs = {}, enumerate(value)
    else:
        return plain
    changes = [(key, old, with_plain_arrays(old, done)) for key, old in pairs]
    for key, old, new in changes:
        if new is not old:
            inside[key] = new
    return plain
