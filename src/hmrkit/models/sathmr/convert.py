"""Official SAT-HMR checkpoints, and DINOv2's weights, to ours."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from hmrkit.keys import rename_keys
from hmrkit.weight_files import read_checkpoint

# Beginning of their name -> ours; None is left behind.
_LAYER = r"decoder\.decoder\.layers\.(\d+)\."
KEYS: dict[str, str | None] = {
    r"encoder\.blocks\.": "encoder.blocks.",
    r"encoder\.additional_blocks\.": "encoder.map_blocks.",
    r"encoder\.norm\.": "encoder.norm.",
    r"encoder_cr_token$": "encoder.class_token",
    r"encoder_pos_embeds$": "encoder.positions",
    r"encoder_patch_proj\.0\.": "encoder.patch_fine.proj.",
    r"encoder_patch_proj\.1\.": "encoder.patch_coarse.proj.",
    r"encoder_patch_proj\.": "encoder.patch_fine.proj.",  # without scale-adaptive tokens
    r"enc_inter_norm\.": "scale_head.norm.",
    r"scale_head\.": "scale_head.mlp.",
    r"feature_proj\.": "feature_proj.",
    r"level_embed$": "level_embed",
    r"tgt_embed\.weight$": "query_content",
    r"refpoint_embed\.weight$": "query_box",
    r"dn_enc\.": "denoiser.embed.",
    rf"{_LAYER}sa_qcontent_proj\.": r"decoder.layers.\1.self_attention.query_content.",
    rf"{_LAYER}sa_qpos_proj\.": r"decoder.layers.\1.self_attention.query_position.",
    rf"{_LAYER}sa_kcontent_proj\.": r"decoder.layers.\1.self_attention.key_content.",
    rf"{_LAYER}sa_kpos_proj\.": r"decoder.layers.\1.self_attention.key_position.",
    rf"{_LAYER}sa_v_proj\.": r"decoder.layers.\1.self_attention.value.",
    rf"{_LAYER}sa_out_proj\.": r"decoder.layers.\1.self_attention.out.",
    rf"{_LAYER}ca_qcontent_proj\.": r"decoder.layers.\1.cross_attention.query_content.",
    rf"{_LAYER}ca_qpos_proj\.": r"decoder.layers.\1.cross_attention.query_position.",
    rf"{_LAYER}ca_kcontent_proj\.": r"decoder.layers.\1.cross_attention.key_content.",
    rf"{_LAYER}ca_kpos_proj\.": r"decoder.layers.\1.cross_attention.key_position.",
    rf"{_LAYER}ca_qpos_sine_proj\.": r"decoder.layers.\1.cross_attention.query_sine.",
    rf"{_LAYER}ca_v_proj\.": r"decoder.layers.\1.cross_attention.value.",
    rf"{_LAYER}ca_out_proj\.": r"decoder.layers.\1.cross_attention.out.",
    rf"{_LAYER}(norm\d|linear\d)\.": r"decoder.layers.\1.\2.",
    r"decoder\.decoder\.norm\.": "decoder.norm.",
    r"decoder\.decoder\.query_scale\.": "decoder.query_scale.",
    r"decoder\.decoder\.ref_point_head\.": "decoder.box_position.",
    r"decoder\.decoder\.ref_anchor_head\.": "decoder.box_size.",
    r"decoder\.decoder\.bbox_embed\.": None,  # the tensors of bbox_embed once more
    r"bbox_embed\.": "decoder.box_heads.",
    r"pose_head\.": "pose_heads.",
    r"shape_head\.": "shape_heads.",
    r"cam_head\.": "cam_head.",
    r"conf_head\.": "conf_head.",
    r"mean_pose$": "mean_pose",
    r"mean_shape$": "mean_betas",
    r"cam_intrinsics$": None,  # follows from the longest side
    r"(z_order_map|y_coords|x_coords)$": None,  # constants
    r"human_model\.": None,  # the licensed body, which hmrkit reads from its own file
}
DINOV2_KEYS: dict[str, str | None] = {
    r"blocks\.": "encoder.blocks.",
    r"norm\.": "encoder.norm.",
    r"patch_embed\.proj\.": "encoder.patch_fine.proj.",
    r"(cls_token|pos_embed)$": None,  # combined below
    r"mask_token$": None,  # for DINOv2's own training
}
# Ours that a file may lack, and what fills them then.
OPTIONAL: dict[str, str] = {
    "num_steps": "0: a training that goes on begins with the labels' scale maps, if it has any",
}
_HEAD_DIM, _PATCH_PX = 64, 14
_STRETCH = 0.1  # added to the side of the position table (DINOv2, against rounding)
# The cut of the authors' evaluation.
_CUT = {
    "_target_": "hmrkit.data.scenes.Scenes",
    "with_antialias": False,
    "geometry": "sathmr",
    "person_joints": "smpl45",
    "min_visible_joints": 0,
    "num_draws": 10,
    "half_resolution_sources": [],
    "augment": None,
    "erase": None,
}


def convert(official: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights by our names and what they need the config to say, by dotted key.

    Number of levels (without level embedding) and depth of the scale map (without blocks of its
    own) cannot be read off weights: they are those of the config.

    Args:
        official: what the file holds, a flat state dict.

    Raises:
        ValueError: naming the first entry of the file that has no place here.
    """
    if "encoder_pos_embeds" not in official:
        raise ValueError(
            f"this file is not a SAT-HMR checkpoint: it holds {', '.join(sorted(official)[:5])} "
            "..., not encoder_pos_embeds"
        )
    state = rename_keys(official, KEYS)
    return state, _config(state)


