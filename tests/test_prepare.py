"""Preparing official data: the same bytes always, nothing lost silently, nothing half made."""

import json
import re
import shlex
import signal
import time
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pytest

import made_programs
from hmrkit.data.crops import Crops, select_view
from hmrkit.data.precrop import Precrop
from hmrkit.data.prepare import prepare
from hmrkit.data.record import complete_sample, decode_image
from hmrkit.data.shards import ShardSet, write_manifest, write_shard
from hmrkit.data.sources.official import record_key
from official import Drawings, Photos, picture, read_rows, write_download, write_rows

TESTS = Path(__file__).parent
ROOT = TESTS.parent


@pytest.fixture(scope="module")
def download(tmp_path_factory):
    return write_download(tmp_path_factory.mktemp("download") / "photos_v1")


def make(download, output, converter=None, **options):
    options = {"records_per_shard": 3, "workers": 0, **options}
    return prepare(converter or Photos(), "photos", download, output, **options)


def content(folder):
    return {p.name: p.read_bytes() for p in sorted(Path(folder).iterdir())}


def test_shards_and_manifest_are_the_same_for_workers_and_parts(tmp_path, download):
    alone = make(download, tmp_path / "alone", command="c")
    make(download, tmp_path / "shared", workers=2, command="c")
    results = [
        make(download, tmp_path / "parts", part=p, num_parts=3, command="c") for p in (2, 0, 1)
    ]
    assert results == [None, None, alone]
    assert content(tmp_path / "alone") == content(tmp_path / "shared")
    assert content(tmp_path / "alone") == content(tmp_path / "parts")
    tars = [f"{i:06d}.tar{end}" for i in range(4) for end in ("", ".index")]
    assert sorted(content(tmp_path / "alone")) == [*tars, "hmrkit.json"]


def test_manifest_says_all_and_the_shards_open(tmp_path, download):
    options = {"_target_": "official.Photos"}
    make(download, tmp_path / "s", converter_options=options, command="a b")
    manifest = json.loads((tmp_path / "s/hmrkit.json").read_text())
    shards = ShardSet(tmp_path / "s", "photos")
    assert (manifest["num_records"], manifest["num_people"], len(shards)) == (11, 16, 11)
    assert manifest["labels"]["keypoints_img"] == 16
    assert (manifest["source"], manifest["kind"], manifest["joint_set"]) == (
        "photos", "scenes", "coco17",
    )  # fmt: skip
    assert manifest["options"] == {
        "input": str(download), "converter": options, "records_per_shard": 3, "limit": None,
        "image_format": "keep", "quality": 95, "precrop": None, "num_input_records": 11,
    }  # fmt: skip
    assert (manifest["command"], manifest["skipped"], manifest["num_input_records"]) == (
        "a b", {}, 11,
    )  # fmt: skip
    assert [s["num_records"] for s in manifest["shards"]] == [3, 3, 3, 2]
    row = read_rows(download)[3]
    sample = shards.read(3)
    assert (sample["key"], sample["source"]) == ("0003", "photos")
    assert np.allclose(sample["keypoints_img"], row["joints"])
    assert np.allclose(sample["box_img"], row["boxes"])
    assert (sample["images"][0] == decode_image((download / "photos/0003.jpg").read_bytes())).all()


def program(folder, *overrides):
    """The program with the test's converter, in the folder."""
    (folder / "configs/source").mkdir(parents=True, exist_ok=True)
    (folder / "configs/source/photos.yaml").write_text(
        "path: ${paths.datasets}/photos\nname: photos\nprepare:\n  _target_: official.Photos\n"
        "  annotations: people.json\n  delay_s: 0.0\n"
    )
    configs = f"hydra.searchpath=[{folder / 'configs'}]"
    return ["prepare", *overrides, configs], {"cwd": folder, "PYTHONPATH": str(TESTS)}


def run(folder, *overrides, fresh=False):
    command, options = program(folder, *overrides)
    return made_programs.run(*command, fresh=fresh, **options)


