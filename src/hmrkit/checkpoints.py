"""Checkpoints, ours and the authors'; nothing here executes what a file contains.

Ours is Lightning's: ``state_dict`` of the module and, in ``hyper_parameters``, the resolved config
as plain containers, of which ``model`` and ``body`` are enough to build the module again.
"""

import copy
import importlib
import inspect
import logging
import os
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from hmrkit import configs, models
from hmrkit.body.smpl import SMPL
from hmrkit.module import HMRModule
from hmrkit.weight_files import read_checkpoint

log = logging.getLogger(__name__)

TRUSTED = ("hmrkit.", "torch.nn.", "torch.optim.")

_NODES = ("model", "body", "data", "mix")  # of the config: enough to build, evaluate and show


def build_module(config: dict[str, Any], body: SMPL | None = None) -> HMRModule:
    """The module that a config describes; it carries the config into its checkpoints.

    Args:
        config: plain containers with at least ``model`` and ``body``.
        body: this body model instead of that of ``config``.
    """
    body = instantiate(config["body"]) if body is None else body
    model = config["model"]
    make: Callable[..., HMRModule] = HMRModule
    if model.get("module"):  # a loop of the method's own
        make = instantiate(model["module"], _partial_=True, _convert_="all")
    return make(
        net=instantiate(model["net"], body_model=body, _convert_="all"),
        loss=instantiate(model["loss"], _convert_="all"),
        body=body,
        optimizer=instantiate(model["optimizer"], _convert_="all"),
        scheduler=instantiate(model["scheduler"], _convert_="all"),
        config=config,
    )


def load_checkpoint(
    path: str | Path,
    changes: Mapping[str, Any] | None = None,
    trusted: Sequence[str] = (),
) -> HMRModule:
    """One of our checkpoints as a module in eval mode, on the CPU.

    Args:
        path: a ``.ckpt`` of ``hmrkit.train`` or ``hmrkit.convert``.
        changes: merged into the stored config, such as ``{"body": {"folder": ...}}``.
        trusted: packages, beside hmrkit and torch, whose classes the stored config may name.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, unsafe, not ours, or does not fit the current code.
    """
    content = read_checkpoint(path)
    config = content.get("hyper_parameters", {}).get("config")
    if config is None or "state_dict" not in content:
        raise ValueError(
            f"{path} is not a checkpoint of hmrkit; if it is the authors' own, convert it first: "
            f"python -m hmrkit.convert model=<method> checkpoint={path} output=<new file>.ckpt "
            "(hmrkit.eval also scores it as it is, with official=<method>)"
        )
    config = configs.merge(config, changes or {})
    for node in ("model", "body", "data"):
        check_targets(config.get(node), (*TRUSTED, *(f"{name}." for name in trusted)), path)
    module = build_module(config)
    _load_strictly(module, content["state_dict"], (), str(path))
    return module.eval()


def check_targets(node: Any, trusted: Sequence[str], path: str | Path) -> None:
    """Refuse a stored config that names code from elsewhere: building it would run that code.

    Args:
        node: of the config.
        trusted: beginnings of names that are allowed.
        path: of the file, for the message.
    """
    if isinstance(node, list):
        node = dict(enumerate(node))
    if not isinstance(node, dict):
        return
    target = node.get("_target_")
    if target is not None and not str(target).startswith(tuple(trusted)):
        package = str(target).split(".")[0]
        raise ValueError(
            f"{path} wants to run {target!r}, which is no part of hmrkit; if you know the file and "
            f"that package, allow it with trusted=[{package}]"
        )
    for child in node.values():
        check_targets(child, trusted, path)


def set_adapt(module: HMRModule, node: DictConfig | None) -> None:
    """Give a module the test-time optimisation of a config's node ``adapt``.

    Args:
        module: of any method that looks at one person in a crop.
        node: see ``configs_hydra/adapt``. None leaves what the checkpoint brings, a ``_target_`` of
            None takes it away.

    Raises:
        ValueError: if its options cannot be, or fit no weight of the network.
    """
    if node is None:
        return
    plain = configs.to_plain(node)
    module.adapt = instantiate(plain, _convert_="all") if plain["_target_"] else None


