"""Functional calls of plain networks, and the feature that several of them can share.

A network whose ``forward`` takes ``feature`` and gives it in ``extra["feature"]`` need not run its
backbone again while the backbone's weights stay as they are.
"""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from hmrkit.body.smpl import SMPL
from hmrkit.types import Batch, Prediction


def call(
    net: nn.Module,
    parameters: Mapping[str, Tensor],
    batch: Batch,
    body_model: SMPL,
    feature: Tensor | None = None,
) -> Prediction:
    """The prediction of a network some of whose weights are replaced; the network is not changed.

    Args:
        net: of any method.
        parameters: by name; those that are not given are the network's own.
        batch: what ``net`` takes.
        body_model: likewise.
        feature: (P, C) of the same batch by the same backbone, if ``takes_feature(net)``.
    """
    given = {} if feature is None else {"feature": feature}
    return functional_call(net, dict(parameters), (batch, body_model), given)


def takes_feature(net: nn.Module) -> bool:
    """Can the backbone's output be handed to this network?"""
    return "feature" in inspect.signature(net.forward).parameters


def in_backbone(name: str) -> bool:
    """Does the feature depend on the weight of that name?"""
    return name.startswith("backbone.")


def matching_names(net: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Names of the trainable weights in which one of the regular expressions is found.

    Raises:
        ValueError: if one of them fits no weight.
    """
    names = [name for name, parameter in net.named_parameters() if parameter.requires_grad]
    for pattern in patterns:
        if not any(re.search(pattern, name) for name in names):
            raise ValueError(
                f"no weight of {type(net).__name__} is named like {pattern!r}; they begin with "
                + ", ".join(sorted({name.split(".")[0] for name in names}))
            )
    return [name for name in names if any(re.search(pattern, name) for pattern in patterns)]


@contextmanager
def counted_as(net: nn.Module, num_passes: int) -> Iterator[None]:
    """Let BatchNorm's running statistics move in one pass as far as they would in several."""
    norms = [m for m in net.modules() if isinstance(m, _BatchNorm) and m.momentum is not None]
    before = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 1 - (1 - norm.momentum) ** num_passes
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