def test_kill_9_loses_no_shard_and_resuming_changes_no_byte(tmp_path):
    download = write_download(tmp_path / "download", 40)
    output = tmp_path / "killed"
    overrides = ["source=photos", f"input={download}", f"output={output}", "workers=2"]
    overrides += ["records_per_shard=3", "source.prepare.delay_s=0.05"]
    command, options = program(tmp_path, *overrides)
    process = made_programs.start(*command, **options)
    deadline = time.monotonic() + 60
    while len(list(output.glob(".prepare/0*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    time.sleep(0.5)  # the workers notice that their parent is gone
    notes = sorted(output.glob(".prepare/0*.json"))
    assert 3 <= len(notes) < 14
    done = {output / f"{n.stem}.tar": (output / f"{n.stem}.tar").stat().st_mtime_ns for n in notes}
    assert not (output / "hmrkit.json").exists()
    with pytest.raises(FileNotFoundError, match=r"is not finished: run the command again"):
        ShardSet(output)
    resumed = run(tmp_path, *overrides[:3], "workers=1", *overrides[4:])
    assert resumed.returncode == 0, resumed.stderr
    assert all(path.stat().st_mtime_ns == then for path, then in done.items())
    make(download, tmp_path / "whole")
    for name, data in content(tmp_path / "whole").items():
        if name != "hmrkit.json":
            assert data == (output / name).read_bytes()
    assert sorted(content(output)) == sorted(content(tmp_path / "whole"))
    shards = [
        json.loads((tmp_path / f / "hmrkit.json").read_text())["shards"]
        for f in ("killed", "whole")
    ]
    assert shards[0] == shards[1]


def test_program_reports_and_its_command_makes_the_same_set_again(tmp_path, download):
    rows = read_rows(download)
    copy = tmp_path / "a download"
    (copy / "photos").mkdir(parents=True)
    for row in rows[1:]:
        name = Path("photos") / row["image"]
        (copy / name).write_bytes((download / name).read_bytes())
    write_rows(copy, rows)
    done = run(
        tmp_path, "source=photos", f"input='{copy}'", "output='my shards'", "workers=1",
        "records_per_shard=4", "source.prepare.delay_s=0.001",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "10 from 11 of the input" in done.stdout
    assert "1  image file is missing, such as" in done.stdout
    assert "per second" in done.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a download", "configs", "my shards"]
    first = content(tmp_path / "my shards")
    manifest = json.loads(first["hmrkit.json"])
    missing = manifest["skipped"].pop("image file is missing")
    assert missing == {"count": 1, "examples": [str(copy / "photos/0000.jpg")]}
    command = shlex.split(manifest["command"])
    assert command[:3] == ["python", "-m", "hmrkit.prepare"]
    assert not [word for word in command if word.startswith("workers")]
    (tmp_path / "my shards").rename(tmp_path / "first")
    again = run(tmp_path, *command[3:])
    assert again.returncode == 0, again.stderr
    assert content(tmp_path / "my shards") == first


@pytest.mark.parametrize(
    "launcher",
    [["workers=1"], ["workers=2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]],
    ids=["one by one", "joblib"],
)
def test_parts_run_as_a_sweep_and_leave_nothing_else(tmp_path, download, launcher):
    done = run(
        tmp_path, "-m", "source=photos", f"input={download}", "part=0,1", "num_parts=2",
        "records_per_shard=4", *launcher, fresh="hydra/launcher=joblib" in launcher,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    make(download, tmp_path / "alone", records_per_shard=4)
    made = content(tmp_path / "datasets/photos")
    alone = content(tmp_path / "alone")
    command = json.loads(made["hmrkit.json"])["command"]
    assert "output=datasets/photos" in command
    assert "part" not in command
    assert {k: v for k, v in made.items() if "tar" in k} == {
        k: v for k, v in alone.items() if "tar" in k
    }
    assert sorted(p.name for p in tmp_path.iterdir()) == ["alone", "configs", "datasets"]


def test_every_skipped_record_is_counted_with_its_reason(tmp_path):
    download = write_download(tmp_path / "download", 8)
    rows = read_rows(download)
    for i in (0, 1, 2, 6):
        rows[i]["boxes"], rows[i]["joints"] = [], []
    rows[7]["image"] = "gone.jpg"
    write_rows(download, rows)
    manifest = make(download, tmp_path / "s")
    names = ["0000.jpg", "0001.jpg", "0002.jpg", "0006.jpg"]
    assert manifest["skipped"] == {
        "no box": {"count": 4, "examples": names},
        "image file is missing": {"count": 1, "examples": [str(download / "photos/gone.jpg")]},
    }
    assert [s["name"] for s in manifest["shards"]] == ["000001.tar"]  # the others would be empty
    assert len(ShardSet(tmp_path / "s")) == 3


def test_errors_in_few_records_are_reported_and_in_many_stop_the_run(tmp_path):
    download = write_download(tmp_path / "download", 10)
    rows = read_rows(download)
    whole = (download / "photos/0001.jpg").read_bytes()
    (download / "photos/0001.jpg").write_bytes(whole[: len(whole) // 2])
    rows[2]["boxes"] = [[10, 5, 3, 45]]
    del rows[4]["image"]
    write_rows(download, rows)
    for workers in (0, 2):
        with pytest.raises(ValueError, match="more than max_bad") as stop:
            make(download, tmp_path / "s", workers=workers, max_bad=0.2)
        assert "overwrite" not in str(stop.value)
    for reason in ("image cannot be decoded", "ValueError, such as record 2", "KeyError, such as"):
        assert reason in str(stop.value)
    manifest = make(download, tmp_path / "s", max_bad=0.3)
    assert manifest["num_records"] == 7
    assert {k: v["count"] for k, v in manifest["skipped"].items()} == {
        "image cannot be decoded": 1,
        "cannot be converted: ValueError": 1,
        "cannot be converted: KeyError": 1,
    }
    assert (
        "box_img must be finite"
        in manifest["skipped"]["cannot be converted: ValueError"]["examples"][0]
    )


def test_run_that_stopped_tries_the_bad_records_again(tmp_path):
    download = write_download(tmp_path / "download", 6)
    photo = download / "photos/0004.jpg"
    whole = photo.read_bytes()
    photo.write_bytes(whole[:200])
    with pytest.raises(ValueError, match="image cannot be decoded, such as record 4"):
        make(download, tmp_path / "s")
    photo.write_bytes(whole)
    assert make(download, tmp_path / "s")["num_records"] == 6


def test_a_key_that_occurs_twice_is_named(tmp_path):
    download = write_download(tmp_path / "download", 8)
    rows = read_rows(download)
    write_rows(download, [*rows, rows[1]])
    with pytest.raises(
        ValueError, match=r"0001 \(000000.tar, 000002.tar\) made from records 1 and 8 of"
    ):
        make(download, tmp_path / "apart")
    assert not (tmp_path / "apart/hmrkit.json").exists()
    for workers in (0, 2):
        with pytest.raises(
            ValueError, match=r"'0001' occurs twice in 000000.tar, made from records 1 and 8 "
        ):
            make(download, tmp_path / f"near{workers}", records_per_shard=20, workers=workers)
        assert not list((tmp_path / f"near{workers}").glob("*.tar"))
    write_rows(download, rows)
    assert make(download, tmp_path / "apart", overwrite=True)["num_records"] == 8


def stored_files(folder, key):
    import tarfile

    files = {}
    for tar in sorted(Path(folder).glob("*.tar")):
        with tarfile.open(tar) as archive:
            for entry in archive:
                if entry.name.startswith(f"{key}.") and "labels" not in entry.name:
                    files[entry.name] = archive.extractfile(entry).read()
    return files


@pytest.mark.parametrize(
    ("suffix", "image_format", "stored"),
    [
        (".jpg", "keep", "jpg"),
        (".jpg", "png", "jpg"),
        (".png", "keep", "png"),
        (".png", "png", "png"),
        (".png", "jpg", "jpg"),
        (".bmp", "keep", "jpg"),
        (".bmp", "png", "png"),
    ],
)
def test_image_files_are_kept_unless_asked_otherwise(tmp_path, suffix, image_format, stored):
    download = write_download(tmp_path / "download", 1, suffix)
    make(download, tmp_path / "s", image_format=image_format)
    [(name, data)] = stored_files(tmp_path / "s", "0000").items()
    assert name == f"0000.0.{stored}"
    given = (download / f"photos/0000{suffix}").read_bytes()
    assert (data == given) == (suffix == f".{stored}")
    pixels = cv2.imread(str(download / f"photos/0000{suffix}"))[..., ::-1]
    assert np.abs(decode_image(data).astype(float) - pixels).mean() < 3


def test_arrays_are_stored_as_asked(tmp_path, download):
    sizes = {}
    for name, options in {
        "fine": {"quality": 95}, "coarse": {"quality": 30}, "png": {"image_format": "png"},
    }.items():  # fmt: skip
        make(download, tmp_path / name, Drawings(), limit=1, **options)
        [(member, data)] = stored_files(tmp_path / name, "0000").items()
        sizes[name] = len(data)
        assert member.endswith("png" if name == "png" else "jpg")
    assert sizes["coarse"] < sizes["fine"]


def person(size_hw, box, seed=0):
    rng = np.random.default_rng(seed)
    points = rng.uniform(box[:2], box[2:], (17, 2))
    keypoints = np.column_stack([points, np.ones(17)]).astype(np.float32)
    keypoints[3] = [np.nan, np.nan, 0]
    sample = {
        "key": f"r{seed}",
        "images": [picture(seed, size_hw)],
        "image_of_view": np.zeros(1, np.int64),
        "person_of_view": np.zeros(1, np.int64),
        "box_img": np.array([box], np.float32),
        "keypoints_img": keypoints[None],
        "keypoints_world": rng.normal(size=(1, 17, 4)).astype(np.float32) ** 2,
        "transl": np.array([[0.3, 0.2, 4.0]], np.float32),
    }
    return complete_sample(sample, "coco17", "made")


@pytest.mark.parametrize(
    "box",
    [[800, 300, 1400, 1700], [-50, 900, 700, 1500], [1000, 1000, 1100, 1240]],
    ids=["shrunk", "at the border", "small"],
)
def test_crop_of_a_precropped_record_is_that_of_the_full_one(box):
    full = person((2000, 1500), box)
    small = Precrop(margin=2.0, max_side=512)(full, 0)
    assert max(small["images"][0].shape[:2]) <= 512
    for scale, size in ((1.0, 64), (1.25, 128), (1.9, 96)):
        cut = Crops(input_size=[size, size], box_scale=scale)
        a, b = cut(full), cut(small)
        assert np.nanmax(np.abs(a["keypoints_crop"] - b["keypoints_crop"])) * size / 2 < 1e-3
        difference = np.abs(a["input_image"].astype(float) - b["input_image"])
        assert difference.mean() < 2
        assert np.percentile(difference, 95) < 6  # the rest is where the image ends
        for name in ("keypoints_world", "transl", "pose", "world_to_camera"):
            assert np.array_equal(a[name], b[name], equal_nan=True)


@pytest.mark.parametrize("given", ["intrinsics", "intrinsics_of_view", "nothing"])
def test_precrop_keeps_where_the_full_image_s_camera_was(given):
    full = person((2000, 1500), [800, 300, 1400, 1700])
    camera = np.array([[2500, 0, 750], [0, 2500, 1000], [0, 0, 1.0]])  # the guess
    if given != "nothing":
        camera = np.array([[900, 0, 700], [0, 910, 980], [0, 0, 1.0]])
        full[given] = camera[None].astype(np.float32)
    small = Precrop(max_side=300)(full, 0)
    rays = np.linalg.solve(camera, _homogeneous(full["keypoints_img"][0]))
    again = np.linalg.solve(small["intrinsics"][0], _homogeneous(small["keypoints_img"][0]))
    assert np.nanmax(np.abs(rays - again)) < 1e-5
    assert np.isnan(small["intrinsics_of_view"]).all()


def _homogeneous(keypoints):
    return np.column_stack([keypoints[:, :2], np.ones(len(keypoints))]).T.astype(np.float64)


def test_small_pictures_are_not_enlarged_but_cut_exactly():
    full = person((400, 300), [100, 100, 160, 180])
    small = Precrop(margin=1.5, max_side=512)(full, 0)
    assert small["images"][0].shape == (120, 120, 3)
    assert (small["images"][0] == full["images"][0][80:200, 70:190]).all()


def test_precrop_makes_a_record_per_person(tmp_path, download):
    manifest = make(download, tmp_path / "s", precrop={"max_side": 48}, image_format="png")
    assert (manifest["num_records"], manifest["num_views"], manifest["kind"]) == (16, 16, "crops")
    assert manifest["labels"]["intrinsics"] == 16
    assert manifest["options"]["precrop"] == {"margin": 2.0, "max_side": 48}
    shards = ShardSet(tmp_path / "s", "photos")
    keys = [shards.read(i)["key"] for i in range(4)]
    assert keys == ["0000-p0", "0001-p0", "0001-p1", "0002-p0"]
    make(download, tmp_path / "full")
    full, cut = ShardSet(tmp_path / "full", "photos").read(1), Crops(input_size=[32, 32])
    a, b = cut(select_view(full, 1)), cut(shards.read(2))
    assert np.nanmax(np.abs(a["keypoints_crop"] - b["keypoints_crop"])) * 16 < 1e-3
    assert np.abs(a["input_image"].astype(float) - b["input_image"]).mean() < 4


def test_person_outside_the_image_is_left_out_of_a_precropped_set(tmp_path):
    download = write_download(tmp_path / "download", 2)
    rows = read_rows(download)
    rows[1]["boxes"][0] = [200, 5, 230, 45]
    write_rows(download, rows)
    manifest = make(download, tmp_path / "s", precrop={})
    assert manifest["num_records"] == 2
    assert manifest["skipped"]["box lies outside the image"]["examples"] == ["0001, view 0"]


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_output_may_be_a_url(tmp_path, download, scheme):
    url = f"file://{tmp_path}/url" if scheme == "file" else "memory://prepare-test/photos"
    make(download, tmp_path / "folder", command="c")
    assert make(download, url, part=1, num_parts=2, command="c") is None
    files, path = fsspec.core.url_to_fs(url)
    files.rm(f"{path}/000001.tar.index")  # as if the upload had been killed
    make(download, url, part=1, num_parts=2, command="c")
    manifest = make(download, url, part=0, num_parts=2, command="c")
    found = {name.rpartition("/")[2]: files.cat_file(name) for name in files.find(path, maxdepth=1)}
    assert found == content(tmp_path / "folder")
    assert make(download, url) == manifest
    with pytest.raises(ValueError, match=r"quality=95, now quality=90: give another output"):
        make(download, url, quality=90)
    assert make(download, url, quality=90, overwrite=True)["options"]["quality"] == 90
    files.rm(path, recursive=True)


@pytest.mark.parametrize("url", ["https://host/x", "nosuch://bucket/x"])
def test_url_that_cannot_be_written_to_is_refused(download, url):
    with pytest.raises(ValueError, match=f"output={url}"):
        make(download, url)


def test_other_options_or_another_input_do_not_mix(tmp_path, download):
    output = tmp_path / "s"
    make(download, output, part=0, num_parts=2)
    with pytest.raises(ValueError, match="records_per_shard=3, now records_per_shard=4"):
        make(download, output, records_per_shard=4)
    with pytest.raises(ValueError, match=r"converter.annotations='a', now|converter.annotations="):
        make(download, output, converter_options={"annotations": "a"})
    other = write_download(tmp_path / "other", 11)
    with pytest.raises(ValueError, match=r"was made with input='.*photos_v1', now input='.*other'"):
        make(other, output)
    manifest = make(other, output, overwrite=True)
    assert manifest["options"]["input"] == str(other)
    with pytest.raises(ValueError, match="limit=None, now limit=4"):
        make(other, output, limit=4)
    assert [s["name"] for s in make(other, output, limit=4, overwrite=True)["shards"]] == [
        "000000.tar",
        "000001.tar",
    ]
    assert sorted(p.name for p in output.glob("*.tar*")) == sorted(
        f"00000{i}.tar{end}" for i in range(2) for end in ("", ".index")
    )


def test_overwrite_makes_a_part_anew_and_leaves_the_others(tmp_path, download):
    output = tmp_path / "s"
    whole = make(download, output)
    before = {p.name: p.stat().st_mtime_ns for p in output.glob("*.tar")}
    assert make(download, output) == whole  # nothing to do
    assert make(download, output, part=0, num_parts=2, overwrite=True) is None
    after = {p.name: p.stat().st_mtime_ns for p in output.glob("*.tar")}
    assert [name for name in before if before[name] != after[name]] == ["000000.tar", "000002.tar"]
    assert make(download, output, part=1, num_parts=2) == whole


def test_what_a_killed_writer_left_is_cleared_away(tmp_path, download, monkeypatch):
    output = tmp_path / "s"
    make(download, output, part=0, num_parts=2)
    (output / ".000001.tar.77.tmp").write_bytes(b"half")
    (output / "000001.tar").write_bytes(b"of a writer that was killed before the index")
    (output / ".prepare/000002.json").write_bytes(b'{"shard": "0000')
    with monkeypatch.context() as patch:  # killed between the manifest and the clearing
        patch.setattr("hmrkit.data.place.LocalPlace.remove_folder", lambda *_: None)
        make(download, output)
    assert (output / ".prepare").exists()
    make(download, output)
    make(download, tmp_path / "alone")
    assert content(output) == content(tmp_path / "alone")


def test_a_lost_shard_is_made_again(tmp_path, download):
    whole = make(download, tmp_path / "s")
    (tmp_path / "s/000001.tar").unlink()
    assert make(download, tmp_path / "s") == whole
    assert len(ShardSet(tmp_path / "s")) == 11


def test_shards_of_others_are_never_touched(tmp_path, download):
    sample = person((50, 50), [10, 10, 40, 40])
    for name in ("foreign", "other"):
        write_shard(tmp_path / name / "000000.tar", [sample], "coco17")
    write_manifest(tmp_path / "other", "mine", "crops", "coco17", {}, "by hand")
    before = content(tmp_path / "other")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"holds tars that hmrkit.prepare did not make"):
            make(download, tmp_path / "foreign", overwrite=overwrite)
        with pytest.raises(ValueError, match="shards of source 'mine', not of 'photos'"):
            make(download, tmp_path / "other", overwrite=overwrite)
    assert content(tmp_path / "other") == before


def test_wrong_input_is_answered_before_anything_is_written(tmp_path, download):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/readme.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"holds readme.txt; expected people.json. Get"):
        make(tmp_path / "empty", tmp_path / "s")
    write_rows(tmp_path / "empty", [])
    with pytest.raises(ValueError, match="holds no record of Photos"):
        make(tmp_path / "empty", tmp_path / "s")
    for options, message in {
        "part": ({"part": 2, "num_parts": 2}, "part=2: with num_parts=2 it is 0 to 1"),
        "shard": ({"records_per_shard": 0}, "records_per_shard=0"),
        "format": ({"image_format": "gif"}, "image_format='gif': expected keep, jpg, png"),
        "workers": ({"workers": "many"}, "workers='many'"),
        "precrop": ({"precrop": {"side": 3}}, "no option 'side'; it has margin, max_side"),
        "margin": ({"precrop": {"margin": 0.5}}, "precrop.margin=0.5"),
    }.values():
        with pytest.raises(ValueError, match=message):
            make(download, tmp_path / "s", **options)
    assert not (tmp_path / "s").exists()


def test_an_output_that_cannot_be_is_answered_before_anything_is_written(tmp_path, monkeypatch):
    download = write_download(tmp_path / "all" / "download", 2)
    (tmp_path / "afile").touch()
    for output, message in {
        tmp_path / "afile": "afile is a file; give a folder",
        tmp_path / "afile" / "s": "afile is a file; give a folder",
        download: "is the input: give an output outside the download",
        download / "s": "is inside input=.*: give an output",
        tmp_path / "all": "contains input=.*: give an output",
    }.items():
        with pytest.raises(ValueError, match=f"output={output}.*{message}"):
            make(download, output)
    assert sorted(path.name for path in download.iterdir()) == ["people.json", "photos"]

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("hmrkit.data.place.write_atomically", refuse)
    with pytest.raises(OSError, match=r"output=.*/s cannot be written to: Permission denied; mend"):
        make(download, tmp_path / "s")


def test_many_missing_images_are_warned_of(tmp_path, caplog):
    download = write_download(tmp_path / "download", 5)
    (download / "photos/0001.jpg").unlink()
    make(download, tmp_path / "few", max_bad=0.2)
    assert "incomplete" not in caplog.text
    make(download, tmp_path / "many", max_bad=0.1)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert warning.startswith("1 of 5 records were left out because their image file is missing")
    assert "the download looks incomplete" in warning


def test_names_that_differ_in_other_characters_have_keys_of_their_own():
    names = ["图片1.jpg", "照片1.jpg", "a b.jpg", "a-b.jpg", "a+b.jpg", "图片.jpg"]
    keys = [record_key(name) for name in names]
    assert len(set(keys)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,72}", key) for key in keys)
    assert (keys[3], record_key("x/a.b-1.png")) == ("a-b", "x-a-b-1")


def test_input_of_which_nothing_is_left_is_an_error(tmp_path):
    download = write_download(tmp_path / "download", 3)
    for path in (download / "photos").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="every record was skipped") as error:
        make(download, tmp_path / "s")
    assert "3  image file is missing, such as" in str(error.value)
    assert not (tmp_path / "s/hmrkit.json").exists()


def test_program_answers_mistakes_in_one_message(tmp_path, download):
    done = made_programs.run("prepare", f"input={download}", "source=synthetic", cwd=tmp_path)
    assert done.returncode == 2
    assert "source=synthetic is not made from a download: these are: " in done.stderr
    (tmp_path / "empty").mkdir()
    wrong = run(tmp_path, "source=photos", f"input={tmp_path / 'empty'}", "output=s")
    assert wrong.returncode == 2
    assert "expected people.json. Get photos.zip" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    assert not (tmp_path / "s").exists()
