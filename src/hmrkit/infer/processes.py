"""Work on pictures, shared by processes."""

import logging
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from omegaconf import DictConfig, OmegaConf

Work = Callable[[DictConfig, Any, Sequence[str]], dict[str, str]]


def in_processes(work: Work, config: DictConfig, plan: Any) -> dict[str, str]:
    """Do the pictures of a plan in ``config.processes``, each with a network of its own.

    Args:
        work: config, plan and names of pictures -> name and reason of each that gave nothing; a
            function of a module.
        config: the composed ``demo.yaml``.
        plan: with ``names``.

    Returns:
        What all of them gave.
    """
    names = list(plan.names)
    shares = [names[i :: config.processes] for i in range(min(config.processes, len(names)))]
    if not names:
        return {}
    if len(shares) == 1:
        return work(config, plan, names)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(shares), context, initializer=_begin) as pool:
        configs = [_on_device(config, place) for place in range(len(shares))]
        parts = pool.map(work, configs, [plan] * len(shares), shares)
        return {name: reason for part in parts for name, reason in part.items()}


def _begin() -> None:
    """Log as the parent does."""
    form = "[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"
    logging.basicConfig(level=logging.INFO, format=form)


def _on_device(config: DictConfig, place: int) -> DictConfig:
    """The config for one process: of several GPUs each takes another."""
    import torch

    own = OmegaConf.create(OmegaConf.to_container(config, resolve=True))  # Hydra is not there
    if torch.cuda.is_available() and config.device in ("auto", "cuda"):
        own.device = f"cuda:{place % torch.cuda.device_count()}"
    return own