def _config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    side, _, dim = state["encoder.positions"].shape
    is_adaptive = "scale_head.norm.weight" in state
    size: dict[str, Any] = {
        "long_side_px": side * _PATCH_PX,
        "dim": dim,
        "depth": _count(state, r"encoder\.blocks\.(\d+)\."),
        "num_heads": dim // _HEAD_DIM,
    }
    num_map_blocks = _count(state, r"encoder\.map_blocks\.(\d+)\.")
    if is_adaptive:
        size["with_own_map_blocks"] = num_map_blocks > 0
    if num_map_blocks:
        size["map_depth"] = num_map_blocks
    if "level_embed" in state:
        size["num_levels"] = len(state["level_embed"])
    encoder = {f"model.net.encoder.{name}": value for name, value in size.items()}
    if not is_adaptive:
        target = "hmrkit.models.sathmr.encoder.PlainEncoder"
        encoder = {"model.net.encoder": {"_target_": target, **size}}
    denoiser = {} if "denoiser.embed.weight" in state else {"model.net.denoiser": None}
    return {
        "data.cut": {
            **_CUT,
            "long_side_px": size["long_side_px"],
            "size_divisor": 4 * _PATCH_PX if is_adaptive else _PATCH_PX,
        },
        **encoder,
        **denoiser,
        "model.net.long_side_px": size["long_side_px"],
        "model.net.with_level_embed": "level_embed" in state,
        "model.net.num_queries": len(state["query_box"]),
        "model.net.decoder.dim": len(state["decoder.norm.weight"]),
        "model.net.decoder.depth": _count(state, r"decoder\.layers\.(\d+)\."),
        "model.net.decoder.mlp_dim": len(state["decoder.layers.0.linear1.bias"]),
    }


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return len({match[1] for name in state if (match := re.match(pattern, name))})


def read_dinov2(
    path: str | Path, part: str = "encoder", long_side_px: int = 1288
) -> dict[str, Tensor]:
    """What DINOv2's file gives a part of the network, by the part's own names.

    Args:
        path: ``dinov2_vitb14_pretrain.pth`` or ``dinov2_vitl14_pretrain.pth``.
        part: "encoder", or "scale_head.norm".
        long_side_px: of the network; decides the size of the position table.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not DINOv2's, or the network has no such part.
    """
    state = convert_dinov2(read_checkpoint(path), long_side_px)
    found = {n.removeprefix(f"{part}."): v for n, v in state.items() if n.startswith(f"{part}.")}
    if not found:
        raise ValueError(f"part={part!r}: DINOv2 knows encoder and scale_head.norm")
    return found


def convert_dinov2(official: Mapping[str, Tensor], long_side_px: int) -> dict[str, Tensor]:
    """Weights of the network that DINOv2's file gives: the encoder, and the norm of the scale head.

    The first blocks also become those below the scale map, both patch embeddings begin alike.

    Args:
        official: what the file holds.
        long_side_px: of the network.

    Raises:
        ValueError: naming the first entry that has no place here.
    """
    if "pos_embed" not in official:
        raise ValueError(f"not DINOv2's file: it holds {', '.join(sorted(official)[:5])} ...")
    state = rename_keys(official, DINOV2_KEYS)
    place = official["pos_embed"]  # (1, 1 + side^2, D), the first of the class token
    state["encoder.class_token"] = official["cls_token"][0] + place[0, :1]
    state["encoder.positions"] = resize_positions(place[0, 1:], long_side_px // _PATCH_PX)
    copies = {
        "encoder.blocks.": "encoder.map_blocks.",
        "encoder.norm.": "scale_head.norm.",
        "encoder.patch_fine.": "encoder.patch_coarse.",
    }
    return state | {
        name.replace(beginning, copied): value
        for name, value in state.items()
        for beginning, copied in copies.items()
        if name.startswith(beginning)
    }


def resize_positions(table: Tensor, side: int) -> Tensor:
    """DINOv2's position table (n * n, D) for a square of other size: (side, side, D)."""
    own_side = int(len(table) ** 0.5)
    grid = table.view(1, own_side, own_side, -1).permute(0, 3, 1, 2)
    scale = (side + _STRETCH) / own_side
    return F.interpolate(grid, scale_factor=scale, mode="bicubic")[0].permute(1, 2, 0)
