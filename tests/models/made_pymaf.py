"""A PyMAF whose result does not depend on the batch, for tests that split batches."""

import torch
from torch import nn

from hmrkit.models.pymaf.model import PyMAF


class WithoutNorm(PyMAF):
    """PyMAF with an identity in place of every normalisation; arguments as PyMAF."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for parent in list(self.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.BatchNorm2d):
                    setattr(parent, name, nn.Identity())


def tiny_overrides(shards) -> list[str]:
    """experiment=pymaf_tiny on the small shards of the tests, a few steps."""
    from made_quickstart import tiny_sizes  # runs that import this file do not see that one

    return [
        "experiment=pymaf_tiny",
        "mix=quickstart",
        f"paths.datasets={shards}",
        *tiny_sizes(),
        "data.cut.input_size=[64,64]",
        "model.net.num_channels=8",
        "model.net.num_hidden=16",
        "model.net.num_points=32",
        "data.batch_size=8",
        "data.num_workers=0",
        "trainer.max_steps=7",
        "trainer.val_check_interval=4",
        "trainer.log_every_n_steps=1",
        "trainer.precision=32-true",
        "callbacks.checkpoint.every_n_train_steps=3",
        "num_pictures=1",
        "threads=1",
    ]


def total(terms: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(terms.values())).sum()
