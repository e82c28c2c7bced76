import gzip
import json
import logging
import os
import pickle
from pathlib import Path

import pytest
import torch

from hmrkit.checkpoints import load_checkpoint, load_official, save_checkpoint
from hmrkit.weight_files import read_checkpoint

STATES = Path(__file__).parent / "parity" / "cases" / "metahmr"


def official(variant: str = "hmr_resnet_1111") -> dict:
    """A file of Meta-HMR's: right names and shapes, arbitrary numbers."""
    with gzip.open(STATES / f"state_{variant}.json.gz", "rt") as lines:
        table = json.load(lines)
    generator = torch.Generator().manual_seed(0)
    content = {}
    for entry in ("model", "model_aux"):
        content[entry] = {
            name: torch.zeros(shape, dtype=torch.int64)
            if dtype == "int64"
            else 0.02 * torch.rand(shape, generator=generator)
            for name, (shape, dtype) in table[entry].items()
        }
    return {
        **content,
        "optimizer": {"state": {}, "param_groups": []},
        "epoch": 1,
        "batch_idx": 2,
        "batch_size": 30,
        "dataset_perm": [3, 1, 2],
        "total_step_count": 4,
    }


@pytest.fixture(scope="module")
def content():
    return official()


def saved(content: dict, folder: Path) -> Path:
    path = folder / "official.pt"
    torch.save(content, path)
    return path


@pytest.mark.parametrize(("network", "entry"), [("main", "model"), ("auxiliary", "model_aux")])
def test_every_official_weight_arrives_and_ours_has_no_other(content, tmp_path, network, entry):
    module = load_official("hmr", saved(content, tmp_path), network=network)
    ours = {name.partition(".")[2]: value for name, value in module.net.state_dict().items()}
    theirs = content[entry]
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not module.training
    assert module.net.head.num_iterations == {"main": 10, "auxiliary": 3}[network]


def test_the_full_size_network_has_exactly_the_official_names_and_shapes(tmp_path):
    content = official("hmr_resnet50")
    module = load_official("hmr", saved(content, tmp_path))
    ours = {n.partition(".")[2]: v.shape for n, v in module.net.state_dict().items()}
    assert ours == {name: value.shape for name, value in content["model"].items()}


def test_a_weight_without_a_place_is_named(content, tmp_path):
    extra = {**content["model"], "encoder.conv1.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"encoder\.conv1\.weight"):
        load_official("hmr", saved({**content, "model": extra}, tmp_path))
    deeper = {**content["model"], "layer1.0.conv4.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"layer1\.0\.conv4\.weight"):
        load_official("hmr", saved({**content, "model": deeper}, tmp_path))


def test_a_weight_that_nothing_fills_is_named(content, tmp_path):
    less = {name: value for name, value in content["model"].items() if name != "fc2.bias"}
    with pytest.raises(ValueError, match=r"head\.fc2\.bias"):
        load_official("hmr", saved({**content, "model": less}, tmp_path))


def test_a_weight_of_another_shape_is_named(content, tmp_path):
    wrong = {**content["model"], "fc1.weight": torch.zeros(1024, 2208)}  # CLIFF's
    with pytest.raises(ValueError, match=r"head\.fc1\.weight.*2208.*2205"):
        load_official("hmr", saved({**content, "model": wrong}, tmp_path))


def test_an_unknown_entry_beside_the_weights_is_named(content, tmp_path):
    with pytest.raises(ValueError, match="'tokenizer'"):
        load_official("hmr", saved({**content, "tokenizer": {}}, tmp_path))


def test_a_missing_network_is_named(content, tmp_path):
    alone = {name: value for name, value in content.items() if name != "model_aux"}
    with pytest.raises(ValueError, match="no auxiliary network"):
        load_official("hmr", saved(alone, tmp_path), network="auxiliary")


def test_spins_file_keeps_the_mean_of_the_body_and_says_so(content, tmp_path, caplog):
    weights = {n: v for n, v in content["model"].items() if not n.startswith("init_")}
    with caplog.at_level(logging.INFO):
        module = load_official("hmr", saved({"model": weights}, tmp_path), num_iterations=3)
    mean = module.body.mean_pose[:, :, :2].reshape(1, -1)
    assert torch.equal(module.net.head.init_pose, mean)
    assert "head.init_pose" in caplog.text
    assert "mean pose" in caplog.text


def test_an_unknown_method_lists_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match=r"there are .*hmr"):
        load_official("hnr", tmp_path / "x.pt")


def test_an_unknown_option_lists_the_known_ones(content, tmp_path):
    with pytest.raises(ValueError, match="'netwrk'; it has network, input_size"):
        load_official("hmr", saved(content, tmp_path), netwrk="main")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.pt"):
        load_official("hmr", tmp_path / "nothing.pt")


class Trap:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_code_inside_a_checkpoint_is_refused_by_name_and_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(ValueError, match=r"mkdir object.*was not loaded"):
        read_checkpoint(tmp_path / "trap.pt")
    assert not (tmp_path / "executed").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "bare pickle", "no dict"])
