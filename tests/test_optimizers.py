from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn

from hmrkit.optimizers import by_part, half_cosine


def named() -> list[tuple[str, nn.Parameter]]:
    net = nn.ModuleDict({"head": nn.Linear(2, 2), "encoder": nn.Linear(2, 2, bias=False)})
    return [(f"net.{name}", parameter) for name, parameter in net.named_parameters()]


def test_a_part_has_its_own_learning_rate_and_everything_is_trained_once():
    parameters = named()
    made = by_part(parameters, partial(torch.optim.AdamW, lr=1.0, weight_decay=0.5), {"encoder": 2})
    assert [(g["lr"], g["weight_decay"], len(g["params"])) for g in made.param_groups] == [
        (2, 0.5, 1),
        (1.0, 0.5, 2),
    ]
    everything = {id(p) for group in made.param_groups for p in group["params"]}
    assert everything == {id(p) for _, p in parameters}


def test_a_whole_name_of_a_part_counts_not_its_beginning():
    with pytest.raises(ValueError, match="nothing to train in 'enc'"):
        by_part(named(), partial(torch.optim.SGD, lr=1.0), {"enc": 2})


def test_the_rate_rises_then_falls_to_nothing():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = half_cosine(optimizer, total_steps=100, warmup_steps=4)
    rates = []
    for _ in range(101):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates[0] == pytest.approx(0.4)
    assert max(rates) == pytest.approx(2.0, abs=0.02)
    assert rates[50] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.0)
    assert all(a > b for a, b in pairwise(rates[4:]))
