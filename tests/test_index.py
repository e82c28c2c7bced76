"""Damaged and foreign tars: every damage named, nothing lost unnoticed."""

import os
import pickle
import re
import tarfile

import pytest
import webdataset

from hmrkit.data.index import index_folder, index_path, index_shard, read_index
from hmrkit.data.record import BadRecord
from hmrkit.data.shards import ShardSet, read_manifest, write_manifest, write_shard
from made_sources import JOINTS, make_rigs, make_sample


@pytest.fixture
def folder(tmp_path):
    return make_rigs(tmp_path / "set")


def member_offset(folder, record, extension):
    """Where a file of record ``record`` of the first shard begins, and its size."""
    index = read_index(folder / "000000.tar")
    first, last = index.first_member[record : record + 2]
    for i in range(first, last):
        if index.extensions[index.extension[i]] == extension:
            return int(index.offset[i]), int(index.size[i])
    raise AssertionError(extension)


def overwrite(path, offset, data):
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize("extension", ["1.png", "labels.safetensors"])
def test_a_flipped_bit_is_found_in_images_and_labels(folder, extension):
    offset, size = member_offset(folder, 2, extension)
    tar = folder / "000000.tar"
    byte = tar.read_bytes()[offset + size - 1]
    overwrite(tar, offset + size - 1, bytes([byte ^ 1]))
    shards = ShardSet(folder)
    with pytest.raises(BadRecord, match=rf"'r0002': {extension} has another CRC") as caught:
        shards.read(2)
    assert (caught.value.kind, caught.value.shard) == ("checksum", str(tar))
    assert shards.read(1)["key"] == "r0001"
    assert shards.read(3)["key"] == "r0003"


@pytest.mark.parametrize("is_open_before", [True, False])
def test_a_truncated_tar_loses_the_records_behind_its_end(folder, is_open_before, caplog):
    shards = ShardSet(folder)
    tar = folder / "000000.tar"
    os.truncate(tar, member_offset(folder, 3, "0.png")[0] + 10)
    if not is_open_before:
        shards = ShardSet(folder)
        assert re.search(r"shard .*000000.tar ends \d+ bytes early", caplog.text)
    with pytest.raises(BadRecord, match=r"ends .* bytes early") as caught:
        shards.read(3)
    assert caught.value.kind == "truncated"
    assert shards.read(2)["key"] == "r0002"
    assert shards.read(5)["key"] == "r0005"  # of the next shard


def test_a_tar_of_another_size_is_not_the_indexs(folder):
    tar = folder / "000000.tar"
    tar.write_bytes(tar.read_bytes() + bytes(512))
    with pytest.raises(ValueError, match=r"000000.tar has \d+ bytes, its index says"):
        ShardSet(folder)
    os.truncate(tar, tar.stat().st_size - 1024)
    with pytest.raises(ValueError, match=r"000000.tar has \d+ bytes, its index says"):
        write_manifest(folder, "made", "rigs", JOINTS, {}, "again")  # makes nothing of a torso


def rewrite(folder, name, change):
    """Write the first shard again with files changed, dropped (None) or kept, and index it."""
    tar = folder / "000000.tar"
    with tarfile.open(tar) as old:
        files = [(entry.name, old.extractfile(entry).read()) for entry in old]
    with tarfile.open(tar, "w") as new:
        for file_name, data in files:
            if file_name == name:
                data = change
            if data is not None:
                entry = tarfile.TarInfo(file_name)
                entry.size = len(data)
                (folder / "part").write_bytes(data)
                with (folder / "part").open("rb") as content:
                    new.addfile(entry, content)
    (folder / "part").unlink()
    (folder / "hmrkit.json").unlink()
    return index_shard(tar)


