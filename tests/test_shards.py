"""Shards: whole or absent, the same bytes, every damage named, nothing lost unnoticed."""

import os
import pickle
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import webdataset

from hmrkit.data.index import index_path
from hmrkit.data.record import FIELDS, BadRecord, complete_sample
from hmrkit.data.shards import (
    ShardSet,
    read_manifest,
    write_manifest,
    write_shard,
)
from made_sources import JOINTS, make_rigs, make_sample


@pytest.fixture
def folder(tmp_path):
    return make_rigs(tmp_path / "set")


def test_a_record_comes_back_bit_for_bit(folder):
    shards = ShardSet(folder, "renamed")
    assert (len(shards), shards.num_views) == (10, 40)
    for number in (7, 0, 9):
        wanted = complete_sample(make_sample(number, 2, 2), JOINTS)
        sample = shards.read(number)
        assert sample["key"] == wanted["key"] == shards.key(number)
        assert sample["source"] == "renamed"
        assert set(sample) == set(wanted)
        for name in FIELDS:
            np.testing.assert_array_equal(sample[name], wanted[name], err_msg=name)
        for image, original in zip(sample["images"], wanted["images"], strict=True):
            np.testing.assert_array_equal(image, original)


def test_fields_left_out_are_absent_not_zero(tmp_path):
    partial = {k: v for k, v in make_sample(0).items() if k not in ("pose", "has_pose", "betas")}
    partial["has_betas"] = np.zeros(1, bool)
    del partial["keypoints_world"], partial["intrinsics"]
    info = write_shard(tmp_path / "a.tar", [partial], JOINTS)
    sample = ShardSet(tmp_path / "a.tar").read(0)
    assert np.isnan(sample["pose"]).all()
    assert not sample["has_pose"].any()
    assert np.isnan(sample["intrinsics"]).all()
    assert (sample["keypoints_world"][..., 3] == 0).all()
    assert np.isnan(sample["keypoints_world"][..., :3]).all()
    assert sample["gender"].tolist() == [-1]
    np.testing.assert_array_equal(sample["world_to_camera"][0], np.eye(4))
    assert info.labels["pose"] == info.labels["keypoints_world"] == 0
    assert info.labels["keypoints_img"] == info.labels["transl"] == 1


def test_motion_records_have_no_image(tmp_path):
    clip = {
        "key": "walk",
        "pose": np.zeros((30, 24, 3), np.float32),
        "has_pose": np.ones(30, bool),
    }
    info = write_shard(tmp_path / "a.tar", [clip], JOINTS)
    assert (info.num_people, info.num_views, info.num_images) == (30, 0, 0)
    assert ShardSet(tmp_path / "a.tar").read(0)["images"] == []


def test_jpegs_are_close_and_given_files_are_kept_as_they_are(tmp_path):
    ramp = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    write_shard(tmp_path / "a.tar", [{**make_sample(0), "images": [ramp]}], JOINTS)
    shards = ShardSet(tmp_path / "a.tar")
    assert np.abs(shards.read(0)["images"][0].astype(int) - ramp).mean() < 2
    jpeg = shards.read_files(0)["0.jpg"]
    write_shard(tmp_path / "b.tar", [{**make_sample(0), "images": [jpeg]}], JOINTS)
    assert ShardSet(tmp_path / "b.tar").read_files(0)["0.jpg"] == jpeg


def test_the_same_samples_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_shard(tmp_path / name / "x.tar", map(make_sample, range(3)), JOINTS)
    for file in ("x.tar", "x.tar.index"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_plain_webdataset_reads_the_same_records(folder):
    tars = [str(path) for path in sorted(folder.glob("*.tar"))]
    keys = [
        s["__key__"] for s in webdataset.WebDataset(tars, shardshuffle=False, empty_check=False)
    ]
    assert keys == [ShardSet(folder).key(i) for i in range(10)]


def test_views_are_numbered_record_by_record(tmp_path):
    people = [1, 3, 2]
    samples = [make_sample(i, 1, n) for i, n in enumerate(people)]
    write_shard(tmp_path / "a.tar", samples, JOINTS)
    shards = ShardSet(tmp_path / "a.tar")
    located = [shards.locate_view(v) for v in range(shards.num_views)]
    assert located == [(0, 0), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1)]
    assert shards.record_of_view.tolist() == [0, 1, 1, 1, 2, 2]


