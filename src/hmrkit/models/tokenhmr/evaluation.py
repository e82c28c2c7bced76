"""How a pose tokenizer is scored: what is left of the bodies, and how its codes are used."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from hmrkit.body.smpl import SMPL
from hmrkit.evaluation import Protocol
from hmrkit.models.tokenhmr.tokenizer import perplexity
from hmrkit.types import Batch, Prediction


class TokenizerProtocol(Protocol):
    """``Protocol`` of the coded bodies, and two numbers of the codes of a whole set.

    ``codes_used``: codes that stand for at least one token. ``perplexity``: how many codes, used
    equally often, would be as hard to guess.
    """

    extras = ("code_index",)

    def measure(self, prediction: Prediction, batch: Batch, body_model: SMPL) -> dict[str, Tensor]:
        """As ``Protocol``, and the codes (P, T) of each pose."""
        rows = super().measure(prediction, batch, body_model)
        return {**rows, "_code_index": prediction.extra["code_index"]}

    def summary(self, columns: Mapping[str, np.ndarray]) -> dict[str, float]:
        """``codes_used`` and ``perplexity``."""
        usage = np.bincount(columns["_code_index"].ravel())
        return {
            "codes_used": float((usage > 0).sum()),
            "perplexity": float(perplexity(torch.from_numpy(usage).double())),
        }
