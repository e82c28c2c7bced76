"""Official HMR2.0 checkpoints (4D-Humans' Lightning files) to ours."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hmrkit.keys import rename_keys

# Beginning of their name -> ours; None is left behind.
_LAYER = r"smpl_head\.transformer\.transformer\.layers\.(\d+)\."
KEYS: dict[str, str | None] = {
    r"backbone\.": "backbone.",
    rf"{_LAYER}0\.norm\.": r"head.transformer.layers.\1.norm1.",
    rf"{_LAYER}0\.fn\.to_qkv\.": r"head.transformer.layers.\1.self_attention.to_qkv.",
    rf"{_LAYER}0\.fn\.to_out\.0\.": r"head.transformer.layers.\1.self_attention.to_out.",
    rf"{_LAYER}1\.norm\.": r"head.transformer.layers.\1.norm2.",
    rf"{_LAYER}1\.fn\.to_(q|kv)\.": r"head.transformer.layers.\1.cross_attention.to_\2.",
    rf"{_LAYER}1\.fn\.to_out\.0\.": r"head.transformer.layers.\1.cross_attention.to_out.",
    rf"{_LAYER}2\.norm\.": r"head.transformer.layers.\1.norm3.",
    rf"{_LAYER}2\.fn\.net\.0\.": r"head.transformer.layers.\1.mlp.0.",
    rf"{_LAYER}2\.fn\.net\.3\.": r"head.transformer.layers.\1.mlp.2.",
    r"smpl_head\.transformer\.(to_token_embedding|pos_embedding)": r"head.transformer.\1",
    r"smpl_head\.(decpose|decshape|deccam)\.": r"head.\1.",
    r"smpl_head\.(init_body_pose|init_betas|init_cam)": r"head.\1",
    r"discriminator\.": None,  # part of the training, not of the network
    r"smpl\.": None,  # the licensed body, which hmrkit reads from its own file
    r"initialized": None,  # a flag of their logger
}
# Ours that a file may lack, and what fills them then.
OPTIONAL: dict[str, str] = {}
# Classes in their files that become empty shells, and why they are there.
INERT: dict[str, str] = {
    "yacs.config.CfgNode": "the run's options, in hyper_parameters",
    "omegaconf.dictconfig.DictConfig": "the same",
    "omegaconf.listconfig.ListConfig": "the same",
    "omegaconf.base.ContainerMetadata": "the same",
    "omegaconf.base.Metadata": "the same",
    "omegaconf.nodes.AnyNode": "the same",
    "typing.Any": "the same",
    "collections.defaultdict": "the same",
    "builtins.dict": "the same",
    "builtins.list": "the same",
    "builtins.int": "the same",
}
# The authors' crops, as configs_hydra/data/fourdhumans.yaml has them.
DATA: dict[str, Any] = {
    "data.cut.input_size": [256, 256],
    "data.cut.with_antialias": False,
    "data.eval_cut": {"fit_aspect_hw": [256, 192]},
    "data.demo_cut": {"box_scale": 1.0, "with_antialias": True, "antialias_filter": "gaussian"},
}


def convert(official: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights by our names and what they need the config to say, by dotted key.

    Args:
        official: what the file holds.

    Raises:
        ValueError: naming the first entry of the file that has no place here.
    """
    if "state_dict" not in official:
        raise ValueError(f"no HMR2.0 checkpoint: it has {sorted(official)}, not a state_dict")
    state = rename_keys(official["state_dict"], KEYS)
    return state, {**DATA, "model.net.backbone.depth": _count_blocks(state)}


def _count_blocks(state: Mapping[str, Tensor]) -> int:
    return len({m[1] for name in state if (m := re.match(r"backbone\.blocks\.(\d+)\.", name))})
