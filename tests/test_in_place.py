"""The authors' tars without conversion: indexed once, read like shards, damage counted."""

import os
import pickle
import tarfile

import numpy as np
import pytest
import torch

from hmrkit.configs import load_config, to_plain
from hmrkit.data import tar_index
from hmrkit.data.crops import Crops
from hmrkit.data.datamodule import DataModule
from hmrkit.data.index import load_index
from hmrkit.data.record import BadRecord
from hmrkit.data.scenes import Scenes
from hmrkit.data.shards import ShardSet
from hmrkit.data.sources.fourdhumans import FourDHumansTars
from hmrkit.runs import build_datamodule
from made_servers import serve_http
from made_tars import person, write_tar
from official_files import convert, read_all


def tars(**options):
    return FourDHumansTars(tars=["*/*.tar"], **{"min_keypoints": 5, **options})


def poor():
    """Somebody whom the filter leaves out."""
    keypoints = person()["keypoints_2d"]
    keypoints[4:, 2] = 0
    return person(keypoints_2d=keypoints)


@pytest.fixture
def download(tmp_path):
    """Two tars: photos of 1, 2, 0 (left out) and 3 people, and one of 2."""
    first = [
        ("a", [person(1)]),
        ("b", [person(2), poor(), person(3)]),
        ("c", [poor()]),
        ("d", [person(i) for i in (4, 5, 6)]),
    ]
    write_tar(tmp_path / "tars" / "mpii" / "000000.tar", first)
    write_tar(tmp_path / "tars" / "mpii" / "000001.tar", [("a", [person(7), person(8)])])
    return tmp_path / "tars"


