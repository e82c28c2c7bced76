"""Bad records: replaced, counted, logged once per shard, limited."""

import logging

import pytest

from hmrkit.data.bad import TooManyBadRecordsError
from hmrkit.data.datamodule import DataModule
from made_sources import Tagged, damage, make_source


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
