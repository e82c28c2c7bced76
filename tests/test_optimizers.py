from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn

from hmrkit.optimizers import by_part, half_cosine, one_cycle


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


@pytest.mark.parametrize("total_steps", [1, 2, 10, 20, 33])
def test_one_cycle_stands_runs_of_a_few_steps(total_steps: int):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = one_cycle(optimizer, max_lr=2.0, total_steps=total_steps, pct_start=0.05)
    for _ in range(total_steps - 1):
        optimizer.step()
        scheduler.step()
    assert 0 < optimizer.param_groups[0]["lr"] <= 2.0


def test_one_cycle_of_a_real_run_is_torchs():
    rates = []
    for make in (one_cycle, torch.optim.lr_scheduler.OneCycleLR):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler = make(optimizer, max_lr=2.0, total_steps=100, pct_start=0.05)
        rates.append([])
        for _ in range(99):
            rates[-1].append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
    assert rates[0] == rates[1]
