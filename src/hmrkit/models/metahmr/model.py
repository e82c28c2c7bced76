"""Meta-HMR's two networks.

batch -> main                                              -> bodies
batch -> auxiliary -> pseudo labels for the main network's steps (module.py, adapt.py)
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from hmrkit.body.smpl import SMPL
from hmrkit.types import Batch, Prediction


class MetaHMR(nn.Module):
    """A network that is adapted, and one that tells it where to go.

    Args:
        main: ``main(body_model=...)`` makes a plain network of crops.
        auxiliary: the same for the auxiliary network, which may be another one.
        body_model: handed to both; not kept.
    """

    def __init__(
        self,
        main: Callable[..., nn.Module],
        auxiliary: Callable[..., nn.Module],
        body_model: SMPL,
    ) -> None:
        super().__init__()
        self.main = main(body_model=body_model)
        self.auxiliary = auxiliary(body_model=body_model)

    def forward(self, batch: Batch, body_model: SMPL) -> Prediction:
        """The main network's prediction, without adaptation."""
        return self.main(batch, body_model)

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the crops."""
        return self.main.input_size

    @property
    def backbone(self) -> nn.Module:
        """The main network's."""
        return self.main.backbone

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile both backbones; inner steps are functional calls of what is around them."""
        self.main.backbone.compile(*args, **options)
        self.auxiliary.backbone.compile(*args, **options)
