"""From a checkpoint to a network that can be shown pictures, and how it is shown them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate

from hmrkit import configs
from hmrkit.checkpoints import load_checkpoint


def load_for_pictures(
    checkpoint: Path, device: str = "auto", trusted: Sequence[str] = ()
) -> tuple[Any, Callable]:
    """The module in eval mode on its device, and the cut it was trained on, unaugmented.

    Args:
        checkpoint: of ``hmrkit.train`` or ``hmrkit.convert``.
        device: auto, cpu, cuda, cuda:1, mps.
        trusted: packages, beside hmrkit and torch, whose classes the checkpoint may name.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no checkpoint of ours, if there is no such device here, or if its
            method looks at several cameras at once.
    """
    module = load_checkpoint(checkpoint, trusted=trusted)
    device = best_device() if device == "auto" else device
    try:
        module = module.to(device).eval()
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device={device} cannot be used here: {error}; python -m hmrkit.doctor shows what can"
        ) from error
    # Nothing is augmented, and no label decides on a box or on who is shown.
    node = configs.cut_node(module.config["data"], "eval", "demo")
    labelled = {"augment": None, "box_joints": None, "erase": None, "min_visible_joints": 0}
    cut = instantiate(node | {key: labelled[key] for key in labelled if key in node})
    if cut.unit != "view" and not hasattr(cut, "long_side_px"):
        raise ValueError(
            f"checkpoint={checkpoint} predicts from {type(cut).__name__}, several cameras at once; "
            "the demo runs methods that look at a crop or at a whole picture"
        )
    return module, cut


def best_device() -> str:
    """A CUDA GPU if there is one, else Apple's, else the CPU."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
