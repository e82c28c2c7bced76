"""Official HMR checkpoints (Meta-HMR's and SPIN's) to ours."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

# Their entry (the part before the first dot) -> ours.
ENTRIES: dict[str, str] = {
    "conv1": "backbone.conv1",
    "bn1": "backbone.bn1",
    "layer1": "backbone.layer1",
    "layer2": "backbone.layer2",
    "layer3": "backbone.layer3",
    "layer4": "backbone.layer4",
    "fc1": "head.fc1",
    "fc2": "head.fc2",
    "decpose": "head.decpose",
    "decshape": "head.decshape",
    "deccam": "head.deccam",
    "init_pose": "head.init_pose",
    "init_shape": "head.init_shape",
    "init_cam": "head.init_cam",
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


def convert(
    official: Mapping[str, Any],
    network: str = "main",
    input_size: Sequence[int] = (256, 192),
    num_iterations: int | None = None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights by our names and what they need the config to say, by dotted key.

    Args:
        official: what the file holds.
        network: ``main``, or ``auxiliary``, Meta-HMR's source of pseudo labels. SPIN's file has one
            network, ``main`` here, which takes ``num_iterations=3``.
        input_size: height and width the network was trained at, which its file does not say:
            256, 192 ("rect", the released ones) or 224, 224 ("square", SPIN).
        num_iterations: None takes the authors' number, 10 for ``main`` and 3 for ``auxiliary``.

    Raises:
        ValueError: naming the first entry of the file that has no place here.
    """
    if network not in NETWORKS:
        raise ValueError(f"no network {network!r} in an HMR checkpoint; choose main or auxiliary")
    entry, default_iterations = NETWORKS[network]
    known = {name for name, _ in NETWORKS.values()} | DROPPED.keys()
    unknown = sorted(official.keys() - known)
    if unknown:
        raise ValueError(
            f"this file is not an HMR checkpoint: unknown entry {unknown[0]!r} beside the weights "
            f"(known: {', '.join(sorted(known))})"
        )
    if entry not in official:
        raise ValueError(f"this file has no {network} network: there is no entry {entry!r} in it")
    state = convert_state_dict(official[entry])
    return state, {
        "data.cut.input_size": list(input_size),
        "data.cut.fit_aspect_hw": [4, 3],  # the authors' boxes, also around square crops
        "data.cut.half_resolution_sources": ["3dpw"],
        "model.net.input_size": list(input_size),
        "model.net.num_iterations": num_iterations or default_iterations,
        "model.net.backbone.layers": _count_blocks(state),
    }


def convert_state_dict(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by our names.

    Raises:
        ValueError: naming the first weight that has no place in our network.
    """
    state = {}
    for name, value in official.items():
        head, dot, rest = name.removeprefix("module.").partition(".")
        if head not in ENTRIES:
            raise ValueError(
                f"weight {name!r} has no place in HMR with a ResNet: is this the checkpoint of "
                "another method or backbone?"
            )
        state[ENTRIES[head] + dot + rest] = value
    return state


def _count_blocks(state: Mapping[str, Tensor]) -> list[int]:
    """Blocks in each of the ResNet's four stages."""
    found = [re.match(r"backbone\.layer(\d)\.(\d+)\.", name) for name in state]
    blocks = {(int(match[1]), int(match[2])) for match in found if match}
    return [sum(stage == wanted for stage, _ in blocks) for wanted in (1, 2, 3, 4)]