@pytest.mark.parametrize(
    ("name", "content", "kind", "message"),
    [
        ("r0002.1.png", b"\xff\xd8 no jpeg", "image", "image cannot be decoded"),
        ("r0002.1.png", None, "missing", r"labels are for 2 images, the record has \['0.png'\]"),
        ("r0002.labels.safetensors", None, "missing", r"no labels.safetensors, only \['0.png"),
        ("r0002.labels.safetensors", b"\x00" * 40, "labels", "labels cannot be read"),
        ("r0002.labels.safetensors", pickle.dumps([1]), "labels", "labels cannot be read"),
    ],
)
def test_damaged_records_of_a_download_are_named(folder, name, content, kind, message):
    info = rewrite(folder, name, content)
    assert info.num_records == 5
    shards = ShardSet(folder)
    with pytest.raises(BadRecord, match=message) as caught:
        shards.read(2)
    assert (caught.value.kind, caught.value.key) == (kind, "r0002")
    assert [shards.read(i)["key"] for i in (1, 3)] == ["r0001", "r0003"]


def test_half_a_jpeg_is_a_bad_image(tmp_path):
    write_shard(tmp_path / "000000.tar", [make_sample(0, size=256)], JOINTS)
    (tmp_path / "hmrkit.json").write_text("")
    jpeg = ShardSet(tmp_path / "000000.tar").read_files(0)["0.jpg"]
    rewrite(tmp_path, "r0000.0.jpg", jpeg[: len(jpeg) // 2])
    with pytest.raises(BadRecord, match=r"image cannot be decoded"):
        ShardSet(tmp_path).read(0)


def test_garbage_in_the_middle_loses_nothing_but_itself(folder):
    tar = folder / "000000.tar"
    header = member_offset(folder, 2, "0.png")[0] - 512
    overwrite(tar, header, b"\xaa" * 512)  # webdataset stops here, without an error
    seen = sum(1 for _ in webdataset.WebDataset([str(tar)], shardshuffle=False, empty_check=False))
    assert seen == 2
    index_path(tar).unlink()
    (folder / "hmrkit.json").unlink()
    info = index_shard(tar)
    assert info.num_records == 5
    assert any("garbage at byte" in problem for problem in info.problems)
    assert any("webdataset would drop the 8 files" in problem for problem in info.problems)
    shards = ShardSet(folder)
    assert [shards.read(i)["key"] for i in (0, 1, 3, 4)] == ["r0000", "r0001", "r0003", "r0004"]
    with pytest.raises(BadRecord, match="labels are for 2 images"):
        shards.read(2)


def test_a_truncated_download_keeps_its_complete_records(folder):
    tar = folder / "000000.tar"
    os.truncate(tar, member_offset(folder, 3, "labels.safetensors")[0] + 100)
    info = index_shard(tar)
    assert any("truncated inside 'r0003.labels.safetensors'" in p for p in info.problems)
    (folder / "hmrkit.json").unlink()
    shards = ShardSet(folder)
    assert [shards.read(i)["key"] for i in range(3)] == ["r0000", "r0001", "r0002"]
    with pytest.raises(BadRecord, match=r"no labels.safetensors"):
        shards.read(3)


def test_a_folder_of_tars_is_indexed_on_request(folder):
    manifest = read_manifest(folder)
    for path in [*folder.glob("*.index"), folder / "hmrkit.json"]:
        path.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"source 'coco'.*2 tars without an index.*index_fo"
    ):
        ShardSet(folder, "coco")
    assert len(index_folder(folder)) == 2
    shards = ShardSet(folder, "coco")
    assert shards.manifest["shards"] == manifest["shards"]
    assert shards.manifest["labels"] == manifest["labels"]


def test_no_record_at_all_is_an_error(tmp_path):
    (tmp_path / "page.tar").write_text("<html>not found</html>" * 100)
    with pytest.raises(ValueError, match=r"page.tar holds no record"):
        index_shard(tmp_path / "page.tar")
    (tmp_path / "empty.tar").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty.tar holds no record"):
        index_shard(tmp_path / "empty.tar")
