"""Bad records: replaced, counted, logged once per shard, limited."""

import logging
import os
import re
import shutil
from pathlib import Path

import pytest

from hmrkit.checkpoints import build_module
from hmrkit.configs import load_config, to_plain
from hmrkit.data import record
from hmrkit.data.bad import TooManyBadRecordsError
from hmrkit.data.crops import Crops
from hmrkit.data.datamodule import DataModule
from hmrkit.data.index import index_path, index_shard, read_index
from hmrkit.data.shards import write_manifest, write_shard
from hmrkit.runs import build_datamodule, build_trainer
from made_sources import JOINTS, Tagged, damage, make_sample, make_source


@pytest.mark.parametrize("num_workers", [0, 2])
def test_bad_records_are_replaced_counted_and_logged_once(tmp_path, caplog, num_workers):
    path = make_source(tmp_path / "a", 60)
    damage(path, {"a0003", "a0009"})
    train = {"a": {"path": path}}
    options = {"num_workers": num_workers, "steps_per_epoch": 30, "max_bad": 0.5}
    data = DataModule(Tagged(), 4, train=train, val={}, test={}, **options)
    data.setup("fit")
    with caplog.at_level(logging.WARNING):
        batches = list(data.train_dataloader())
    assert all(len(batch["key"]) == 4 for batch in batches)
    keys = {key for batch in batches for key in batch["key"]}
    assert len(keys) == 58
    assert keys.isdisjoint({"a0003", "a0009"})
    assert data.num_bad >= 4  # two passes
    assert data.bad_counts() == {("a", f"{path}/000000.tar", "checksum"): data.num_bad}
    lines = [r.message for r in caplog.records if "bad record" in r.message]
    assert len(lines) == 1
    assert "source 'a'" in lines[0]
    assert "000000.tar: " in lines[0]
    assert "another CRC" in lines[0]
    again = DataModule(Tagged(), 4, train=train, val={}, test={}, **options)
    again.setup("fit")
    assert [b["key"] for b in again.train_dataloader()] == [b["key"] for b in batches]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_more_bad_records_than_allowed_stop_the_run_with_the_list(tmp_path, num_workers):
    path = make_source(tmp_path / "a", 200)
    damage(path, {f"a{i:04d}" for i in range(98, 101)})  # 1.5 %, in both shards
    options = {"num_workers": num_workers, "steps_per_epoch": 50}
    data = DataModule(Tagged(), 4, train={"a": {"path": path}}, val={}, test={}, **options)
    data.setup("fit")
    with pytest.raises(TooManyBadRecordsError, match=r"3 bad records .* max_bad=0.01") as caught:
        list(data.train_dataloader())
    assert "000000.tar: 2 checksum" in str(caught.value)
    assert "000001.tar: 1 checksum" in str(caught.value)


def test_a_bad_record_of_a_test_set_is_left_out_and_counted(tmp_path):
    path = make_source(tmp_path / "a", 200)
    damage(path, {"a0050"})
    data = DataModule(Tagged(), 8, train={}, val={}, test={"a": {"path": path}}, num_workers=0)
    data.setup("test")
    (loader,) = data.test_dataloader()
    indices = [i for batch in loader for i in batch["index"].tolist()]
    assert indices == [i for i in range(200) if i != 50]
    assert data.num_bad == 1


def test_a_source_that_is_all_bad_stops_at_once(tmp_path):
    path = make_source(tmp_path / "a", 30)
    damage(path, {f"a{i:04d}" for i in range(30)})
    data = DataModule(
        Tagged(), 4, train={"a": {"path": path}}, val={}, test={}, num_workers=0, max_bad=1.0
    )
    data.setup("fit")
    with pytest.raises(TooManyBadRecordsError, match=r"10 bad records in a row; last: .*CRC"):
        next(iter(data.train_dataloader()))


# Every kind of damage


def make_damaged(folder, harm, num=60):
    """A source of one shard whose record 20 (and, if the tar is cut short, all behind) is bad."""

    def samples():
        for number in range(num):
            sample = make_sample(number)
            if number == 20 and harm == "box":
                sample["box_img"] += 500  # outside its image
            if number == 20 and harm == "jpeg":
                sample["images"] = [jpeg_without_its_end(sample["images"][0])]
            yield sample

    path = folder / "000000.tar"
    with pytest.MonkeyPatch.context() as patch:  # a tar from elsewhere was not checked when written
        patch.setattr(record, "decode_image", lambda data: None)
        write_shard(path, samples(), JOINTS)
    write_manifest(folder, "made", "crops", JOINTS, {}, "test")
    if harm == "labels":
        break_labels(path, 20)
    if harm == "truncated":
        index = read_index(path)
        os.truncate(path, int(index.offset[index.first_member[num - 1]]) + 1)
    return str(folder)


