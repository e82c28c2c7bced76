"""Files of weights, read without executing anything in them."""

import pickle
import re
from collections import OrderedDict
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor


class Inert:
    """What is left of an object in a checkpoint whose class is not loaded."""

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        self.state = state


def read_checkpoint(path: str | Path, inert: Collection[str] = ()) -> dict[str, Any]:
    """What a file made by ``torch.save`` holds: tensors and plain containers only.

    Args:
        path: of the file.
        inert: full names of classes that may occur in it; their objects become ``Inert``, or dicts
            where the class is one. Neither is code.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or holds anything that would have to be executed.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        with torch.serialization.safe_globals([(_shell(name), name) for name in inert]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused is None:
            raise ValueError(f"{path} is not a checkpoint, or is damaged: {error}") from error
        raise ValueError(
            f"{path} holds a {refused[1]} object, which is code and not data; it was not loaded. "
            "Save the file again with tensors, numbers, strings, lists and dicts only"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is not a checkpoint, or is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; a checkpoint is a dict")
    return content


def read_halves(path: str | Path) -> dict[str, Tensor]:
    """Weights that were stored in half precision to be shipped (safetensors), in float32.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    weights = load_file(path)
    return {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}


def _shell(name: str) -> type:
    return OrderedDict if name == "yacs.config.CfgNode" else Inert
