"""Sources behind addresses: S3 and other schemes, and the copy that makes them like local ones."""

import hashlib
import itertools
import json
import logging
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pytest

from hmrkit.data.cache import fetch_source
from hmrkit.data.datamodule import DataModule
from hmrkit.data.index import index_path
from hmrkit.data.record import BadRecord
from hmrkit.data.shards import ShardSet
from hmrkit.data.stream import RemoteStream
from made_servers import serve_http, serve_s3
from made_sources import Tagged, make_rigs, make_source

NUM = 24  # records, in three shards


@pytest.fixture
def folder(tmp_path):
    make_source(tmp_path / "served" / "set", NUM, num_shards=3)
    return tmp_path / "served" / "set"


@pytest.fixture
def server(folder):
    with serve_http(folder.parent) as server:
        yield server


@pytest.fixture(scope="module")
def s3_environment():
    with serve_s3() as environment:
        yield environment


@pytest.fixture
def bucket(folder, s3_environment, monkeypatch):
    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    system = fsspec.filesystem("s3")
    name = "b" + hashlib.sha256(str(folder).encode()).hexdigest()[:8]
    system.mkdir(name)
    system.put(str(folder), f"{name}/set", recursive=True)
    return f"s3://{name}/set"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def make_data(train, test=None, **options):
    options = {"num_workers": 0, "steps_per_epoch": 12, "shuffle_buffer": 4, **options}
    return DataModule(Tagged(), 4, train=train, val={}, test=test or {}, **options)


def keys(data):
    data.prepare_data()
    data.setup("fit")
    return [batch["key"] for batch in data.train_dataloader()]


# Streaming


@pytest.mark.parametrize("num_workers", [0, 2])
def test_s3_streams_into_workers(bucket, num_workers):
    seen = keys(make_data({"web": {"path": bucket}}, num_workers=num_workers))
    assert len({key for batch in seen for key in batch}) == NUM


def test_an_object_that_is_gone_is_a_bad_shard(bucket):
    fsspec.filesystem("s3").rm(f"{bucket}/000001.tar")
    stream = RemoteStream(bucket, "web", seed=0, buffer_size=1)
    found, bad = Counter(), []
    for _ in range(17):
        try:
            found[stream.next_unit("record", 0, 0, 1)[2][-10:]] += 1
        except BadRecord as error:
            bad.append((error.shard, error.kind, error.number))
    assert found == {"000000.tar": 8, "000002.tar": 8}
    assert bad == [(f"{bucket}/000001.tar", "file", 8)]


def test_a_bucket_without_a_manifest_is_no_source(bucket):
    fsspec.filesystem("s3").rm(f"{bucket}/hmrkit.json")
    with pytest.raises(FileNotFoundError, match=r"source 'web': s3://.*/hmrkit.json does not"):
        RemoteStream(bucket, "web", 0)


def test_every_scheme_of_fsspec_streams(folder):
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/set", recursive=True)
    seen = keys(make_data({"web": {"path": "memory://set"}}))
    assert len({key for batch in seen for key in batch}) == NUM
    memory.rm("/set", recursive=True)


def test_a_file_address_is_a_local_folder(folder):
    local = keys(make_data({"a": {"path": str(folder)}}))
    assert keys(make_data({"a": {"path": f"file://{folder}"}})) == local


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    def lacking(protocol):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.get_filesystem_class", lacking)
    with pytest.raises(
        ValueError, match=r"'web': s3:// needs .*Install s3fs.* pip install \"hmrkit\[remote\]\""
    ):
        RemoteStream("s3://bucket/set", "web", 0)


@pytest.mark.parametrize("group_views", [False, True])
def test_people_of_one_image_stay_together_in_a_stream_if_asked(tmp_path, group_views):
    path = make_source(tmp_path / "set", NUM, people=3)
    with serve_http(tmp_path) as server:
        stream = RemoteStream(f"{server.url}/set", "web", 0, 8, group_views=group_views)
        units = [stream.next_unit("view", 0, 0, 1)[:2] for _ in range(3 * NUM)]
    neighbours = [sample["key"] for sample, _ in units]
    runs = sum(a != b for a, b in itertools.pairwise(neighbours)) + 1
    assert (runs == NUM) == group_views
    assert ShardSet(path).num_views == len(units)


def test_cameras_of_a_rig_do_not_stay_together_in_a_stream(tmp_path):
    make_rigs(tmp_path / "rigs")  # ten moments, two people in two images each
    with serve_http(tmp_path) as server:
        stream = RemoteStream(f"{server.url}/rigs", "web", 0, 20, group_views=True)
        keys = [stream.next_unit("view", 0, 0, 1)[0]["key"] for _ in range(40)]
    assert sum(a == b for a, b in itertools.pairwise(keys)) < 20  # 30 if they did


# The local copy


@pytest.mark.parametrize("pattern", ["", "/{000000..000002}.tar"])
@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_a_copied_source_gives_the_batches_of_a_local_one(
    folder, server, bucket, tmp_path, scheme, pattern
):
    address = (f"{server.url}/set" if scheme == "http" else bucket) + pattern
    local = make_data({"a": {"path": str(folder)}})
    copied = make_data({"a": {"path": address}}, cache_dir=str(tmp_path / "cache"))
    assert keys(copied) == keys(local)
    assert copied.state_dict() == local.state_dict()  # the resume is that of a local source


