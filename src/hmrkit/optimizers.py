"""Optimizers that give parts of a network learning rates of their own, and how these fall."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn


def by_part(
    parameters: Iterable[tuple[str, nn.Parameter]],
    optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer],
    lr_of: Mapping[str, float],
) -> torch.optim.Optimizer:
    """An optimizer whose parameters are in groups by the beginnings of their names.

    Args:
        parameters: names and parameters of the module.
        optimizer: of groups; what it was given as learning rate is that of all other parameters.
        lr_of: dotted name of a part of the network -> learning rate; the first that fits counts.

    Raises:
        ValueError: if the network has nothing trainable there.
    """
    groups: dict[str, list[tuple[str, nn.Parameter]]] = {part: [] for part in lr_of}
    rest = []
    for name, parameter in parameters:
        fitting = (part for part in lr_of if f"{name}.".startswith(f"net.{part}."))
        groups.get(next(fitting, ""), rest).append((name, parameter))
    empty = [part for part, members in groups.items() if not members]
    if empty:
        raise ValueError(f"optimizer.lr_of: the network has nothing to train in {empty[0]!r}")
    own = [{"params": members, "lr": lr_of[name]} for name, members in groups.items()]
    return optimizer([*own, {"params": rest}] if rest else own)


def half_cosine(
    optimizer: torch.optim.Optimizer, total_steps: int, warmup_steps: int = 0
) -> torch.optim.lr_scheduler.LRScheduler:
    """Learning rates that rise in the first steps, and fall along half a cosine to 0.

    Args:
        optimizer: whose rates are the highest.
        total_steps: of the run.
        warmup_steps: of the rise, among those.
    """

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / (warmup_steps + 1))
        return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, step / total_steps)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def one_cycle(
    optimizer: torch.optim.Optimizer, max_lr: float, total_steps: int, pct_start: float
) -> torch.optim.lr_scheduler.LRScheduler:
    """``torch.optim.lr_scheduler.OneCycleLR``, also for runs of a few steps.

    That one divides by zero where the rise is one step long: here it is longer.

    Args:
        optimizer: whose rates rise and fall.
        max_lr: the highest rate.
        total_steps: of the run.
        pct_start: share of the steps in which the rates rise.
    """
    share = max(pct_start, min(0.75, 1.5 / total_steps))
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr, total_steps, pct_start=share)
