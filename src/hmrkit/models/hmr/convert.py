"""Official checkpoints of HMR and CLIFF (Meta-HMR's, SPIN's and CLIFF's own) to ours."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from hmrkit.keys import rename_keys

# Beginning of their name -> ours; None is left behind.
KEYS: dict[str, str | None] = {
    r"(?:module\.)?backbone\.final_layer\.": None,  # joint heatmaps, which nothing reads
    r"(?:module\.)?(?:backbone|encoder)\.": "backbone.",
    r"(?:module\.)?(conv1|bn1|layer[1-4])\.": r"backbone.\1.",
    r"(?:module\.)?(fc1|fc2|decpose|decshape|deccam)\.": r"head.\1.",
    r"(?:module\.)?(init_pose|init_shape|init_cam)$": r"head.\1",
}
# Ours that a file may lack, and what fills them then.
OPTIONAL: dict[str, str] = {
    "head.init_pose": "the body model's mean pose",
    "head.init_shape": "the body model's mean shape",
    "head.init_cam": "SPIN's mean camera",
}

# What lies beside the weights in their files, and why it is left behind.
DROPPED: dict[str, str] = {
    "optimizer": "training state",
    "epoch": "training state",
    "batch_idx": "training state",
    "batch_size": "training state",
    "dataset_perm": "training state",
    "total_step_count": "training state",
}
NETWORKS = {"main": ("model", 10), "auxiliary": ("model_aux", 3)}  # entry, iterations
_ALONE = 3  # iterations of a network that has no auxiliary one beside it: CLIFF's and SPIN's own


def convert(
    official: Mapping[str, Any],
    network: str = "main",
    input_size: Sequence[int] = (256, 192),
    num_iterations: int | None = None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights by our names and what they need the config to say, by dotted key.

    Args:
        official: what the file holds.
        network: ``main``, or ``auxiliary``, Meta-HMR's source of pseudo labels. SPIN's and CLIFF's
            own files have one network, ``main`` here.
        input_size: height and width the network was trained at, which its file does not say:
            256, 192 ("rect": Meta-HMR's released ones and CLIFF's own) or 224, 224 ("square",
            SPIN).
        num_iterations: None takes the authors' number: 10 for Meta-HMR's ``main``, else 3.

    Raises:
        ValueError: naming the first entry of the file that has no place here.
    """
    if network not in NETWORKS:
        raise ValueError(f"no network {network!r} in an HMR checkpoint; choose main or auxiliary")
    entry, iterations = NETWORKS[network]
    known = {name for name, _ in NETWORKS.values()} | DROPPED.keys()
    unknown = sorted(official.keys() - known)
    if unknown:
        raise ValueError(
            f"this file is not an HMR checkpoint: unknown entry {unknown[0]!r} beside the weights "
            f"(known: {', '.join(sorted(known))})"
        )
    if entry not in official:
        raise ValueError(f"this file has no {network} network: there is no entry {entry!r} in it")
    if "model_aux" not in official:
        iterations = _ALONE
    state = rename_keys(official[entry], KEYS)
    return state, {
        "data.cut.input_size": list(input_size),
        "data.cut.fit_aspect_hw": [4, 3],  # the authors' boxes, also around square crops
        "data.cut.half_resolution_sources": ["pw3d", "pw3d_metahmr"],
        "model.net.input_size": list(input_size),
        "model.net.num_iterations": num_iterations or iterations,
        "model.net.backbone": backbone_node(state),
    }


def backbone_node(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The config of the backbone that ``backbone.`` weights, by our names, belong to."""
    if "backbone.conv2.weight" not in state:
        return {"_target_": "hmrkit.layers.resnet.ResNet", "layers": _count_blocks(state)}
    is_pose = any(name.startswith("backbone.downsample_stage_1.") for name in state)
    name = "PoseHRNet" if is_pose else "ClassificationHRNet"
    return {"_target_": f"hmrkit.layers.hrnet.{name}"}


def _count_blocks(state: Mapping[str, Tensor]) -> list[int]:
    """Blocks in each of the ResNet's four stages."""
    found = [re.match(r"backbone\.layer(\d)\.(\d+)\.", name) for name in state]
    blocks = {(int(match[1]), int(match[2])) for match in found if match}
    return [sum(stage == wanted for stage, _ in blocks) for wanted in (1, 2, 3, 4)]
