"""Official HeatFormer checkpoints to ours, and the parts that its training begins with."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hmrkit.keys import rename_keys
from hmrkit.weight_files import read_checkpoint

# Of a part's own names -> ours, for files that hold the part alone; None is left behind.
_ESTIMATOR_LAYER = r"decoder\.transformer\.layers\.(\d+)\."
_ENCODER_LAYER = r"Encoder\.Transformer\.layers\.(\d+)\."
_DECODER_LAYER = r"transformer\.layers\.(\d+)\."
_HEATMAPPER: dict[str, str | None] = {
    r"(conv1|bn1|layer\d|deconv_layers|final_layer)\.": r"\1.",
}
_BACKBONE: dict[str, str | None] = {
    r"(pos_embed|patch_embed|blocks|last_norm)": r"\1",
}
_HEAT_ENCODER: dict[str, str | None] = {
    rf"{_ENCODER_LAYER}0\.norm\.": r"layers.\1.norm1.",
    rf"{_ENCODER_LAYER}0\.f\.x_to_(q|k|v)\.": r"layers.\1.attention.to_\2.",
    rf"{_ENCODER_LAYER}0\.f\.out_layer\.": r"layers.\1.attention.to_out.",
    rf"{_ENCODER_LAYER}1\.norm\.": r"layers.\1.norm2.",
    rf"{_ENCODER_LAYER}1\.f\.layer\.0\.": r"layers.\1.mlp.0.",
    rf"{_ENCODER_LAYER}1\.f\.layer\.3\.": r"layers.\1.mlp.2.",
    r"Encoder\.(to_token_embedding|pos_embedding)": r"\1",
}
_INITIAL: dict[str, str | None] = {
    rf"{_ESTIMATOR_LAYER}0\.norm\.": r"decoder.layers.\1.norm1.",
    rf"{_ESTIMATOR_LAYER}0\.fn\.to_qkv\.": r"decoder.layers.\1.self_attention.to_qkv.",
    rf"{_ESTIMATOR_LAYER}0\.fn\.to_out\.0\.": r"decoder.layers.\1.self_attention.to_out.",
    rf"{_ESTIMATOR_LAYER}1\.norm\.": r"decoder.layers.\1.norm2.",
    rf"{_ESTIMATOR_LAYER}1\.fn\.to_(q|kv)\.": r"decoder.layers.\1.cross_attention.to_\2.",
    rf"{_ESTIMATOR_LAYER}1\.fn\.to_out\.0\.": r"decoder.layers.\1.cross_attention.to_out.",
    rf"{_ESTIMATOR_LAYER}2\.norm\.": r"decoder.layers.\1.norm3.",
    rf"{_ESTIMATOR_LAYER}2\.fn\.net\.0\.": r"decoder.layers.\1.mlp.0.",
    rf"{_ESTIMATOR_LAYER}2\.fn\.net\.3\.": r"decoder.layers.\1.mlp.2.",
    r"decoder\.(to_token_embedding|pos_embedding)": r"decoder.\1",
    r"decpose\.": "decroot.",  # 24 rotations, of which the first is used; cut below
    r"decshape\.": None,  # never used
    r"deccam\.": "deccam.",
}
_ADAFUSE: dict[str, str | None] = {
    r"resnet\.": "",
    r"view_weight_net\.": None,  # the learned fusion, which HeatFormer never runs
    r"smooth2dloss\.": None,  # constants of a loss
}
# Our part -> names in the file of that part. AdaFuse's file holds a heatmapper behind "resnet.".
PARTS: dict[str, dict[str, str | None]] = {
    "heatmapper": {**_ADAFUSE, **_HEATMAPPER},
    "backbone": _BACKBONE,
    "heat_encoder": _HEAT_ENCODER,
    "initial": _INITIAL,
}
_PREFIXES = {
    "heatmapper": r"fuser\.",
    "backbone": r"img_backbone\.",
    "heat_encoder": r"fuse_encoder\.",
    "initial": r"GCEstimator\.",
}
# Beginning of their name -> ours; None is left behind.
KEYS: dict[str, str | None] = {
    **{
        _PREFIXES[part] + pattern: None if ours is None else f"{part}.{ours}"
        for part, table in PARTS.items()
        for pattern, ours in table.items()
    },
    rf"Decoder\.{_DECODER_LAYER}0\.norm\.": r"decoder.layers.\1.norm1.",
    rf"Decoder\.{_DECODER_LAYER}0\.f\.x_to_(q|k|v)\.": r"decoder.layers.\1.self_attention.to_\2.",
    rf"Decoder\.{_DECODER_LAYER}0\.f\.out_layer\.": r"decoder.layers.\1.self_attention.to_out.",
    rf"Decoder\.{_DECODER_LAYER}1\.norm\.": r"decoder.layers.\1.norm2.",
    rf"Decoder\.{_DECODER_LAYER}1\.f\.x_to_(q|k|v)\.": r"decoder.layers.\1.cross_attention.to_\2.",
    rf"Decoder\.{_DECODER_LAYER}1\.f\.out_layer\.": r"decoder.layers.\1.cross_attention.to_out.",
    rf"Decoder\.{_DECODER_LAYER}2\.norm\.": r"decoder.layers.\1.norm3.",
    rf"Decoder\.{_DECODER_LAYER}2\.f\.layer\.0\.": r"decoder.layers.\1.mlp.0.",
    rf"Decoder\.{_DECODER_LAYER}2\.f\.layer\.3\.": r"decoder.layers.\1.mlp.2.",
    r"Decoder\.to_token_embedding\.": "decoder.to_token_embedding.",
    r"pos_embed\.adapt_pos3d\.0\.": "position.linear1.",
    r"pos_embed\.adapt_pos3d\.2\.": "position.linear2.",
    r"(decpose|decshape)_smpl\.": r"\1.",
    r"smpl\.init_pose": "initial.init_pose",
    r"smpl\.init_shape": "initial.init_betas",
    r"smpl\.init_cam": "initial.init_cam",
    r"smpl\.": None,  # the licensed body, which hmrkit reads from its own file
}
# Ours that a file may lack, and what fills them then.
OPTIONAL: dict[str, str] = {}
# What lies beside the weights in their files, and why it is left behind.
DROPPED: dict[str, str] = {
    "epoch": "training state",
    "performance": "the validation error, a NumPy number",
    "optimizer": "training state",
    "discriminator": "part of the training, not of the network",
    "optimizer_disc": "training state",
}
# Classes in their files that become empty shells, and why they are there.
INERT: dict[str, str] = {
    "numpy.core.multiarray.scalar": "the validation error, in performance",
    "numpy._core.multiarray.scalar": "the same, of a newer NumPy",
    "numpy.dtype": "its type",
    "numpy.dtypes.Float32DType": "the same",
    "numpy.dtypes.Float64DType": "the same",
    "_codecs.encode": "its bytes",
}
# How their rigs are cut: data/heatformer.yaml.
_CUT: dict[str, Any] = {
    "_target_": "hmrkit.data.multiview.MultiView",
    "num_views": 4,
    "crops": {
        "_target_": "hmrkit.data.crops.Crops",
        "input_size": [256, 256],
        "box_scale": 0.9,
        "fit_aspect_hw": [4, 3],
        "with_antialias": False,
        "augment": None,
    },
    "keypoint_crops": {
        "_target_": "hmrkit.data.width_crops.WidthCrops",
        "input_size": [384, 384],
        "box_scale": 1.2,
        "with_antialias": False,
    },
}
_NUM_LAYERS = {  # of a ResNet by the blocks of its third stage, and by whether they are bottlenecks
    (2, False): 18, (6, False): 34, (6, True): 50, (23, True): 101, (36, True): 152,
}  # fmt: skip


def convert(
    official: Mapping[str, Any], num_iterations: int = 3
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights by our names and what they need the config to say, by dotted key.

    Args:
        official: what the file holds.
        num_iterations: which the weights were trained for; the file does not say it, its name does.

    Raises:
        ValueError: naming the first entry of the file that has no place here.
    """
    unknown = sorted(official.keys() - DROPPED.keys() - {"model"})
    if unknown or "model" not in official:
        problem = f"unknown entry {unknown[0]!r}" if unknown else "no entry 'model'"
        raise ValueError(f"this file is not a HeatFormer checkpoint: {problem}")
    state = _in_our_shapes(rename_keys(official["model"], KEYS))
    is_deep = any(re.match(r"heatmapper\.layer1\.0\.conv3\.", name) for name in state)
    num_blocks = _count(r"heatmapper\.layer3\.(\d+)\.", state)
    if (num_blocks, is_deep) not in _NUM_LAYERS:
        raise ValueError(f"fuser.resnet has {num_blocks} blocks in layer3: no ResNet known here")
    return state, {
        "data.cut": _CUT,
        "data.batch_size": 8,
        "model.net.num_iterations": num_iterations,
        "model.net.heatmapper.num_layers": _NUM_LAYERS[num_blocks, is_deep],
        "model.net.backbone.depth": _count(r"backbone\.blocks\.(\d+)\.", state),
        "model.net.heat_encoder.depth": _count(r"heat_encoder\.layers\.(\d+)\.", state),
        "model.net.decoder.depth": _count(r"decoder\.layers\.(\d+)\.", state),
    }


