"""Tables that pandas pickled, read without pandas and without running what is in them.

A pickled DataFrame is a manager of blocks: arrays of one type, each with the numbers of its
columns. pandas 1.3 and later pickle blocks and axes as arguments, older ones as a state. The
objects become inert records, out of which the arrays are taken.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from hmrkit.body.pickled_arrays import Record
from hmrkit.body.pickles import load_pickle
from hmrkit.data.sources.pickles import ANNOTATION_CALLABLES

_STATE_OF_OLD = "0.14.1"  # the key under which pandas before 1.3 keeps blocks and axes


class _Frame(Record):
    """A DataFrame."""


class _Manager(Record):
    """A BlockManager."""


class _Named(Record):
    """A class of index, array or dtype, which is only named."""


class _Backed(Record):
    """An array of pandas' own, around one of NumPy's."""


def _block(values: Any, placement: Any, _: int) -> dict[str, Any]:
    return {"values": values, "mgr_locs": placement}


def _index(_: type, content: Mapping[str, Any]) -> list[Any]:
    if "data" in content:
        return _items(content["data"])
    return list(range(content["start"], content["stop"], content["step"]))


def _backed(*_: Any) -> _Backed:
    return _Backed()  # its state follows


_CALLABLES: Mapping[str, Callable] = MappingProxyType(
    {
        **ANNOTATION_CALLABLES,
        **{f"{module}.slice": slice for module in ("__builtin__", "builtins")},
        "pandas.core.frame.DataFrame": _Frame,
        "pandas.DataFrame": _Frame,
        "pandas.core.internals.managers.BlockManager": _Manager,
        "pandas._libs.internals._unpickle_block": _block,
        "pandas.core.indexes.base._new_Index": _index,
        "pandas.core.indexes.base.Index": _Named,
        "pandas.Index": _Named,
        "pandas.core.indexes.range.RangeIndex": _Named,
        "pandas.RangeIndex": _Named,
        "pandas.core.indexes.numeric.Int64Index": _Named,
        "pandas._libs.arrays.__pyx_unpickle_NDArrayBacked": _backed,
        "pandas.core.arrays.string_.StringArray": _Named,
        "pandas.arrays.StringArray": _Named,
        "pandas.core.arrays.string_.StringDtype": _Named,
        "pandas.StringDtype": _Named,
    }
)


def read_dataframe(path: str | Path) -> dict[str, list[Any]]:
    """The columns of a pickled DataFrame by name, each with one value per row.

    Raises:
        ValueError: if it holds anything else than numbers, text, lists and arrays, or is damaged.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            frame = load_pickle(file, path, _CALLABLES)
        return _columns(frame)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read as a DataFrame: {error}. Where pandas can read it, have it "
            f"written anew: python -c \"import pandas; p = '{path.name}'; "
            'pandas.read_pickle(p).astype(object).to_pickle(p)"'
        ) from error


def _columns(frame: Any) -> dict[str, list[Any]]:
    if not isinstance(frame, _Frame):
        raise ValueError(f"it holds a {type(frame).__name__}")
    manager = frame.state["_mgr"] if "_mgr" in frame.state else frame.state["_data"]
    if manager.state is None:
        blocks, axes = manager.args[:2]
    else:
        blocks, axes = (manager.state[3][_STATE_OF_OLD][name] for name in ("blocks", "axes"))
    names, num_rows = [str(name) for name in axes[0]], len(axes[1])
    table: dict[str, list[Any]] = {}
    for block in blocks:
        numbers = block["mgr_locs"]
        places = range(len(names))[numbers] if isinstance(numbers, slice) else list(numbers)
        values = block["values"]
        rows = [values] if isinstance(values, _Backed) else list(values)
        for place, row in zip(places, rows, strict=True):
            table[names[place]] = _items(row)
    uneven = [name for name, column in table.items() if len(column) != num_rows]
    if uneven or len(table) != len(names):
        raise ValueError(f"columns {uneven or sorted(set(names) - set(table))} are not whole")
    return {name: table[name] for name in names}


def _items(values: Any) -> list[Any]:
    if isinstance(values, _Backed):  # (dtype, array), in either order
        values = next(part for part in values.state if isinstance(part, np.ndarray))
    if not isinstance(values, Iterable):
        raise ValueError(f"a column is a {type(values).__name__}")
    return list(np.ravel(values)) if isinstance(values, np.ndarray) else list(values)