def jpeg_without_its_end(image):
    data = record.encode_image(image, "jpg", 92)
    return data[: len(data) // 2]


def break_labels(path, number):
    """Boxes inside out: the schema refuses them. The index gets the CRC of the new content."""
    index = read_index(path)
    member = index.first_member[number + 1] - 1
    offset, size = int(index.offset[member]), int(index.size[member])
    data = bytearray(path.read_bytes())
    labels = record.decode_labels(bytes(data[offset : offset + size]))
    box = labels["box_img"].tobytes()
    start = data.index(box, offset)
    data[start : start + len(box)] = labels["box_img"][:, [2, 3, 0, 1]].tobytes()
    path.write_bytes(data)
    index_path(path).unlink()
    (path.parent / "hmrkit.json").unlink()
    index_shard(path)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(
    ("harm", "kind", "words"),
    [
        ("box", "cut", "r0020: record 'r0020' of source 'a', view 0: box .* lies outside its"),
        ("jpeg", "image", "r0020: image 0 cannot be decoded"),
        ("labels", "labels", "r0020: .*box_img must be finite with x2 > x1"),
        ("truncated", "truncated", "r0059: the file ends .* bytes early"),
    ],
)
def test_every_damage_is_skipped_counted_and_logged_once(
    tmp_path, caplog, harm, kind, words, num_workers
):
    path = make_damaged(tmp_path / "a", harm)
    options = {"num_workers": num_workers, "steps_per_epoch": 60, "max_bad": 0.1}
    data = DataModule(Crops([16, 16]), 4, {"a": {"path": path}}, {}, {}, **options)
    data.setup("fit")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        keys = {key for batch in data.train_dataloader() for key in batch["key"]}
    assert len(keys) == 59
    assert data.bad_counts() == {("a", f"{path}/000000.tar", kind): 4}  # one per pass
    (line,) = [r.message for r in caplog.records if "bad record" in r.message]
    assert re.search(words, line)


def test_bad_cuts_over_the_limit_stop_the_run_with_the_list(tmp_path):
    path = make_damaged(tmp_path / "a", "box")
    data = DataModule(Crops([16, 16]), 4, {}, {}, {"a": {"path": path}}, num_workers=0)
    data.setup("test")
    with pytest.raises(TooManyBadRecordsError, match=r"000000.tar: 1 cut; first: r0020: .*outside"):
        list(data.test_dataloader()[0])


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("operands could not be broadcast"), RuntimeError),
        (IndexError("index 24 is out of bounds"), RuntimeError),
        (KeyError("pose"), RuntimeError),
        (TypeError("'NoneType' object is not callable"), TypeError),
        (AttributeError("no such thing"), AttributeError),
    ],
)
def test_a_programming_error_in_a_cut_stops_the_run(tmp_path, error, expected):
    class Wrong(Tagged):
        def __call__(self, sample, view, rng):
            raise error

    path = make_source(tmp_path / "a", 60)
    data = DataModule(Wrong(), 4, {"a": {"path": path}}, {}, {}, num_workers=0, max_bad=1.0)
    data.setup("fit")
    with pytest.raises(expected, match=str(error.args[0])[:12]):
        next(iter(data.train_dataloader()))
    assert data.num_bad == 0


def test_bad_records_show_in_the_progress_bar(tmp_path, tiny_shards, tiny_overrides):
    shutil.copytree(tiny_shards / "quickstart_train", tmp_path / "quickstart_train")
    tar = next((tmp_path / "quickstart_train").glob("*.tar"))
    damage(tmp_path / "quickstart_train", {read_index(tar).keys[0]})
    where = [f"mix.train.quickstart.path={tmp_path}/quickstart_train", f"run_dir={tmp_path}/run"]
    steps = ["trainer.max_steps=25", "data.max_bad=0.5", "trainer.limit_val_batches=0"]
    config = load_config("train", [*tiny_overrides, *where, *steps])
    plain = to_plain(config)
    trainer = build_trainer(config, Path(config.run_dir))
    trainer.fit(build_module(plain), build_datamodule(plain))
    shown = trainer.progress_bar_callback.get_metrics(trainer, trainer.lightning_module)
    assert shown["data/bad"] == 1.0
