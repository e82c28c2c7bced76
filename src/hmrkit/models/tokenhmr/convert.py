"""Official TokenHMR checkpoints (the authors' Lightning files) to ours.

The authors keep the tokenizer in a file of its own, ``tokenizer.pth``; ours is part of the network.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hmrkit.keys import rename_keys
from hmrkit.weight_files import read_checkpoint, read_halves

# Beginning of their name -> ours; None is left behind.
_LAYER = r"smpl_head\.transformer\.transformer\.layers\.(\d+)\."
_MIXER = r"smpl_head\.decpose\.mixer_head\.(\d+)\."
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
    r"smpl_head\.decpose\.mixer_trans\.ff\.": "head.decpose.mixer_trans.",
    rf"{_MIXER}layernorm(\d)\.": r"head.decpose.mixer_head.\1.norm\2.",
    rf"{_MIXER}MLP_(token|channel)\.ff\.0\.": r"head.decpose.mixer_head.\1.mlp_\2.0.",
    rf"{_MIXER}MLP_(token|channel)\.ff\.3\.": r"head.decpose.mixer_head.\1.mlp_\2.2.",
    r"smpl_head\.decpose\.mixer_norm_layer\.ff\.": "head.decpose.mixer_norm_layer.",
    r"smpl_head\.decpose\.class_pred_layer\.": "head.decpose.class_pred_layer.",
    r"smpl_head\.(decpose_grot|decpose_hands|decshape|deccam)\.": r"head.\1.",
    r"smpl_head\.(init_body_pose|init_betas|init_cam)": r"head.\1",
    r"discriminator\.": None,  # part of the training, not of the network
    r"smpl\.": None,  # the licensed body, which hmrkit reads from its own file
    r"initialized": None,  # a flag of their logger
}
TOKENIZER_KEYS: dict[str, str | None] = {
    r"encoder\.encoder\.0\.": "encoder.first.",
    r"encoder\.encoder\.3\.": "encoder.upsampled.0.",
    r"encoder\.encoder\.6\.": "encoder.upsampled.1.",
    r"encoder\.encoder\.9\.": "encoder.upsampled.2.",
    r"encoder\.encoder\.12\.": "encoder.upsampled.3.",
    r"encoder\.encoder\.14\.0\.": "encoder.halve.",
    r"encoder\.encoder\.14\.1\.model\.": "encoder.residual.",
    r"encoder\.encoder\.15\.": "encoder.last.",
    r"quantizer\.codebook": "quantizer.codebook",
    r"decoder\.decoder\.0\.": "decoder.first.",
    r"decoder\.decoder\.3\.": "decoder.resampled.0.",
    r"decoder\.decoder\.6\.": "decoder.resampled.1.",
    r"decoder\.decoder\.9\.": "decoder.resampled.2.",
    r"decoder\.decoder\.12\.": "decoder.resampled.3.",
    r"decoder\.decoder\.14\.0\.model\.": "decoder.residual.",
    r"decoder\.decoder\.14\.1\.": "decoder.middle.",
    r"decoder\.decoder\.15\.": "decoder.last.",
    r"body_model": None,  # the licensed body, in older files
}
# Ours that a file may lack, and what fills them then.
OPTIONAL: dict[str, str] = {
    "head.tokenizer.quantizer.code_sum": "nothing: the authors do not save the moving averages",
    "head.tokenizer.quantizer.code_count": "nothing, likewise",
}
# Classes in their files that become empty shells, and why they are there.
INERT: dict[str, str] = {
    "yacs.config.CfgNode": "the run's options, in hyper_parameters and hparams",
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
FILES = ("tokenizer",)  # options of ``convert`` that are files of the same kind


def convert(
    official: Mapping[str, Any], tokenizer: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights by our names and what they need the config to say, by dotted key.

    Args:
        official: what the file holds.
        tokenizer: what ``tokenizer.pth`` holds.

    Raises:
        ValueError: naming the first entry of a file that has no place here.
    """
    if "state_dict" not in official:
        raise ValueError(f"no TokenHMR checkpoint: it has {sorted(official)}, not a state_dict")
    state = rename_keys(official["state_dict"], KEYS)
    for name, value in convert_tokenizer(tokenizer).items():
        state[f"head.tokenizer.{name}"] = value
    return state, {**DATA, "model.net.backbone.depth": _count_blocks(state)}


def convert_tokenizer(official: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights of ``PoseTokenizer`` from what ``tokenizer.pth`` holds.

    Raises:
        ValueError: naming the first entry of the file that has no place here.
    """
    if "net" not in official:
        raise ValueError(f"no tokenizer.pth: it has {sorted(official)}, not an entry 'net'")
    return rename_keys(official["net"], TOKENIZER_KEYS)


def read_tokenizer(path: str | Path | None) -> dict[str, Tensor]:
    """Weights of ``PoseTokenizer`` from a file.

    Args:
        path: the authors' ``tokenizer.pth``; a checkpoint of our stage one; None for the small
            tokenizer that comes with hmrkit (``tools/make_tiny_tokenizer.py``).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is neither.
    """
    if path is None:
        return read_halves(Path(__file__).with_name("tiny_tokenizer.safetensors"))
    content = read_checkpoint(path, INERT)
    if "net" in content:
        state = convert_tokenizer(content)
        codes = state["quantizer.codebook"]  # its moving averages are not in the file: as at start
        return state | {
            "quantizer.code_sum": codes.clone(),
            "quantizer.code_count": torch.ones(len(codes)),
        }
    prefix = "net.tokenizer."
    weights = content.get("state_dict", {})
    state = {n.removeprefix(prefix): v for n, v in weights.items() if n.startswith(prefix)}
    if not state:
        raise ValueError(
            f"{path} is neither the authors' tokenizer.pth nor a checkpoint of "
            "experiment=tokenhmr_tokenizer"
        )
    return state


def _count_blocks(state: Mapping[str, Tensor]) -> int:
    return len({m[1] for name in state if (m := re.match(r"backbone\.blocks\.(\d+)\.", name))})
