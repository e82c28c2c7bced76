"""Official PyMAF checkpoints to ours."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hmrkit.keys import rename_keys

# Beginning of their name -> ours; None is left behind.
KEYS: dict[str, str | None] = {
    r"feature_extractor\.": "backbone.",
    r"maf_extractor\.(\d)\.conv": r"samplers.\1.conv",
    r"maf_extractor\.\d\.Dmap": None,  # picks the vertices; read below
    r"regressor\.0\.(init_pose|init_shape|init_cam)": r"\1",
    r"regressor\.[12]\.init_": None,  # the same as the first regressor's
    r"regressor\.\d\.smpl\.": None,  # the licensed body, which hmrkit reads from its own file
    r"regressor\.(\d)\.": r"regressors.\1.",
    r"dp_head\.": "dense.",
    r"points_grid": None,  # a constant
}
# Ours that a file may lack, and what fills them then.
OPTIONAL: dict[str, str] = {}
# What lies beside the weights in their files, and why it is left behind.
DROPPED: dict[str, str] = {
    "optimizer": "training state",
    "epoch": "training state",
    "batch_idx": "training state",
    "batch_size": "training state",
    "total_step_count": "training state",
}
_LAYERS_PER_LEVEL = 3  # deconvolution, norm, ReLU
_NUM_LEVELS = 3


def convert(official: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights by our names and what they need the config to say, by dotted key.

    Args:
        official: what the file holds.

    Raises:
        ValueError: naming the first entry of the file that has no place here.
    """
    unknown = sorted(official.keys() - DROPPED.keys() - {"model"})
    if unknown or "model" not in official:
        problem = f"unknown entry {unknown[0]!r}" if unknown else "no entry 'model'"
        raise ValueError(f"this file is not a PyMAF checkpoint: {problem}")
    weights = official["model"]
    num_loops = len({name.split(".")[1] for name in weights if name.startswith("regressor.")})
    state = rename_keys(weights, {**_deconvolutions(num_loops), **KEYS})
    state["surface.vertex_index"] = _vertex_index(weights)
    return state, {
        "data.cut._target_": "hmrkit.data.spin_crops.SpinCrops",
        "data.cut.input_size": [224, 224],
        "model.net.num_loops": num_loops,
        "model.net.num_points": len(state["surface.vertex_index"]),
    }


def _deconvolutions(num_loops: int) -> dict[str, str]:
    """Their one list of layers -> ours, level by level, the first loop taking those left over."""
    num_first = _NUM_LEVELS - num_loops + 1
    places = [(0, level) for level in range(num_first)] + [(i, 0) for i in range(1, num_loops)]
    return {
        rf"deconv_layers\.{_LAYERS_PER_LEVEL * level + i}\.": f"upsample.{loop}.{place}.{i}."
        for level, (loop, place) in enumerate(places)
        for i in range(_LAYERS_PER_LEVEL)
    }


def _vertex_index(weights: Mapping[str, Tensor]) -> Tensor:
    """The vertices (431,) that the rows of ``Dmap`` pick.

    Raises:
        ValueError: if a row picks none or several.
    """
    rows = weights["maf_extractor.0.Dmap"]
    if not torch.equal(rows.sum(dim=1), (rows == 1).any(dim=1).to(rows.dtype)) or rows.min() < 0:
        raise ValueError("maf_extractor.0.Dmap does not pick one vertex per row")
    return rows.argmax(dim=1)
