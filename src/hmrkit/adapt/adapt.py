"""Test-time optimisation: fit a copy of a network to 2D evidence, predict, throw the copy away.

    step 0      the dual-network step: gradient descent of some weights on the inner loss, where
                there is an auxiliary network; else a step like the others
    steps 1...  Adam of all weights on the 2D evidence alone

It works for every network that predicts one body per crop. One copy serves all people of a batch
(Meta-HMR's published numbers: they depend on who is in the batch), or each person has their own
(the paper's text: equal to batches of one person), run at once.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from hmrkit.adapt.copies import Copies
from hmrkit.adapt.functional import matching_names
from hmrkit.adapt.loss import InnerLoss, Term, means
from hmrkit.body.smpl import SMPL
from hmrkit.types import Batch, Prediction

_CHUNK_SIZE = 8  # people at once on an accelerator


class Step(NamedTuple):
    """What is known before a step is taken; P people, G copies of the weights (P or 1)."""

    prediction: Prediction
    keypoints2d: Tensor  # (P,) the evidence's loss of each person
    loss: Tensor  # (G,) what the step goes down
    terms: dict[str, Term]  # weighted terms of the inner loss, if that is it


class Adapt(nn.Module):
    """Adapts a network to the evidence in a batch, and predicts.

    Args:
        loss: of the dual-network step; its 2D term is that of all steps.
        per: ``sample``: a copy of the weights for each person; ``batch``: one for all.
        num_steps: in all, the dual-network step included.
        with_inner_step: begin with the dual-network step where there is an auxiliary network.
        inner_lr: learning rate of the dual-network step.
        inner_parameters: regular expressions, searched in names of weights: what that step changes.
        with_adam: False: the other steps are plain gradient steps of the same weights.
        lr: learning rate of the other steps.
        adam_parameters: what Adam changes, likewise; None for all weights.
        tolerance: stop after a step at which the loss differed by less from that of the step
            before, the inner loss being the first; None never stops.
        chunk_size: people adapted at once with ``per="sample"``; each needs a copy of the weights,
            of their gradient and of Adam's two averages. None: one on a CPU, where more are not
            faster, else eight.
        evidence: gives the keypoints, see ``evidence.py``; None takes the batch's labels.
    """

    def __init__(
        self,
        loss: InnerLoss,
        per: Literal["sample", "batch"] = "sample",
        num_steps: int = 15,
        with_inner_step: bool = True,
        inner_lr: float = 1e-5,
        inner_parameters: Sequence[str] = (r"^head\.",),
        with_adam: bool = True,
        lr: float = 1e-5,
        adam_parameters: Sequence[str] | None = None,
        tolerance: float | None = None,
        chunk_size: int | None = None,
        evidence: Callable[[Batch], Tensor] | None = None,
    ) -> None:
        super().__init__()
        if per not in ("sample", "batch"):
            raise ValueError(f"adapt.per={per!r}: choose sample or batch")
        for name, value in {"num_steps": num_steps, "chunk_size": chunk_size}.items():
            if value is not None and value < 1:
                raise ValueError(f"adapt.{name}={value}: give 1 or more")
        self.loss = loss
        self.per = per
        self.num_steps = num_steps
        self.with_inner_step = with_inner_step
        self.inner_lr = inner_lr
        self.inner_parameters = tuple(inner_parameters)
        self.with_adam = with_adam
        self.lr = lr
        self.adam_parameters = ("",) if adam_parameters is None else tuple(adam_parameters)
        self.tolerance = tolerance
        self.chunk_size = chunk_size
        self.evidence = evidence

    def take_as_given(self) -> None:
        """From now on the evidence is the batch's keypoints as they are, every joint of them."""
        self.evidence = None
        self.loss.evidence.count_all()

    def forward(
        self,
        net: nn.Module,
        batch: Batch,
        body_model: SMPL,
        auxiliary: nn.Module | None = None,
    ) -> Prediction:
        """The adapted network's prediction; the network itself is left as it is.

        Works under ``no_grad`` and ``inference_mode`` too.

        Args:
            net: in eval mode.
            batch: crops, one person each, with 2D evidence in ``keypoints_crop``.
            body_model: makes joints.
            auxiliary: gives pseudo labels; in eval mode.

        Returns:
            The prediction. Its one stage is what the network says without adaptation;
            ``extra["adapt_keypoints2d"]`` (P, num_steps + 1) holds each person's evidence loss
            before every step and at the end, NaN where steps were not needed.
        """
        assert not net.training
        eager = torch.compiler.set_stance("force_eager")  # weights change in every step
        with torch.inference_mode(False), torch.enable_grad(), eager:
            batch = _own(batch)
            if self.evidence is not None:
                batch = {**batch, "keypoints_crop": self.evidence(batch)}
            if self.per == "batch":
                return self._fitted(net, batch, body_model, auxiliary)
            size = self.chunk_size or (1 if batch["image"].device.type == "cpu" else _CHUNK_SIZE)
            parts = [
                _with_rows_only(self._fitted(net, part, body_model, auxiliary))
                for part in _parts(batch, size)
            ]
            return _map(lambda *rows: torch.cat(rows), *parts)

    def copies(
        self, net: nn.Module, batch: Batch, body_model: SMPL, auxiliary: nn.Module | None = None
    ) -> Copies:
        """The weights that the steps on a batch will change."""
        changed = {name for names in self._names(net, auxiliary) for name in names}
        names = [name for name, _ in net.named_parameters() if name in changed]
        return Copies(net, names, batch, body_model, self.per == "sample")

    def steps(self, copies: Copies, auxiliary: nn.Module | None = None) -> Iterator[Step]:
        """Yield what is known before each step, then take it; the weights are in ``copies``."""
        inner_names, later_names = self._names(copies.net, auxiliary)
        inner, later = ([copies.leaves[n] for n in names] for names in (inner_names, later_names))
        optimizer = torch.optim.Adam if self.with_adam else torch.optim.SGD
        later_step = optimizer(later, self.lr, fused=True).step
        previous = is_done = None
        for number in range(self.num_steps):
            is_inner = number == 0 and bool(inner)
            step = self._look(copies, auxiliary if is_inner else None)
            yield step
            leaves = inner if is_inner else later
            grads = torch.autograd.grad(step.loss.sum(), leaves, allow_unused=True)
            is_mixed = is_done is not None and copies.is_vectorised
            kept = [leaf.detach().clone() for leaf in leaves] if is_mixed else None
            for leaf, grad in zip(leaves, grads, strict=True):
                leaf.grad = None if grad is None else _laid_out_like(grad, leaf)
            (torch.optim.SGD(leaves, self.inner_lr, fused=True).step if is_inner else later_step)()
            for leaf in leaves:
                leaf.grad = None
            if kept is not None:
                _put_back(leaves, kept, is_done)
            copies.changed(inner_names if is_inner else later_names)
            loss = step.loss.detach()
            if self.tolerance is not None and previous is not None:
                is_near = (previous - loss).abs() < self.tolerance
                is_done = is_near if is_done is None else is_done | is_near
                if is_done.all():
                    return
            previous = loss

    def _names(self, net: nn.Module, auxiliary: nn.Module | None) -> tuple[list[str], list[str]]:
        """Names of the weights that the dual-network step changes, and the later steps."""
        has_inner = auxiliary is not None and self.with_inner_step
        inner = matching_names(net, self.inner_parameters) if has_inner else []
        later = self.adam_parameters if self.with_adam else self.inner_parameters
        return inner, matching_names(net, later)

    def _look(self, copies: Copies, auxiliary: nn.Module | None) -> Step:
        """The prediction under the weights as they are, and its loss."""
        prediction, batch, body_model = copies.predict(), copies.batch, copies.body_model
        if auxiliary is None:
            keypoints2d = self.loss.evidence(prediction, batch, body_model)
            loss = keypoints2d if self.per == "sample" else keypoints2d.mean(dim=0, keepdim=True)
            return Step(prediction, keypoints2d, loss, {})
        with torch.no_grad():
            pseudo = auxiliary(batch, body_model)
            keypoints2d = self.loss.evidence(prediction, batch, body_model)
        terms = self.loss.terms(prediction, pseudo, batch, body_model)
        if self.per == "sample":
            loss = torch.stack([term.values * term.is_valid for term in terms.values()]).sum(dim=0)
        else:
            loss = torch.stack(list(means(terms).values())).sum(dim=0, keepdim=True)
        return Step(prediction, keypoints2d, loss, terms)

    def _fitted(
        self, net: nn.Module, batch: Batch, body_model: SMPL, auxiliary: nn.Module | None
    ) -> Prediction:
        """The prediction of copies after the last step."""
        copies = self.copies(net, batch, body_model, auxiliary)
        num = len(batch["image"])
        curve = batch["keypoints_crop"].new_full((num, self.num_steps + 1), math.nan)
        before: Prediction | None = None
        for number, step in enumerate(self.steps(copies, auxiliary)):
            before = before or _map(Tensor.detach, step.prediction)
            curve[:, number] = step.keypoints2d.detach()
        with torch.no_grad():
            prediction = copies.predict()
            curve[:, -1] = self.loss.evidence(prediction, batch, body_model)
        assert before is not None
        extra = {**prediction.extra, "adapt_keypoints2d": curve}
        return replace(prediction, stages=[before], extra=extra)


