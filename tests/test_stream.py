"""Remote shards over a real http server: records counted, losses reported, nothing executed."""

import itertools
import os
import pickle
import tarfile
from collections import Counter

import numpy as np
import pytest

from hmrkit.data.bad import TooManyBadRecordsError
from hmrkit.data.crops import Crops
from hmrkit.data.datamodule import DataModule
from hmrkit.data.record import BadRecord
from hmrkit.data.shards import write_manifest, write_shard
from hmrkit.data.stream import RemoteStream
from made_servers import serve_http

NUM_SHARDS, PER_SHARD = 4, 6


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "set"
    for shard in range(NUM_SHARDS):
        numbers = range(shard * PER_SHARD, (shard + 1) * PER_SHARD)
        write_shard(folder / f"{shard:06d}.tar", map(make_sample, numbers), "smpl24")
    write_manifest(folder, "set", "crops", "smpl24", {}, "test")
    return folder


@pytest.fixture
def address(folder):
    with serve_http(folder.parent) as server:
        yield f"{server.url}/set"


def make_sample(number, people=2):
    rng = np.random.default_rng(number)
    corner = rng.uniform(0, 5, (people, 2))
    return {
        "key": f"r{number:04d}",
        "images": [rng.integers(0, 255, (32, 32, 3), np.uint8)],
        "image_of_view": np.zeros(people, np.int64),
        "person_of_view": np.arange(people),
        "box_img": np.hstack([corner, corner + 20]).astype(np.float32),
    }


def take(stream, number, unit="record", start=0, rank=0, world_size=1):
    """Keys (and views) of the next units, bad ones as exceptions."""
    taken = []
    for _ in range(number):
        try:
            sample, view, _ = stream.next_unit(unit, start, rank, world_size)
            taken.append((sample["key"], view))
        except BadRecord as bad:
            taken.append(bad)
    return taken


ALL = {f"r{i:04d}" for i in range(NUM_SHARDS * PER_SHARD)}


@pytest.mark.parametrize("pattern", ["", "/", "/{000000..000003}.tar"])
def test_every_record_comes_once_per_pass(address, pattern):
    stream = RemoteStream(address + pattern, "web", seed=0, buffer_size=1)
    assert (stream.num_units("record"), stream.num_units("view")) == (24, 48)
    for _ in range(2):
        # A shuffle buffer holds records back, so passes are exact only without one.
        assert {key for key, _ in take(stream, 24)} == ALL


def test_the_source_is_the_mixs_and_views_come_one_by_one(address):
    stream = RemoteStream(address, "web", seed=0, buffer_size=1)
    sample, *_ = stream.next_unit("view", 0, 0, 1)
    assert sample["source"] == "web"
    rest = take(stream, 47, "view")
    counts = Counter([(sample["key"], 0), *rest])
    assert set(counts) == set(itertools.product(ALL, (0, 1)))


def test_order_depends_on_seed_and_start_only(address):
    def order(seed, start):
        return take(RemoteStream(address, "web", seed, buffer_size=8), 24, start=start)

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, start)) for seed in (0, 1) for start in (0, 100)}) == 4


def test_ranks_share_the_shards(address):
    ranks = [RemoteStream(address, "web", seed=0, buffer_size=1) for _ in range(2)]
    seen = [
        {key for key, _ in take(stream, 12, rank=rank, world_size=2)}
        for rank, stream in enumerate(ranks)
    ]
    assert seen[0] | seen[1] == ALL
    assert not seen[0] & seen[1]


def test_more_ranks_than_shards_do_not_starve(address):
    for rank in (0, 6):
        stream = RemoteStream(address, "web", seed=0, buffer_size=1)
        assert len(take(stream, 10, rank=rank, world_size=7)) == 10


