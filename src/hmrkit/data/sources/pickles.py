"""Annotation files that are pickles, read without running what is in them.

On top of what body models need (``body/pickles.py``): torch tensors, which become arrays.
"""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from hmrkit.body.pickles import load_pickle


def _storage(data: bytes) -> torch.UntypedStorage:
    """The storage of a pickled tensor; torch itself refuses code in it."""
    return torch.load(io.BytesIO(data), weights_only=True)


def _tensor(storage: Any, offset: int, size: tuple, stride: tuple, *_: Any) -> np.ndarray:
    flat = torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage)
    return flat.as_strided(size, stride, offset).clone().numpy()


ANNOTATION_CALLABLES: Mapping[str, Callable] = MappingProxyType(
    {
        "torch.storage._load_from_bytes": _storage,
        "torch._utils._rebuild_tensor_v2": _tensor,
    }
)


def read_pickle(path: str | Path) -> Any:
    """What an annotation pickle holds, tensors as arrays.

    Raises:
        ValueError: if it asks for anything else than arrays and plain containers, or is damaged.
    """
    with Path(path).open("rb") as file:
        return load_pickle(file, Path(path), ANNOTATION_CALLABLES)
