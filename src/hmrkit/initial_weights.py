"""Parts of a network that begin with weights of another file: a backbone, a tokenizer, a stage.

``initial_weights`` of a run maps a part of the network to a file: one of our checkpoints, or any
file of ``torch.save`` that holds a state dict whose names end like the part's (``state_dict`` of
Lightning, ``backbone.`` of ViTPose and HMR2.0, torchvision's bare names). For a file whose names
are others' own, the map has a node whose ``_target_`` reads it and returns weights by our names.
"""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import Tensor, nn

from hmrkit.weight_files import read_checkpoint

log = logging.getLogger(__name__)

# Classes in published files that become empty shells.
INERT = (
    "yacs.config.CfgNode",
    *(f"omegaconf.{name}" for name in ("dictconfig.DictConfig", "listconfig.ListConfig")),
    *(f"omegaconf.{name}" for name in ("base.ContainerMetadata", "base.Metadata", "nodes.AnyNode")),
    *("typing.Any", "collections.defaultdict", "builtins.dict", "builtins.list", "builtins.int"),
)
_ENTRIES = ("state_dict", "model", "net")  # where files keep their weights


def set_initial_weights(
    net: nn.Module, files: Mapping[str, str | Path | Mapping[str, Any] | None]
) -> None:
    """Fill parts of a network from files.

    Args:
        net: the network.
        files: dotted name of a part, or "all" for the whole network -> file, or a node with
            ``_target_`` whose call returns the weights, or ``{file, without}`` where the file lacks
            weights whose names begin so, which stay as they are; or None to change nothing. "all"
            comes last: a recipe's beginning of a part gives way to a whole network.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the network has no such part, or the file does not fill all of it.
    """
    for name, path in sorted(files.items(), key=lambda item: item[0] == "all"):
        if path is None:
            continue
        try:
            part = net if name == "all" else net.get_submodule(name)
        except AttributeError as error:
            known = ", ".join(n for n, _ in net.named_children())
            raise ValueError(f"initial_weights.{name}: the network has {known}") from error
        own, lacking = part.state_dict(), ()
        if isinstance(path, Mapping) and "file" in path:
            path, lacking = path["file"], tuple(path.get("without", ()))
        known = {key: value for key, value in own.items() if not key.startswith(lacking)}
        try:
            weights = _read(path)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"initial_weights.{name}: {error}: put the file there, name another in the config, "
                "or null to begin with random weights"
            ) from error
        part.load_state_dict({**own, **_matching(known, weights, name, path)}, strict=True)
        log.info("%s begins with the weights of %s", name, path)


def _read(source: str | Path | Mapping[str, Any]) -> dict[str, Tensor]:
    if not isinstance(source, Mapping):
        return _weights(read_checkpoint(source, INERT))
    try:
        return instantiate(source)
    except InstantiationException as error:  # what the reader said, without Hydra's frame
        raise error.__cause__ or error from error


def _weights(content: Mapping[str, Any]) -> dict[str, Tensor]:
    entry = next((content[e] for e in _ENTRIES if isinstance(content.get(e), Mapping)), content)
    return {name: value for name, value in entry.items() if torch.is_tensor(value)}


def _matching(
    own: Mapping[str, Tensor], weights: Mapping[str, Tensor], name: str, path: str | Path
) -> dict[str, Tensor]:
    """The weights whose names are the part's, behind whichever prefix fits best.

    Entries that the part does not have are left behind (a classifier, another part); none of the
    part's may be missing, but for counters and buffers that a fresh network computes.
    """
    prefixes = {key[: -len(own_key)] for own_key in own for key in weights if key.endswith(own_key)}
    if not prefixes:
        raise ValueError(f"{path} has no weights for {name!r}, such as {next(iter(own))!r}")
    best = max(sorted(prefixes), key=lambda prefix: _num_found(own, weights, prefix))
    found = {key: weights[best + key] for key in own if best + key in weights}
    missing = [key for key in own if key not in found and not key.endswith("num_batches_tracked")]
    if missing:
        raise ValueError(
            f"{path}: {name!r} finds {len(found)} of its {len(own)} weights behind {best!r}, but "
            f"not {missing[0]!r}"
        )
    for key, value in found.items():
        if value.shape != own[key].shape:
            raise ValueError(
                f"{path}: {best + key} is {tuple(value.shape)}, {name!r} needs "
                f"{tuple(own[key].shape)}"
            )
    return {**own, **found}


def _num_found(own: Collection[str], weights: Collection[str], prefix: str) -> int:
    return sum(prefix + key in weights for key in own)