def sidecars(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.index")}


# Reading


def test_in_place_gives_what_prepared_shards_give(download, tmp_path):
    shards, _ = convert(tars(), download, tmp_path / "shards")
    in_place = ShardSet(download, "made", tars())
    assert in_place.joint_set == "spin44"
    assert in_place.manifest["kind"] == "scenes"
    assert in_place.manifest["labels"] == shards.manifest["labels"]
    assert (len(in_place), in_place.num_views) == (len(shards), shards.num_views) == (4, 8)
    for ours, theirs in zip(read_all(in_place), read_all(shards), strict=True):
        assert theirs["key"].endswith(f"-{ours['key']}")
        for name, value in theirs.items():
            if name not in ("key", "images"):
                np.testing.assert_array_equal(ours[name], value, err_msg=name)
        np.testing.assert_array_equal(ours["images"][0], theirs["images"][0])
    assert in_place.locate_view(2) == (1, 1)


def test_a_pattern_of_tars_is_enough(download):
    assert len(ShardSet(f"{download}/mpii/{{000000..000001}}.tar", "made", tars())) == 4
    assert len(ShardSet([f"{download}/mpii/000001.tar"], "made", tars())) == 1
    with pytest.raises(FileNotFoundError, match=r"source 'made': .*000002.tar does not exist"):
        ShardSet(f"{download}/mpii/{{000000..000002}}.tar", "made", tars())


# Indices


def test_the_index_is_made_once_and_anew_when_the_tar_or_the_options_change(download):
    ShardSet(download, "made", tars())
    made = sidecars(download)
    assert len(made) == 4  # per tar: of its files, and of who is left
    ShardSet(download, "made", tars())
    assert sidecars(download) == made
    assert ShardSet(download, "made", tars(min_keypoints=4)).num_views == 10
    assert {path: sidecars(download)[path] for path in made} == made  # tars are not read again
    tar = download / "mpii" / "000001.tar"
    write_tar(tar, [("a", [person(7)]), ("b", [person(8)]), ("c", [person(9)])])
    changed = ShardSet(download, "made", tars())
    assert len(changed) == 6
    assert changed.read(5)["key"] == "c"


def test_other_options_or_other_content_are_another_digest(download):
    digest = ShardSet(download, "made", tars()).digest()
    assert ShardSet(download, "made", tars()).digest() == digest
    assert ShardSet(download, "made", tars(suppress_betas=1.0)).digest() != digest
    write_tar(download / "mpii" / "000001.tar", [("a", [person(70), person(80)])])
    assert ShardSet(download, "made", tars()).digest() != digest


def test_indices_of_a_folder_that_cannot_be_written_go_to_the_index_folder(
    download, tmp_path, monkeypatch
):
    real = os.access
    monkeypatch.setattr(os, "access", lambda p, mode: "tars" not in str(p) and real(p, mode))
    with pytest.raises(PermissionError, match=r"mpii cannot be written.*set index_folder"):
        ShardSet(download, "made", tars())
    converter = tars(index_folder=str(tmp_path / "cache"))
    assert ShardSet(download, "made", converter).num_views == 8
    assert sidecars(download) == {}
    made = sidecars(tmp_path / "cache")
    assert len(made) == 4
    assert len(ShardSet(download, "made", converter)) == 4
    assert sidecars(tmp_path / "cache") == made


def test_a_damaged_index_is_made_anew(download):
    ShardSet(download, "made", tars())
    for path in download.rglob("*.index"):
        path.write_bytes(b"\xff" * 100)
    assert ShardSet(download, "made", tars()).num_views == 8


def test_large_downloads_are_indexed_by_several_processes_to_the_same_bytes(download, monkeypatch):
    ShardSet(download, "made", tars())
    alone = {path: path.read_bytes() for path in sidecars(download)}
    for path in alone:
        path.unlink()
    monkeypatch.setattr(tar_index, "SMALL_BYTES", 0)
    monkeypatch.setattr(tar_index, "count_workers", lambda workers: 2)
    ShardSet(download, "made", tars())
    assert {path: path.read_bytes() for path in sidecars(download)} == alone


# Damage


def test_a_flipped_bit_is_found(download):
    shards = ShardSet(download, "made", tars())
    tar = download / "mpii" / "000000.tar"
    index = load_index(next(download.rglob("000000.tar.members.index")), tar)
    position = int(index.offset[index.first_member[1]]) + 30
    status = tar.stat()
    with tar.open("r+b") as file:
        file.seek(position)
        file.write(b"\x00\xff")
    os.utime(tar, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(BadRecord, match="has another CRC than the index") as caught:
        shards.read(1)
    assert (caught.value.kind, caught.value.key, caught.value.shard) == ("checksum", "b", str(tar))
    assert shards.read(2)["key"] == "d"


def rewrite(tar, change):
    """Write a tar again; ``change(name, content)`` gives the new content, or None to drop it."""
    with tarfile.open(tar) as old:
        files = [(entry, old.extractfile(entry).read()) for entry in old]
    with tarfile.open(tar, "w") as new:
        for entry, content in files:
            content = change(entry.name, content)
            if content is not None:
                entry.size = len(content)
                part = tar.with_suffix(".part")
                part.write_bytes(content)
                with part.open("rb") as file:
                    new.addfile(entry, file)
                part.unlink()


@pytest.mark.parametrize(
    ("name", "content", "kind", "message"),
    [
        ("b.jpg", b"\xff\xd8 no jpeg", "image", "image 0 cannot be decoded"),
        ("b.jpg", None, "missing", "needs an image and data.pyd"),
        (
            "b.data.pyd",
            None,
            "missing",
            r"needs an image and data.pyd, has \['detection.npz', 'jpg'",
        ),
        ("b.data.pyd", b"\x80\x04 no pickle", "labels", "is damaged"),
        ("b.data.pyd", pickle.dumps([person(scale=[0.2, 0.3], center=0)]), "labels", "center has"),
        ("b.data.pyd", pickle.dumps([person(body_pose=np.full(72, np.nan))]), "labels", "finite"),
        (
            "b.data.pyd",
            pickle.dumps([person(extra_info=["a list"])]),
            "labels",
            "AttributeError: 'list' object has no attribute 'get'",
        ),
    ],
)
def test_damaged_records_stay_in_the_index_and_fail_when_they_are_read(
    download, name, content, kind, message
):
    rewrite(download / "mpii" / "000000.tar", lambda n, old: content if n == name else old)
    shards = ShardSet(download, "made", tars())
    assert len(shards) == 4
    with pytest.raises(BadRecord, match=message) as caught:
        shards.read(1, is_lazy=True)["images"][0]
    assert (caught.value.kind, caught.value.key) == (kind, "b")
    assert [shards.read(i)["key"] for i in (0, 2, 3)] == ["a", "d", "a"]
    assert shards.locate_view(1)[0] == 1  # it is drawn, so it is counted


@pytest.mark.parametrize(
    ("end", "message"),
    [(2000, "truncated inside 'd.jpg'"), (600, "garbage at byte"), (None, "garbage at byte")],
)
def test_what_a_damaged_tar_has_lost_counts_as_a_bad_record(download, end, message, caplog):
    tar = download / "mpii" / "000000.tar"
    with tarfile.open(tar) as file:
        header = file.getmember("d.jpg").offset
    if end is None:
        with tar.open("r+b") as file:
            file.seek(header)
            file.write(b"\xaa" * 512)
    else:  # inside the photo; between the two headers that the authors' writer puts before it
        os.truncate(tar, header + end)
    shards = ShardSet(download, "made", tars())
    assert message in caplog.text
    bad = []
    for number in range(len(shards)):
        try:
            shards.read(number)
        except BadRecord as error:
            bad.append(error)
    assert "truncated" in {error.kind for error in bad}
    assert {error.shard for error in bad} == {str(tar)}
    assert [shards.read(i)["key"] for i in (0, 1, len(shards) - 1)] == ["a", "b", "a"]


def test_a_tar_that_is_none_is_a_bad_record_too(download, caplog):
    (download / "mpii" / "000000.tar").write_text("<html>not found</html>" * 100)
    shards = ShardSet(download, "made", tars())
    assert "no file in it, is it a tar?" in caplog.text
    with pytest.raises(BadRecord):
        shards.read(0)
    assert shards.read(1)["key"] == "a"


# The data module


def make_data(download, cut, **options):
    node = {"path": str(download), "in_place": True, "prepare": tars(), "name": "mpii"}
    options = {"num_workers": 0, "steps_per_epoch": 4, "seed": 3, **options}
    return DataModule(cut, 4, train={"mpii": node}, val={}, test={}, **options)


def test_a_run_trains_on_tars_in_place(download):
    data = make_data(download, Crops(input_size=[32, 32]), num_workers=2)
    data.prepare_data()
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert len(batches) == 4
    assert {source for batch in batches for source in batch["source"]} == {"mpii"}
    keys = {key for batch in batches for key in batch["key"]}
    assert keys == {"a", "b", "d"}  # nobody is left on c
    assert torch.isfinite(batches[0]["keypoints_crop"]).all()
    assert data.num_bad == 0


def test_records_without_people_are_not_drawn_as_scenes(download):
    data = make_data(download, Scenes(long_side_px=64, size_divisor=16))
    data.setup("fit")
    keys = {key for batch in data.train_dataloader() for key in batch["key"]}
    assert keys == {"a", "b", "d"}


def test_bad_records_are_replaced_and_counted(download):
    rewrite(
        download / "mpii" / "000000.tar",
        lambda name, old: old[:-300] if name == "d.jpg" else old,
    )
    data = make_data(download, Crops(input_size=[32, 32]), max_bad=1.0)
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert "d" not in {key for batch in batches for key in batch["key"]}
    ((row, number),) = data.bad_counts().items()
    assert row == ("mpii", str(download / "mpii" / "000000.tar"), "image")
    assert number == data.num_bad > 0


def test_a_source_of_the_tree_is_used_in_place_by_two_overrides(download, tmp_path):
    (download / "mpii").rename(download / "mpii-train")
    config = load_config(
        "train",
        [
            "model=hmr",
            "~mix.train.synthetic",
            "~mix.val.synthetic",
            "~mix.test.synthetic",
            "+source@mix.train.mpii=mpii_4dhumans",
            "mix.train.mpii.in_place=true",
            f"mix.train.mpii.path={download}",
            f"paths.datasets={tmp_path}",
            "data.num_workers=0",
            "data.batch_size=2",
            f"run_dir={tmp_path}",
        ],
    )
    data = build_datamodule(to_plain(config))
    data.setup("fit")
    assert data.sources["train"]["mpii"].num_views == 8
    batch = next(iter(data.train_dataloader()))
    assert batch["has_betas"].all()  # the authors' regulariser is on in the tree


def test_tars_on_a_server_are_streamed_in_place(download):
    rewrite(
        download / "mpii" / "000001.tar",
        lambda name, old: b"no pickle" if name == "a.data.pyd" else old,
    )
    with serve_http(download) as server:
        address = f"{server.url}/mpii/{{000000..000001}}.tar"
        data = make_data(address, Crops(input_size=[32, 32]), max_bad=1.0, steps_per_epoch=12)
        data.setup("fit")
        batches = list(data.train_dataloader())
    assert {key for batch in batches for key in batch["key"]} == {"a", "b", "d"}
    drawn = sum(len(batch["key"]) for batch in batches)
    shares = [sum(batch["key"].count(key) for batch in batches) / drawn for key in "abd"]
    assert shares == pytest.approx([1 / 6, 2 / 6, 3 / 6], abs=0.1)  # by who is left on them
    assert set(data.bad_counts()) == {("mpii", f"{server.url}/mpii/000001.tar", "labels")}


def test_streamed_scenes_show_somebody(download):
    with serve_http(download) as server:
        cut = Scenes(long_side_px=64, size_divisor=16)
        data = make_data(f"{server.url}/mpii/000000.tar", cut)
        data.setup("fit")
        keys = {key for batch in data.train_dataloader() for key in batch["key"]}
    assert keys == {"a", "b", "d"}


def test_tars_on_a_server_are_read_from_their_copies(download, tmp_path, caplog):
    with serve_http(download) as server:
        address = f"{server.url}/mpii/{{000000..000001}}.tar"
        data = make_data(address, Crops([32, 32]), cache_dir=str(tmp_path / "cache"))
        data.setup("fit")
    assert data.sources["train"]["mpii"].num_views == 8
    assert len(next(iter(data.train_dataloader()))["key"]) == 4
    assert "labels.safetensors" not in caplog.text


def test_only_tars_of_other_formats_can_be_used_in_place(download):
    node = {"path": str(download), "in_place": True}
    with pytest.raises(ValueError, match=r"source 'mpii': in_place=true is for the tars of 4D-Hum"):
        DataModule(Crops([32, 32]), 4, train={"mpii": node}, val={}, test={})


def test_missing_tars_are_named_without_a_command_that_makes_them(tmp_path):
    data = make_data(tmp_path / "nowhere", Crops(input_size=[32, 32]))
    with pytest.raises(FileNotFoundError, match=r"mix.train: .*nowhere does not exist") as caught:
        data.setup("fit")
    assert "hmrkit.prepare" not in str(caught.value)