def test_manifest_counts_what_is_there(folder):
    manifest = read_manifest(folder)
    counts = [manifest[f"num_{what}"] for what in ("records", "people", "views", "images")]
    assert counts == [10, 20, 40, 20]
    assert manifest["labels"]["pose"] == 20
    assert manifest["num_bytes"] == sum(path.stat().st_size for path in folder.glob("*.tar"))
    assert manifest == ShardSet(folder).manifest
    assert [shard["num_records"] for shard in manifest["shards"]] == [5, 5]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_with_files_of_their_own(folder, method):
    shards = ShardSet(folder)
    first = shards.read(0)["images"][0]  # files are open in this process now
    with ProcessPoolExecutor(2, mp_context=get_context(method)) as pool:
        keys = [sample["key"] for sample in pool.map(shards.read, range(10))]
    assert keys == [f"r{i:04d}" for i in range(10)]
    np.testing.assert_array_equal(shards.read(0)["images"][0], first)


def test_more_shards_than_open_files(tmp_path, monkeypatch):
    monkeypatch.setattr("hmrkit.data.shards.MAX_OPEN_FILES", 2)
    for i in range(5):
        write_shard(tmp_path / f"{i}.tar", [make_sample(i)], JOINTS)
    shards = ShardSet(tmp_path)
    assert [shards.read(i)["key"] for i in (0, 4, 2, 0, 1, 3)] == [
        f"r{i:04d}" for i in (0, 4, 2, 0, 1, 3)
    ]
    assert len(shards._files) == 2


