"""Official Meta-HMR checkpoints, both networks, to ours."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from hmrkit.keys import rename_keys

# Beginning of their name -> ours; None is left behind. The same in both networks.
KEYS: dict[str, str | None] = {
    r"backbone\.final_layer\.": None,  # joint heatmaps, which nothing reads
    r"(?:backbone|encoder)\.": "backbone.",
    r"(conv1|bn1|layer[1-4])\.": r"backbone.\1.",
    r"(fc1|fc2|decpose|decshape|deccam)\.": r"head.\1.",
    r"(init_pose|init_shape|init_cam)$": r"head.\1",
}
# Ours that a file may lack, and what fills them then.
OPTIONAL: dict[str, str] = {}
# What lies beside the weights in their files, and why it is left behind.
DROPPED: dict[str, str] = {
    "optimizer": "training state",
    "epoch": "training state",
    "batch_idx": "training state",
    "batch_size": "training state",
    "dataset_perm": "training state",
    "total_step_count": "training state",
}
NETWORKS = {"main": ("model", 10), "auxiliary": ("model_aux", 3)}  # ours: entry, iterations
_NUM_ESTIMATE = 144 + 10 + 3  # of fc1's inputs: the running pose, shape and camera
_NETS = {0: "hmrkit.models.hmr.model.HMR", 3: "hmrkit.models.hmr.cliff.CLIFF"}  # by box inputs


def convert(
    official: Mapping[str, Any], input_size: Sequence[int] = (256, 192)
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights by our names and what they need the config to say, by dotted key.

    Args:
        official: what the file holds.
        input_size: height and width the networks were trained at, which the file does not say:
            256, 192 ("rect", the released ones) or 224, 224 ("square").

    Raises:
        ValueError: naming the first entry of the file that has no place here.
    """
    entries = {entry for entry, _ in NETWORKS.values()}
    unknown = sorted(official.keys() - DROPPED.keys() - entries)
    missing = sorted(entries - official.keys())
    if unknown or missing:
        problem = f"unknown entry {unknown[0]!r}" if unknown else f"no entry {missing[0]!r}"
        raise ValueError(f"this file is not a Meta-HMR checkpoint: {problem}")
    state, needed = {}, {}
    for ours, (entry, iterations) in NETWORKS.items():
        weights = rename_keys(official[entry], KEYS)
        node = f"model.net.{ours}"
        needed |= {
            f"{node}._target_": _net(weights),
            f"{node}.backbone": _backbone(weights),
            f"{node}.input_size": list(input_size),
            f"{node}.num_iterations": iterations,
        }
        state |= {f"{ours}.{name}": value for name, value in weights.items()}
    return state, {
        "data.cut.input_size": list(input_size),
        "data.cut.fit_aspect_hw": [4, 3],  # the authors' boxes, also around square crops
        "data.cut.box_joints": "spin24",  # of the labels, whatever box is stored
        "data.cut.half_resolution_sources": ["pw3d", "pw3d_metahmr"],
        **needed,
    }


def _backbone(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The config of the backbone that a network's weights, by our names, belong to."""
    if "backbone.conv2.weight" not in state:
        return {"_target_": "hmrkit.layers.resnet.ResNet", "layers": _count_blocks(state)}
    name = "PoseHRNet" if _is_pose_hrnet(state) else "ClassificationHRNet"
    return {"_target_": f"hmrkit.layers.hrnet.{name}"}


def _is_pose_hrnet(state: Mapping[str, Tensor]) -> bool:
    return any(name.startswith("backbone.downsample_stage_1.") for name in state)


def _net(state: Mapping[str, Tensor]) -> str:
    """HMR or CLIFF, by the inputs that ``fc1`` has beside feature and estimate."""
    if "head.fc1.weight" not in state:
        raise ValueError("this file is not a Meta-HMR checkpoint: a network has no 'fc1.weight'")
    num_features = 720 if _is_pose_hrnet(state) else 2048
    num_inputs = state["head.fc1.weight"].shape[1]
    num_box = num_inputs - num_features - _NUM_ESTIMATE
    if num_box not in _NETS:
        raise ValueError(f"fc1 has {num_inputs} inputs, which is neither HMR's nor CLIFF's number")
    return _NETS[num_box]


def _count_blocks(state: Mapping[str, Tensor]) -> list[int]:
    """Blocks in each of the ResNet's four stages."""
    found = [re.match(r"backbone\.layer(\d)\.(\d+)\.", name) for name in state]
    blocks = {(int(match[1]), int(match[2])) for match in found if match}
    return [sum(stage == wanted for stage, _ in blocks) for wanted in (1, 2, 3, 4)]
