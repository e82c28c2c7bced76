"""Copies of a network's weights that can be changed: one for all people of a batch, or one each."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from hmrkit.adapt.functional import call, in_backbone, takes_feature
from hmrkit.body.smpl import SMPL
from hmrkit.types import Batch, Body, Mesh, Prediction

_EXTRA = ("feature", "cam")  # of a prediction's extras, what is known to have a row per person


class Copies:
    """Predictions of a network with changed weights, on one batch of crops.

    The backbone runs again only after its weights have changed, in networks that allow it.

    Args:
        net: in eval mode; it is not changed.
        names: weights that are copied; the others are read from ``net`` and get no gradient.
        batch: P crops, one person each.
        body_model: for networks that need it.
        is_per_sample: a copy for each person, all of them run at once, instead of one for all.

    Attributes:
        leaves: the weights to change, by name; with a leading axis of P where each has a copy.
    """

    def __init__(
        self,
        net: nn.Module,
        names: Sequence[str],
        batch: Batch,
        body_model: SMPL,
        is_per_sample: bool,
    ) -> None:
        self.net, self.batch, self.body_model = net, batch, body_model
        num = len(batch["image"])
        self.is_vectorised = is_per_sample and num > 1
        shape = (num,) if self.is_vectorised else ()
        own = {name: parameter.detach() for name, parameter in net.named_parameters()}
        layout = torch.preserve_format
        if not self.is_vectorised and batch["image"].is_contiguous(
            memory_format=torch.channels_last
        ):
            layout = torch.channels_last  # ``collate`` makes such images; convolutions like both so
        self.leaves = {
            name: own[name]
            .expand(*shape, *own[name].shape)
            .clone(memory_format=layout if own[name].ndim == 4 else torch.preserve_format)
            .requires_grad_()
            for name in names
        }
        self._fixed = {name: value for name, value in own.items() if name not in self.leaves}
        self._takes_feature = takes_feature(net)
        self._feature: Tensor | None = None

    def predict(self) -> Prediction:
        """The bodies under the weights as they are now; ``extra`` is reduced where vectorised."""
        if self.is_vectorised:
            given = {} if self._feature is None else {"feature": self._feature}
            with sdpa_kernel(SDPBackend.MATH):  # the CPU's fused attention has no rule for vmap
                prediction = _to_prediction(vmap(self._of_one)(self.leaves, self._rows(), given))
        else:
            prediction = self._call(self.leaves, self.batch, self._feature)
        if self._takes_feature:
            self._feature = prediction.extra["feature"]
        return prediction

    def changed(self, names: Sequence[str]) -> None:
        """Must be told the names of the leaves that were changed."""
        if any(map(in_backbone, names)):
            self._feature = None

    def _call(self, leaves: dict[str, Tensor], batch: Batch, feature: Tensor | None) -> Prediction:
        weights = {**self._fixed, **leaves}
        return call(self.net, weights, batch, self.body_model, feature)

    def _rows(self) -> dict[str, Tensor]:
        """The tensors of the batch that have a row per crop."""
        rows = {name: value for name, value in self.batch.items() if isinstance(value, Tensor)}
        return {
            name: v for name, v in rows.items() if name not in ("image_of_view", "person_of_view")
        }

    def _of_one(
        self, leaves: dict[str, Tensor], row: dict[str, Tensor], given: dict[str, Tensor]
    ) -> dict[str, Any]:
        """Prediction for one person, as tensors without the axis of persons."""
        zero = torch.zeros(1, dtype=torch.int64, device=row["image"].device)
        batch: Any = {name: value[None] for name, value in row.items()}
        batch |= {"image_of_view": zero, "person_of_view": zero}
        feature = given["feature"][None] if given else None
        prediction = self._call(leaves, batch, feature)
        values = {
            "body": vars(prediction.body),
            "own": {n: getattr(prediction, n) for n in ("transl_cam", "intrinsics_crop")},
            "mesh": {} if prediction.mesh is None else vars(prediction.mesh),
            "extra": {name: prediction.extra[name] for name in _EXTRA if name in prediction.extra},
        }
        return {part: {n: v[0] for n, v in fields.items()} for part, fields in values.items()}


def _to_prediction(values: dict[str, dict[str, Tensor]]) -> Prediction:
    mesh = Mesh(**values["mesh"]) if values["mesh"] else None
    return Prediction(Body(**values["body"]), **values["own"], mesh=mesh, extra=values["extra"])
