"""Meta-HMR's training: a step towards the pseudo labels, then the loss of what that step led to.

    inner   main(batch), auxiliary(batch) -> inner loss -> gradient step on some of main's weights
            (``num_inner_steps`` times)
    outer   main with the stepped weights(batch) -> HMR's loss -> optimiser step on all weights

The stepped weights are values of a graph: a functional call of the plain network uses them, and the
outer gradient reaches the weights they came from. In second order it goes through the inner
gradient as well, and through that to the auxiliary network. With several processes the inner
gradient is the mean of theirs, so that a global batch takes the same step on any number of them.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from hmrkit.adapt.adapt import Adapt
from hmrkit.adapt.functional import (
    call,
    counted_as,
    in_backbone,
    matching_names,
    takes_feature,
)
from hmrkit.adapt.loss import InnerLoss
from hmrkit.body.smpl import SMPL
from hmrkit.models.metahmr.model import MetaHMR
from hmrkit.module import HMRModule
from hmrkit.types import Batch, Prediction


class Inner(NamedTuple):
    """Main's weights after an inner step."""

    parameters: dict[str, Tensor]
    terms: dict[str, Tensor]  # weighted terms of the loss of the step


class MetaHMRModule(HMRModule):
    """The training loop of two networks, and test-time optimisation where it predicts.

    Args:
        net: both networks.
        loss: the outer loss, as of any method.
        body: see ``HMRModule``.
        optimizer: see ``HMRModule``; of the main network and, in a group of its own, the auxiliary.
        scheduler: see ``HMRModule``.
        config: see ``HMRModule``.
        inner_loss: of the inner steps.
        num_inner_steps: 0 trains the main network alone, as plainly as any.
        inner_lr: learning rate of the inner steps.
        inner_parameters: regular expressions, searched in the names of main's weights: what the
            inner steps change.
        first_order: take inner gradients as constants; the auxiliary network is not trained then.
        auxiliary_optimizer: options of the auxiliary network's parameter group, such as ``lr``;
            None keeps its weights.
        is_auxiliary_fixed: the auxiliary network gives its pseudo labels in eval mode: without
            dropout, and its BatchNorm statistics stay.
        adapt: test-time optimisation in tests and predictions, not in validation; or None.
    """

    net: MetaHMR

    def __init__(
        self,
        net: MetaHMR,
        loss: nn.Module,
        body: SMPL,
        optimizer: Callable[..., torch.optim.Optimizer] | None,
        scheduler: Callable[..., Any] | None,
        config: dict[str, Any],
        inner_loss: InnerLoss,
        num_inner_steps: int = 1,
        inner_lr: float = 1e-5,
        inner_parameters: Sequence[str] = (r"^head\.",),
        first_order: bool = True,
        auxiliary_optimizer: dict[str, Any] | None = None,
        is_auxiliary_fixed: bool = False,
        adapt: Adapt | None = None,
    ) -> None:
        super().__init__(net, loss, body, optimizer, scheduler, config)
        self.inner_loss = inner_loss
        self.num_inner_steps = num_inner_steps
        self.inner_lr = inner_lr
        self.inner_names = matching_names(net.main, inner_parameters)
        self.first_order = first_order
        self.auxiliary_optimizer = auxiliary_optimizer
        self.is_auxiliary_fixed = is_auxiliary_fixed
        self.adapt = adapt
        is_trained = num_inner_steps > 0 and not first_order and auxiliary_optimizer is not None
        net.auxiliary.requires_grad_(is_trained)
        self._inner_terms: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> "MetaHMRModule":
        """Train or evaluate; a fixed auxiliary network only evaluates."""
        super().train(mode)
        if self.is_auxiliary_fixed:
            self.net.auxiliary.eval()
        return self

    def forward(self, batch: Batch) -> Prediction:
        """The main network's prediction, in training after the inner steps."""
        if not (self.training and self.num_inner_steps):
            return self.net(batch, self.body)
        steps, feature = self.inner_loop(batch)
        self._inner_terms = {name: term.detach() for name, term in steps[0].terms.items()}
        return self.outer(batch, steps[-1].parameters, feature)

    def inner_loop(self, batch: Batch) -> tuple[list[Inner], Tensor | None]:
        """The weights after each inner step, and the feature that all passes share, if they do."""
        main, auxiliary = self.net.main, self.net.auxiliary
        parameters = {name: main.get_parameter(name) for name in self.inner_names}
        is_shared = takes_feature(main) and not any(map(in_backbone, parameters))
        feature = pseudo_feature = None
        steps = []
        for _ in range(self.num_inner_steps):
            with counted_as(main, self.num_inner_steps + 1 if is_shared else 1):
                prediction = call(main, parameters, batch, self.body, feature)
            with torch.set_grad_enabled(not self.first_order):
                num = self.num_inner_steps if takes_feature(auxiliary) else 1
                with counted_as(auxiliary, num):
                    pseudo = call(auxiliary, {}, batch, self.body, pseudo_feature)
            terms = self.inner_loss(prediction, pseudo, batch, self.body)
            total = torch.stack(list(terms.values())).sum()
            values = list(parameters.values())
            grads = torch.autograd.grad(total, values, create_graph=not self.first_order)
            grads = _mean_over_processes(grads)
            parameters = {
                name: value - self.inner_lr * grad
                for (name, value), grad in zip(parameters.items(), grads, strict=True)
            }
            steps.append(Inner(parameters, terms))
            feature = prediction.extra["feature"] if is_shared else None
            pseudo_feature = pseudo.extra["feature"] if takes_feature(auxiliary) else None
        return steps, feature

    def outer(
        self, batch: Batch, parameters: dict[str, Tensor], feature: Tensor | None
    ) -> Prediction:
        """The main network's prediction with some weights replaced."""
        return call(self.net.main, parameters, batch, self.body, feature)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """As of any method; the terms of the first inner step are logged besides."""
        total = super().training_step(batch, batch_idx)
        size = len(batch["has_pose"])
        for name, value in self._inner_terms.items():
            self.log(f"train/inner_{name}", value, batch_size=size, sync_dist=True)
        return total

    def adapted(self, batch: Batch) -> Prediction:
        """The main network's prediction after test-time optimisation with pseudo labels."""
        assert self.adapt is not None
        return self.adapt(self.net.main, batch, self.body, self.net.auxiliary)

    def configure_optimizers(self) -> Any:
        """The main network's weights, and the auxiliary's in a group of their own if trained."""
        assert self.optimizer is not None, "this module was built for evaluation"
        groups = [{"params": [p for p in self.net.main.parameters() if p.requires_grad]}]
        own = [p for p in self.net.auxiliary.parameters() if p.requires_grad]
        if own:
            groups.append({"params": own, **(self.auxiliary_optimizer or {})})
        optimizer = self.optimizer(groups)
        if self.scheduler is None:
            return optimizer
        scheduler = {"scheduler": self.scheduler(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


def _mean_over_processes(grads: Sequence[Tensor]) -> Sequence[Tensor]:
    """Of inner gradients: the step of a batch is the same however many processes share it.

    Gradients pass through, which second order needs.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return grads
    flat = all_reduce(torch.cat([grad.flatten() for grad in grads])) / dist.get_world_size()
    parts = flat.split([grad.numel() for grad in grads])
    return [part.view_as(grad) for part, grad in zip(parts, grads, strict=True)]