def test_a_damaged_file_is_one_clear_error(content, tmp_path, damage):
    path = saved(content, tmp_path)
    whole = path.read_bytes()
    if damage == "no dict":
        torch.save([1, 2], path)
    else:
        pickled = pickle.dumps({"model": 1})
        damaged = {"truncated": whole[: len(whole) // 2], "text": b"hello", "empty": b""}
        path.write_bytes({**damaged, "bare pickle": pickled}[damage])
    with pytest.raises(ValueError, match=r"official\.pt"):
        read_checkpoint(path)


def test_ours_comes_back_the_same_from_its_own_config(content, tmp_path):
    module = load_official("hmr", saved(content, tmp_path), network="auxiliary")
    save_checkpoint(module, tmp_path / "new" / "ours.ckpt")
    again = load_checkpoint(tmp_path / "new" / "ours.ckpt")
    batch = {"image": torch.randn(2, 3, 256, 192, generator=torch.Generator().manual_seed(0))}
    first, second = module.predict(batch), again.predict(batch)
    assert torch.equal(first.mesh.vertices, second.mesh.vertices)
    assert again.config == module.config
    assert not again.training
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["ours.ckpt"]


def test_our_checkpoint_holds_no_body(content, tmp_path):
    module = load_official("hmr", saved(content, tmp_path))
    assert all(name.startswith("net.") for name in module.state_dict())


def test_an_official_file_given_as_ours_is_told_how_to_convert(content, tmp_path):
    with pytest.raises(ValueError, match=r"hmrkit\.convert"):
        load_checkpoint(saved(content, tmp_path))


def test_ours_with_a_weight_missing_is_refused(content, tmp_path):
    module = load_official("hmr", saved(content, tmp_path))
    save_checkpoint(module, tmp_path / "ours.ckpt")
    ours = torch.load(tmp_path / "ours.ckpt", weights_only=True)
    del ours["state_dict"]["net.head.deccam.bias"]
    torch.save(ours, tmp_path / "ours.ckpt")
    with pytest.raises(ValueError, match=r"net\.head\.deccam\.bias"):
        load_checkpoint(tmp_path / "ours.ckpt")


def test_the_command_converts_and_a_wrong_file_ends_it_with_one_message(program, content, tmp_path):
    path, output = saved(content, tmp_path), tmp_path / "hmr.ckpt"
    options = ("model=hmr", f"output={output}", "+options.network=auxiliary")
    done = program("convert", f"checkpoint={path}", *options)
    assert done.returncode == 0, done.stderr
    assert load_checkpoint(output).net.head.num_iterations == 3
    failed = program("convert", "model=hmr", f"checkpoint={output}", "output=no.ckpt")
    assert failed.returncode != 0
    assert "checkpoint of hmrkit already" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "no.ckpt").exists()


def test_a_config_that_names_foreign_code_is_refused(tmp_path):
    config = {"model": {"net": {"_target_": "subprocess.call", "args": ["true"]}}, "body": {}}
    content = {"state_dict": {}, "hyper_parameters": {"config": config}}
    torch.save(content, tmp_path / "hostile.ckpt")
    with pytest.raises(ValueError, match=r"subprocess\.call.*trusted"):
        load_checkpoint(tmp_path / "hostile.ckpt")