def test_a_copy_is_fetched_once_and_then_read_without_the_server(folder, tmp_path):
    cache = str(tmp_path / "cache")
    with serve_http(folder.parent) as server:
        address = f"{server.url}/set"
        first = keys(make_data({"a": {"path": address}}, cache_dir=cache))
        assert Counter(server.asked).most_common(1)[0][1] == 1
        assert "000002.tar" in server.asked
    assert keys(make_data({"a": {"path": address}}, cache_dir=cache)) == first


def test_processes_of_one_machine_fetch_once(folder, server, tmp_path):
    with ThreadPoolExecutor(3) as pool:
        jobs = [(f"{server.url}/set", "a", tmp_path / "cache")] * 3
        copies = set(pool.map(lambda job: fetch_source(*job), jobs))
    assert len(copies) == 1
    assert all(server.asked.count(path.name) == 1 for path in folder.glob("*.tar"))


def test_a_remote_test_set_is_copied_and_evaluated_in_order(server, tmp_path):
    test = {"v": {"path": f"{server.url}/set"}}
    with pytest.raises(ValueError, match=r"'v': mix.test reads .* data.cache_dir=<folder>"):
        make_data({}, test).setup("test")
    data = make_data({}, test, cache_dir=str(tmp_path / "cache"))
    data.setup("test")
    (loader,) = data.test_dataloader()
    assert [i for batch in loader for i in batch["index"].tolist()] == list(range(NUM))


def test_a_broken_connection_is_tried_again(folder, server, tmp_path):
    server.break_off["000001.tar"] = 2
    copy = fetch_source(f"{server.url}/set", "a", tmp_path / "cache")
    assert server.asked.count("000001.tar") == 3
    assert ShardSet(copy).digest() == ShardSet(folder).digest()


def test_an_interrupted_copy_goes_on_with_what_is_not_there(server, tmp_path):
    server.break_off["000002.tar"] = 99
    with pytest.raises(ValueError, match=r"source 'a': .*000002.tar arrived with \d+ bytes"):
        fetch_source(f"{server.url}/set", "a", tmp_path / "cache")
    (copy,) = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    assert not (copy / "hmrkit.json").exists()
    assert not list(copy.glob("*002.tar*"))
    whole = {path.name for path in copy.glob("*.tar")}
    server.break_off.clear()
    server.asked.clear()
    assert len(ShardSet(fetch_source(f"{server.url}/set", "a", tmp_path / "cache"))) == NUM
    assert whole.isdisjoint(server.asked)
    assert "000002.tar" in server.asked


def test_other_content_than_the_manifests_is_refused(folder, server, tmp_path):
    make_source(folder, NUM, num_shards=3, seed=1)
    old = json.loads((folder / "hmrkit.json").read_text())
    old["shards"][1]["sha256"] = "0" * 64
    (folder / "hmrkit.json").write_text(json.dumps(old))
    with pytest.raises(ValueError, match=r"000001.tar arrived .*; expected .* SHA-256 000.*"):
        fetch_source(f"{server.url}/set", "a", tmp_path / "cache")


def test_an_index_of_another_tar_is_refused(folder, server, tmp_path):
    first, second = (index_path(folder / f"00000{i}.tar") for i in (0, 1))
    second.write_bytes(first.read_bytes())
    with pytest.raises(ValueError, match=r"000001.tar.index is not the index of the tar beside it"):
        fetch_source(f"{server.url}/set", "a", tmp_path / "cache")


def test_tars_without_indices_get_them_in_the_copy(folder, server, tmp_path):
    for path in [*folder.glob("*.index"), folder / "hmrkit.json"]:
        path.unlink()
    copies = fetch_source(f"{server.url}/set/{{000000..000002}}.tar", "a", tmp_path / "cache")
    assert len(ShardSet(copies)) == NUM


def test_a_manifest_cannot_write_outside_the_cache(folder, server, tmp_path):
    manifest = json.loads((folder / "hmrkit.json").read_text())
    manifest["shards"][0]["name"] = "../../evil.tar"
    (folder / "hmrkit.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"names \['../../evil.tar'\], which no shard"):
        fetch_source(f"{server.url}/set", "a", tmp_path / "cache")
    assert not list(tmp_path.rglob("evil*"))


def test_a_missing_remote_source_is_missing_like_a_local_one(server, tmp_path):
    node = {"web": {"path": f"{server.url}/nothing"}}
    for cache in (None, str(tmp_path / "cache")):
        with pytest.raises(FileNotFoundError, match=r"1 of 1 sources .*\n.*'web'.*nothing"):
            make_data(node, cache_dir=cache).setup("fit")


def test_two_addresses_share_no_folder(server, folder, tmp_path):
    os.rename(folder, folder.with_name("other"))
    make_source(folder, 6, num_shards=1)
    sizes = [
        len(ShardSet(fetch_source(f"{server.url}/{name}", "a", tmp_path / "cache")))
        for name in ("set", "other")
    ]
    assert sizes == [6, NUM]


def test_the_copy_is_announced(server, tmp_path, caplog):
    data = make_data({"a": {"path": f"{server.url}/set"}}, cache_dir=str(tmp_path / "cache"))
    with caplog.at_level(logging.INFO, logger="hmrkit"):
        data.setup("fit")
    assert "is read from its copy in" in caplog.text