def save_checkpoint(module: HMRModule, path: str | Path) -> None:
    """Write a module as one of our checkpoints; complete or not at all."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    content = {
        "state_dict": module.state_dict(),
        "hyper_parameters": {"config": module.config},
        "epoch": 0,
        "global_step": 0,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.save(content, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load_official(
    method: str,
    path: str | Path,
    body: str | SMPL = "free",
    overrides: Sequence[str] = (),
    **options: Any,
) -> HMRModule:
    """The authors' checkpoint of a method as our module in eval mode, on the CPU.

    Args:
        method: name of a folder of ``hmrkit.models``.
        path: file in the authors' own layout.
        body: option of the config group ``body``, or a body model to use as it is.
        overrides: of the config, as on the command line, such as ``body.folder=...``.
        options: of ``convert(official, **options) -> (weights, config values)`` in the method's
            ``convert.py``, whose table ``OPTIONAL`` names what a file may lack.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged or unsafe, if one of its entries has no place here, or
            if it leaves a weight of ours without a value.
    """
    _converter(method)  # an unknown method is reported here, not by the config
    choice = [] if isinstance(body, SMPL) else [f"body={body}"]
    config = configs.load_config("train", [f"model={method}", *choice, *overrides])
    own_body = body if isinstance(body, SMPL) else None
    return convert_official(method, path, config, own_body, **options)


def convert_official(
    method: str,
    path: str | Path,
    config: DictConfig,
    body: SMPL | None = None,
    **options: Any,
) -> HMRModule:
    """``load_official`` with a composed config, which is not changed."""
    converter = _converter(method)
    known = list(inspect.signature(converter.convert).parameters)[1:]
    for name in options:
        if name not in known:
            raise ValueError(f"{method} has no option {name!r}; it has {', '.join(known)}")
    inert = getattr(converter, "INERT", {})
    official = read_checkpoint(path, inert)
    if "config" in _plain(official.get("hyper_parameters")):
        raise ValueError(f"{path} is a checkpoint of hmrkit already: use it as it is")
    for name in getattr(converter, "FILES", ()):
        if options.get(name) is None:
            raise ValueError(f"{method} needs a second file: give {name}=<path of {name}.pth>")
        options[name] = read_checkpoint(options[name], inert)
    state, needed = converter.convert(official, **options)
    config = copy.deepcopy(config)
    for key, value in needed.items():
        OmegaConf.update(config, key, value, merge=False, force_add=True)
    nodes = {name: OmegaConf.to_container(config[name], resolve=True) for name in _NODES}
    module = build_module(nodes, body)
    for name, source in converter.OPTIONAL.items():
        if name not in state:
            log.info("%s has no %s; it is %s", path, name, source)
    _load_strictly(module.net, state, tuple(converter.OPTIONAL), str(path))
    return module.eval()


def _plain(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _converter(method: str) -> Any:
    known = sorted(m.name for m in pkgutil.iter_modules(models.__path__))
    if method not in known:
        raise ValueError(f"no method {method!r}; there are {', '.join(known)}")
    return importlib.import_module(f"hmrkit.models.{method}.convert")


def _load_strictly(
    module: torch.nn.Module, state: Mapping[str, Tensor], kept: Sequence[str], source: str
) -> None:
    """Copy ``state`` into ``module``; raise for the first name or shape that does not fit."""
    ours = module.state_dict()
    for name, value in state.items():
        if name not in ours:
            raise ValueError(f"{source}: weight {name!r} has no place in this network")
        if value.shape != ours[name].shape:
            raise ValueError(
                f"{source}: weight {name!r} is {tuple(value.shape)} in the file but "
                f"{tuple(ours[name].shape)} in this network"
            )
    missing = [n for n in ours if n not in state and n not in kept]
    missing = [n for n in missing if not n.endswith("num_batches_tracked")]  # not a weight
    if missing:
        raise ValueError(f"{source}: nothing in the file fills {missing[0]!r}")
    module.load_state_dict({**ours, **state}, strict=True)