def convert_part(part: str, official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of one part, by its own names, out of the file that its training begins with.

    Args:
        part: of the network, a key of ``PARTS``.
        official: ``heatmapper.pth.tar`` or ``adafuse.pth.tar`` (heatmapper), ``img_vit.pth.tar``
            (backbone), ``gcestimator.pth.tar`` (initial), ``HeatEncoder.pth.tar`` (heat_encoder);
            each is a bare state dict.

    Raises:
        ValueError: naming the first entry of the file that has no place in that part.
    """
    if part not in PARTS:
        raise ValueError(f"no part {part!r}; there are {', '.join(PARTS)}")
    return _in_our_shapes(rename_keys(official, PARTS[part]))


def read_part(part: str, path: str | Path) -> dict[str, Tensor]:
    """The weights of one part out of a file; for ``initial_weights``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file holds anything else.
    """
    return convert_part(part, read_checkpoint(path))


def _in_our_shapes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """1x1 convolutions as linear layers; of 24 rotations the root."""
    shaped = {}
    for name, value in state.items():
        if re.match(r"position\.linear\d\.weight$", name):
            value = value.flatten(1)
        if re.search(r"decroot\.(weight|bias)$", name):
            value = value[:6]
        shaped[name] = value
    return shaped


def _count(pattern: str, names: Mapping[str, Tensor]) -> int:
    return len({found[1] for name in names if (found := re.match(pattern, name))})