# Writing what is wrong


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pose": np.zeros((1, 23, 3), np.float32)}, r"'r0000': pose is float32 \(1, 23, 3\), exp"),
        ({"betas": np.zeros((1, 10))}, r"'r0000': betas is float64 \(1, 10\), expected float32"),
        ({"keypoints_img": np.ones((1, 17, 3), np.float32)}, r"keypoints_img is .* = \(1, 24, 3\)"),
        ({"smile": np.zeros(1)}, r"'r0000': unknown fields \['smile'\]"),
        ({"image_of_view": np.array([1])}, r"'r0000': image_of_view has values outside 0..0"),
        ({"person_of_view": np.array([-1])}, r"person_of_view has values outside"),
        ({"box_img": np.array([[5, 5, 5, 9]], np.float32)}, r"box_img must be finite with x2 > x1"),
        ({"pose": np.full((1, 24, 3), np.nan, np.float32)}, r"pose is not finite where has_pose"),
        ({"key": "a.b"}, r"record 'a.b': a key is 1 to 72 characters"),
        ({"key": "a/b"}, r"record 'a/b': a key"),
        ({"images": [np.zeros((8, 8, 3), np.float32)]}, r"image 0 is float32"),
        ({"images": [b"no image"]}, r"no JPEG or PNG"),
        ({"images": []}, r"intrinsics is float32 \(1, 3, 3\), expected float32 \(I, 3, 3\)"),
    ],
)
def test_a_wrong_sample_is_named_and_leaves_no_file(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        write_shard(tmp_path / "a.tar", [{**make_sample(0), **change}], JOINTS)
    assert list(tmp_path.iterdir()) == []


def test_confidence_on_nan_is_refused(tmp_path):
    sample = make_sample(0)
    sample["keypoints_img"][0, 3, :2] = np.nan
    with pytest.raises(ValueError, match="keypoints_img has confidence > 0 on coordinates"):
        write_shard(tmp_path / "a.tar", [sample], JOINTS)


def test_unknown_joint_set_twin_keys_and_nothing_are_refused(tmp_path):
    with pytest.raises(ValueError, match="smpl99"):
        write_shard(tmp_path / "a.tar", [make_sample(0)], "smpl99")
    with pytest.raises(ValueError, match="'r0000' occurs twice"):
        write_shard(tmp_path / "a.tar", [make_sample(0), make_sample(0)], JOINTS)
    with pytest.raises(ValueError, match="at least one sample"):
        write_shard(tmp_path / "a.tar", [], JOINTS)
    assert list(tmp_path.iterdir()) == []


KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
from made_sources import make_sample
from hmrkit.data.shards import write_shard
import hmrkit.data.shards as shards

def stop(*_):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "index":
    shards.write_index = stop  # after the tar has its name
    samples = map(make_sample, range(4))
else:
    samples = (make_sample(i) if i < 3 else stop() for i in range(9))
write_shard(Path(sys.argv[1]) / "a.tar", samples, "smpl24")
"""


@pytest.mark.parametrize("moment", ["samples", "index"])
def test_a_killed_writer_leaves_no_shard_that_looks_whole(tmp_path, moment):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", KILLED_WRITER, str(tmp_path), moment]
    result = subprocess.run(command, env=environment, check=False)
    assert result.returncode == -9
    assert not index_path(tmp_path / "a.tar").exists()
    with pytest.raises(FileNotFoundError):
        ShardSet(tmp_path)
    write_shard(tmp_path / "a.tar", map(make_sample, range(4)), JOINTS)
    write_manifest(tmp_path, "made", "crops", JOINTS, {}, "again")
    assert len(ShardSet(tmp_path)) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.tar",
        "a.tar.index",
        "hmrkit.json",
    ]


# Opening what does not fit


def test_missing_paths_name_source_path_and_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"source 'coco': .*nowhere does not exist: make"):
        ShardSet(tmp_path / "nowhere", "coco")
    with pytest.raises(FileNotFoundError, match=r"has no \*\.tar"):
        ShardSet(tmp_path, "coco")
    with pytest.raises(FileNotFoundError, match="empty list"):
        ShardSet([], "coco")


def test_patterns_and_lists_find_the_same_shards(folder):
    for path in (f"{folder}/*.tar", f"{folder}/{{000000..000001}}.tar", [folder, folder]):
        assert len(ShardSet(path)) % 10 == 0
    with pytest.raises(FileNotFoundError, match=r"000002.tar does not exist"):
        ShardSet(f"{folder}/{{000000..000002}}.tar")


def test_a_replaced_shard_does_not_pass_for_the_manifests(folder):
    write_shard(folder / "000001.tar", map(make_sample, range(3)), JOINTS)
    with pytest.raises(ValueError, match=r"shard 000001.tar .* is not the one in its hmrkit.json"):
        ShardSet(folder)


@pytest.mark.parametrize("where", ["manifest", "index"])
def test_another_schema_is_refused(folder, where):
    if where == "manifest":
        text = (folder / "hmrkit.json").read_text()
        (folder / "hmrkit.json").write_text(
            text.replace('"schema_version": 2', '"schema_version": 9')
        )
    else:
        path = index_path(folder / "000000.tar")
        old = b'schema_version\\": 2'
        assert path.read_bytes().count(old) == 1
        path.write_bytes(path.read_bytes().replace(old, b'schema_version\\": 9'))
    with pytest.raises(ValueError, match="has schema 9, this hmrkit reads 2"):
        ShardSet(folder)


def test_a_damaged_index_or_manifest_says_so(folder):
    index_path(folder / "000001.tar").write_bytes(b"\xff" * 64)
    with pytest.raises(ValueError, match=r"index of shard .*000001.tar is damaged"):
        ShardSet(folder)
    (folder / "hmrkit.json").write_text("{")
    with pytest.raises(ValueError, match=r"hmrkit.json is no hmrkit manifest"):
        ShardSet(folder)


def test_bad_records_survive_pickling():
    bad = pickle.loads(pickle.dumps(BadRecord("a.tar", "k", "why", "image", 3)))
    assert (bad.shard, bad.key, bad.reason, bad.kind, bad.number) == (
        "a.tar",
        "k",
        "why",
        "image",
        3,
    )
    assert str(bad) == "a.tar: record 'k': why"


def test_the_example_of_the_documentation_runs(tmp_path, monkeypatch):
    text = (Path(__file__).parent.parent / "docs" / "shards.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/shards.md", "exec"), {})
    shards = ShardSet(tmp_path / "shards" / "mine", "mine")
    assert len(shards) > 0
    assert shards.read(0)["keypoints_img"].shape[-1] == 3


def test_every_field_is_documented():
    text = (Path(__file__).parent.parent / "docs" / "shards.md").read_text()
    for name, (dtype, letters) in FIELDS.items():
        shape = "(" + ", ".join(map(str, letters)) + ("," if len(letters) == 1 else "") + ")"
        assert f"| `{name}` | `{shape}` {dtype} |" in text, name