@pytest.mark.parametrize("harm", ["truncated", "garbage", "missing"])
def test_a_shard_that_yields_fewer_records_than_its_manifest_says_is_reported(
    folder, address, harm
):
    tar = folder / "000002.tar"
    if harm == "truncated":
        os.truncate(tar, tar.stat().st_size // 2)
    elif harm == "garbage":  # webdataset ends the shard here without an error
        data = bytearray(tar.read_bytes())
        data[data.index(b"r0014.0.jpg") :][:512] = b""
        start = data.index(b"r0014.0.jpg")
        data[start : start + 512] = b"\xaa" * 512
        tar.write_bytes(data)
    else:
        tar.unlink()
    stream = RemoteStream(address, "web", seed=0, buffer_size=1)
    taken = take(stream, 24)
    bad = [item for item in taken if isinstance(item, BadRecord)]
    lost = [item for item in bad if "of 6 records arrived" in item.reason]
    assert lost
    assert lost[0].shard == f"{address}/000002.tar"
    if harm == "missing":
        assert (lost[0].kind, lost[0].number) == ("file", 6)
    good = {item[0] for item in taken if not isinstance(item, BadRecord)}
    assert good >= {key for key in ALL if not "r0012" <= key <= "r0017"}


def test_tars_without_a_manifest_are_streamed_with_a_warning(folder, address, caplog):
    (folder / "hmrkit.json").unlink()
    stream = RemoteStream(f"{address}/{{000000..000003}}.tar", "web", 0, buffer_size=1)
    assert "no hmrkit.json: lost records cannot be noticed" in caplog.text
    assert stream.num_units("record") == 0
    assert {key for key, _ in take(stream, 24)} == ALL
    with pytest.raises(FileNotFoundError, match=r"source 'web': .*/set/hmrkit.json does not exist"):
        RemoteStream(address, "web", 0)


def test_commands_run_only_where_that_is_allowed(folder):
    path = f"pipe:cat {folder}/000000.tar"
    with pytest.raises(
        ValueError, match=r"'web': 'pipe:cat .* runs a shell command; set data.allow"
    ):
        RemoteStream(path, "web", 0)
    stream = RemoteStream(path, "web", 0, buffer_size=1, allow_pipe=True)
    assert len({key for key, _ in take(stream, 6)}) == 6


def test_a_server_that_is_down_is_an_error_before_the_first_step(monkeypatch):
    monkeypatch.setattr("hmrkit.data.remote.ATTEMPTS", 1)
    with pytest.raises(ConnectionError, match="cannot be reached"):
        RemoteStream("http://127.0.0.1:9/set", "web", 0)


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_a_hostile_shard_executes_nothing(folder, address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bomb").write_bytes(pickle.dumps(Bomb()))
    with tarfile.open(folder / "000000.tar", "w") as tar:
        for extension in ("pkl", "pyd", "pth", "labels.safetensors", "0.jpg"):
            tar.add(tmp_path / "bomb", f"r0000.{extension}")
    stream = RemoteStream(f"{address}/000000.tar", "web", 0, buffer_size=1)
    taken = take(stream, 3)
    assert all(isinstance(item, BadRecord) for item in taken)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_mix_of_local_and_remote_trains(folder, address, num_workers, caplog):
    train = {"web": {"path": address, "weight": 1.0}, "disk": {"path": str(folder), "weight": 3.0}}
    data = DataModule(
        Crops([16, 16]),
        8,
        train=train,
        val={},
        test={},
        num_workers=num_workers,
        steps_per_epoch=10,
        shuffle_buffer=4,
    )
    data.setup("fit")
    assert "a resumed run will not see the same samples" in caplog.text
    batches = list(data.train_dataloader())
    assert all(len(batch["key"]) == 8 for batch in batches)
    counts = Counter(source for batch in batches for source in batch["source"])
    assert 5 <= counts["web"] <= 40
    del batches


def test_lost_records_stop_a_run_like_bad_ones(folder, address):
    (folder / "000001.tar").unlink()
    data = DataModule(
        Crops([16, 16]),
        4,
        train={"web": {"path": address}},
        val={},
        test={},
        num_workers=0,
        steps_per_epoch=100,
        max_bad=0.0005,
        shuffle_buffer=4,
    )
    data.setup("fit")
    with pytest.raises(
        TooManyBadRecordsError, match=r"000001.tar: 6 file; first: .*0 of 6 records"
    ):
        list(data.train_dataloader())


def test_evaluation_needs_local_shards_and_epochs_a_length(folder, address):
    node = {"web": {"path": address}}
    with pytest.raises(ValueError, match=r"source .web.: mix.val reads records one by one"):
        DataModule(Crops([16, 16]), 4, train={}, val=node, test={}).setup("validate")
    data = DataModule(Crops([16, 16]), 4, train=node, val={}, test={}, num_workers=0)
    data.setup("fit")
    with pytest.raises(ValueError, match=r"\['web'\] are streamed: set data.steps_per_epoch"):
        data.train_dataloader()
