"""The sources of a mix: what is missing is said at once, weights go together."""

import logging
import shlex
from pathlib import Path

import pytest

from hmrkit.configs import load_config, to_plain
from hmrkit.data.datamodule import DataModule
from hmrkit.data.mix import BLOCK_SIZE
from hmrkit.runs import build_datamodule
from made_sources import Tagged, make_source


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("sources")
    return {name: make_source(root / name, num) for name, num in (("a", 90), ("b", 30), ("v", 12))}


def make_data(train, val=None, test=None, **options):
    options = {"num_workers": 0, **options}
    return DataModule(Tagged(), 4, train=train, val=val or {}, test=test or {}, **options)


def official(path, name="coco_2014_spin"):
    return {"path": path, "name": name, "weight": 1.0, "prepare": object()}


# Missing sources


@pytest.mark.parametrize("hook", ["prepare_data", "setup"])
def test_one_message_names_all_that_is_missing_and_how_it_is_prepared(sources, hook):
    data = make_data(
        train={"coco": official("/data/coco"), "a": {"path": sources["a"]}},
        val={"pw3d": official("/data/3dpw", "3dpw_val")},
        test={"mine": {"path": "/data/mine"}},
    )
    with pytest.raises(FileNotFoundError) as caught:
        getattr(data, hook)()
    assert str(caught.value).splitlines() == [
        "3 of 4 sources are missing:",
        "  mix.train: source 'coco': /data/coco does not exist",
        "    python -m hmrkit.prepare source=coco_2014_spin output=/data/coco "
        "input=<folder of the download>",
        "  mix.val: source 'pw3d': /data/3dpw does not exist",
        "    python -m hmrkit.prepare source=3dpw_val output=/data/3dpw "
        "input=<folder of the download>",
        "  mix.test: source 'mine': /data/mine does not exist: make the shards (python -m "
        "hmrkit.synth output=/data/mine for synthetic people), or set the source's `path` to where "
        "they are",
        "mix.allow_missing=true goes on without them",
    ]


def test_a_missing_path_is_named_once_and_quoted_for_the_shell(sources):
    node = official("/data/my sets/3dpw", "3dpw_spin_test")
    data = make_data({"a": {"path": sources["a"]}}, val={"pw": node}, test={"pw": node})
    with pytest.raises(FileNotFoundError) as caught:
        data.prepare_data()
    first, second, command, _ = str(caught.value).splitlines()
    assert first == "1 of 2 sources are missing:"
    assert second == "  mix.val, mix.test: source 'pw': /data/my sets/3dpw does not exist"
    words = shlex.split(command.removesuffix(" input=<folder of the download>"))
    assert words[:4] == ["python", "-m", "hmrkit.prepare", "source=3dpw_spin_test"]
    assert words[4:] == ['output="/data/my sets/3dpw"']  # the inner quotes are Hydra's


def test_an_unfinished_source_counts_as_missing(sources, tmp_path):
    path = Path(make_source(tmp_path / "half", 8))
    (path / "000001.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"'half': shard .*000001.tar does not exist\n.*"):
        make_data({"half": official(str(path)), "a": {"path": sources["a"]}}).setup("fit")


def test_the_downloaded_tars_of_another_format_are_not_prepared():
    class Reader:
        def decode(self):
            """Mark a converter that reads in place."""

    node = {"path": "/data/tars", "prepare": Reader(), "in_place": True}
    with pytest.raises(FileNotFoundError) as caught:
        make_data({"tars": node}).setup("fit")
    assert "put the downloaded tars there, or set `path`" in str(caught.value)
    assert "hmrkit.prepare" not in str(caught.value)


def test_what_is_missing_can_be_left_out_loudly(sources, caplog):
    train = {
        "coco": {**official("/data/coco"), "weight": 2.0},
        "a": {"path": sources["a"], "weight": 3.0},
        "b": {"path": sources["b"], "weight": 1.0},
    }
    data = make_data(train, {"v": {"path": sources["v"]}}, allow_missing=True)
    with caplog.at_level(logging.WARNING):
        data.prepare_data()
        data.setup("fit")
    assert list(data.sources["train"]) == ["a", "b"]
    assert data.mix.quotas.tolist() == [750, 250]
    assert len([r for r in caplog.records if "/data/coco does not exist" in r.message]) == 1
    shares = [r.message for r in caplog.records if "shares of the training" in r.message]
    assert len(shares) == 1
    assert "75.0 %  a (90 views)" in shares[0]
    assert "25.0 %  b (30 views)" in shares[0]
    assert {s for batch in data.train_dataloader() for s in batch["source"]} == {"a", "b"}


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_map_of_which_nothing_is_left_stops_the_run(sources, split):
    maps = {name: {"v": {"path": sources["v"]}} for name in ("train", "val", "test")}
    maps[split] = {"coco": official("/data/coco"), "mpii": official("/data/mpii")}
    data = make_data(**maps, allow_missing=True)
    with pytest.raises(FileNotFoundError) as caught:
        data.prepare_data()
    last = str(caught.value).splitlines()[-1]
    remedy = "" if split == "train" else f"; to do without: ~mix.{split}.coco ~mix.{split}.mpii"
    assert last == f"That leaves nothing of mix.{split}{remedy}"


def test_the_command_line_allows_missing_sources(tmp_path, tiny_overrides):
    where = [f"run_dir={tmp_path}", "+mix.train.coco.path=/data/coco"]
    for allow in ("true", "false"):
        config = load_config("train", [*tiny_overrides, *where, f"mix.allow_missing={allow}"])
        data = build_datamodule(to_plain(config))
        if allow == "true":
            data.prepare_data()
            assert "coco" not in data.nodes["train"]
        else:
            with pytest.raises(FileNotFoundError, match="'coco': /data/coco does not exist"):
                data.prepare_data()


def test_evaluation_asks_for_no_training_sources(sources):
    config = {
        "data": {"_target_": "hmrkit.data.datamodule.DataModule", "batch_size": 4},
        "mix": {"train": {"coco": {"path": "/data/coco"}}, "test": {"v": {"path": sources["v"]}}},
    }
    config["data"]["cut"] = {"_target_": "hmrkit.data.crops.Crops", "input_size": [16, 16]}
    config["mix"]["test"]["v"]["protocol"] = {
        "name": "made",
        "joint_set": "smpl24",
        "root": ["pelvis"],
    }
    data = build_datamodule(config, splits=["test"])
    data.prepare_data()
    data.setup("test")
    assert list(data.sources["test"]) == ["v"]


# Weights


def test_auto_weights_are_the_numbers_of_samples(sources, caplog):
    train = {name: {"path": sources[name], "weight": "auto"} for name in ("a", "b")}
    data = make_data(train)
    with caplog.at_level(logging.INFO, logger="hmrkit"):
        data.setup("fit")
    assert data.mix.quotas.tolist() == [3 * BLOCK_SIZE // 4, BLOCK_SIZE // 4]
    assert "75.0 %  a (90 views)" in caplog.text
    # Concatenated: a pass over one is a pass over the other.
    draws = [data.mix.draw(t) for t in range(240)]
    assert sum(source == 0 for source, _ in draws) == pytest.approx(180, abs=15)


def test_auto_and_numbers_do_not_mix(sources):
    train = {"a": {"path": sources["a"], "weight": "auto"}, "b": {"path": sources["b"]}}
    with pytest.raises(ValueError, match=r"all sources of a mix or none: \['a'\] have it, \['b'\]"):
        make_data(train).setup("fit")
