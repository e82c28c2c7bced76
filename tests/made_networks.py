"""Networks for tests."""

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from hmrkit.checkpoints import build_module
from hmrkit.configs import load_config
from hmrkit.module import HMRModule


class PooledLinear(nn.Module):
    """Image to feature without batch statistics."""

    num_features = 8

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 16, self.num_features)
        self.pool = nn.AdaptiveAvgPool2d(4)

    def forward(self, image: Tensor) -> Tensor:
        return self.linear(self.pool(image).flatten(1))


def tiny_module(experiment: str, *overrides: str) -> HMRModule:
    """The network of a recipe with random weights, in eval mode, ready for ``save_checkpoint``."""
    config = load_config("train", [f"experiment={experiment}", "run_dir=run", *overrides])
    nodes = ("model", "body", "data", "mix")
    torch.manual_seed(0)
    plain = {name: OmegaConf.to_container(config[name], resolve=True) for name in nodes}
    return build_module(plain).eval()