def _laid_out_like(grad: Tensor, leaf: Tensor) -> Tensor:
    """A gradient in the memory layout of its weight, which fused optimisers take for granted."""
    if grad.stride() == leaf.stride():
        return grad
    return torch.empty_like(leaf).copy_(grad)


def _put_back(leaves: Sequence[Tensor], kept: Sequence[Tensor], is_done: Tensor) -> None:
    """Undo the step of those who are done (P,), in weights with a leading axis of P."""
    with torch.no_grad():
        for leaf, old in zip(leaves, kept, strict=True):
            leaf.copy_(torch.where(is_done.view(-1, *[1] * (leaf.ndim - 1)), old, leaf))


def _own(batch: Batch) -> Batch:
    """The batch with tensors that gradients may pass through, made outside of inference mode.

    Raises:
        ValueError: if it is not one of crops.
    """
    if len(batch["image"]) != len(batch["keypoints_crop"]) or len(batch["image"]) != len(
        batch["has_pose"]
    ):
        raise ValueError(
            f"test-time optimisation takes crops of one person each; this batch has "
            f"{len(batch['image'])} images, {len(batch['keypoints_crop'])} views and "
            f"{len(batch['has_pose'])} people"
        )
    own: Any = {
        name: value.clone() if isinstance(value, Tensor) and value.is_inference() else value
        for name, value in batch.items()
    }
    return own


