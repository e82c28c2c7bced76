from collections import OrderedDict

import pytest
import torch
from torch import nn

from hmrkit.initial_weights import set_initial_weights


def network() -> nn.Module:
    return nn.ModuleDict({"backbone": nn.Linear(3, 2), "head": nn.Linear(2, 2)})


def saved(tmp_path, content) -> str:
    torch.save(content, tmp_path / "file.pth")
    return str(tmp_path / "file.pth")


WEIGHTS = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        {"state_dict": {f"backbone.{k}": v for k, v in WEIGHTS.items()}, "epoch": 3},
        {"state_dict": {f"net.backbone.{k}": v for k, v in WEIGHTS.items()}},
        {"model": OrderedDict({**WEIGHTS, "fc.weight": torch.zeros(9)})},
    ],
    ids=["bare", "lightning of the authors", "ours", "with a classifier"],
)
def test_a_part_takes_its_weights_from_files_of_every_layout(tmp_path, content):
    net = network()
    before = net["head"].weight.clone()
    set_initial_weights(net, {"backbone": saved(tmp_path, content)})
    assert torch.equal(net["backbone"].weight, WEIGHTS["weight"])
    assert torch.equal(net["head"].weight, before)


def test_the_whole_network_can_begin_with_another_run(tmp_path):
    other = network()
    state = {f"net.{k}": v for k, v in other.state_dict().items()}
    net = network()
    set_initial_weights(net, {"all": saved(tmp_path, {"state_dict": state})})
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_a_whole_network_overrules_the_parts_of_a_recipe(tmp_path):
    net, other = network(), network()
    (tmp_path / "part").mkdir()
    part = saved(tmp_path / "part", WEIGHTS)
    whole = saved(tmp_path, {"state_dict": other.state_dict()})
    set_initial_weights(net, {"all": whole, "backbone": part})
    assert torch.equal(net["backbone"].weight, other["backbone"].weight)


@pytest.mark.parametrize(
    ("content", "part", "message"),
    [
        ({"weight": torch.ones(2, 3)}, "backbone", "not 'bias'"),
        ({**WEIGHTS, "weight": torch.ones(5, 3)}, "backbone", r"weight is \(5, 3\)"),
        ({"other": torch.ones(1)}, "backbone", "no weights for 'backbone'"),
        (WEIGHTS, "neck", "the network has backbone, head"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, content, part, message):
    with pytest.raises(ValueError, match=message):
        set_initial_weights(network(), {part: saved(tmp_path, content)})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.pth"):
        set_initial_weights(network(), {"backbone": tmp_path / "gone.pth"})


def reader(path: str) -> dict[str, torch.Tensor]:
    return {name: torch.load(path)["others"][name] for name in WEIGHTS}


def test_a_reader_gives_weights_whose_file_has_other_names_and_null_leaves_them(tmp_path):
    net = network()
    before = net["head"].weight.clone()
    node = {"_target_": f"{__name__}.reader", "path": saved(tmp_path, {"others": WEIGHTS})}
    set_initial_weights(net, {"backbone": node, "head": None})
    assert torch.equal(net["backbone"].weight, WEIGHTS["weight"])
    assert torch.equal(net["head"].weight, before)


def test_a_missing_file_is_named_with_its_option():
    with pytest.raises(FileNotFoundError, match=r"initial_weights.backbone.*nowhere.*null"):
        set_initial_weights(network(), {"backbone": "nowhere.pth"})
    node = {"_target_": "hmrkit.models.tokenhmr.convert.read_tokenizer", "path": "nowhere.pth"}
    with pytest.raises(FileNotFoundError, match=r"initial_weights.head.*nowhere"):
        set_initial_weights(network(), {"head": node})