def _parts(batch: Batch, size: int) -> Iterator[Batch]:
    """The tensors of a batch of crops, ``size`` people at a time."""
    rows = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
    for start in range(0, len(batch["image"]), size):
        part: Any = {name: value[start : start + size] for name, value in rows.items()}
        number = torch.arange(len(part["image"]), device=part["image"].device)
        yield part | {"image_of_view": number, "person_of_view": number}


def _with_rows_only(prediction: Prediction) -> Prediction:
    """Without the extras and earlier stages of the network's own that may have other axes."""
    names = ("feature", "cam", "adapt_keypoints2d")
    extra = {name: prediction.extra[name] for name in names if name in prediction.extra}
    stages = [_with_rows_only(replace(stage, stages=[])) for stage in prediction.stages]
    return replace(prediction, extra=extra, stages=stages)


def _map(function: Callable[..., Tensor], *values: Any) -> Any:
    """Apply a function to the tensors of predictions of one form."""
    first = values[0]
    if isinstance(first, Tensor):
        return function(*values)
    if isinstance(first, dict):
        return {name: _map(function, *(value[name] for value in values)) for name in first}
    if isinstance(first, list):
        return [_map(function, *group) for group in zip(*values, strict=True)]
    if is_dataclass(first):
        names = [field.name for field in fields(first)]
        changes = {n: _map(function, *(getattr(value, n) for value in values)) for n in names}
        return replace(first, **changes)
    return first
