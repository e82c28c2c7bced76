"""hmrkit.inspect: good sets are found good, and every kind of mistake is found and named."""

import copy
import json
import re
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from hmrkit.body import joints
from hmrkit.body.free import free_body
from hmrkit.data.record import complete_sample, encode_record
from hmrkit.data.shards import ShardSet, write_encoded_shard, write_manifest, write_shard
from hmrkit.data.sources.fourdhumans import FourDHumansTars
from hmrkit.data.synth.shards import make_shards
from hmrkit.inspection import scan
from hmrkit.inspection.run import inspect_shards
from hmrkit.inspection.sheet import LEFT, RIGHT, Painter
from hmrkit.inspection.skeleton import skeleton_of
from made_mistakes import MISTAKES, left_and_right_of_2d, millimetres, no_3d
from made_tars import person, write_tar

ROOT = Path(__file__).parents[1]
SIZES = {"crops": (48, 96), "scenes": (12, [96, 160]), "rigs": (6, 96), "motion": (3, 64)}


@pytest.fixture(scope="module")
def body():
    return free_body()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A good set of every kind."""
    folder = tmp_path_factory.mktemp("made")
    recipe = {"num_frames": 12}
    for kind, (num, size) in SIZES.items():
        make_shards(folder / kind, num, 5, kind, size, recipe, workers=0, records_per_shard=24)
    return folder


@pytest.fixture(scope="module")
def good(made):
    sets = {kind: ShardSet(made / kind) for kind in SIZES}
    return {kind: [s.read(i) for i in range(len(s))] for kind, s in sets.items()}


def write(folder, kind, samples, joint_set="all", **options):
    """A set of one shard, labelled for the free body."""
    write_shard(folder / "a.tar", samples, joint_set)
    options = {"body": "free", **options}
    write_manifest(folder, "made", kind, joint_set, options, command="test")
    return folder


def look(path, body, **options):
    return inspect_shards(path, body, **{"num_pictures": 0, **options})


def names(found):
    return {finding.name for finding in found.findings}


def finding(found, name):
    return next(one for one in found.findings if one.name == name)


# The linter


@pytest.mark.parametrize("kind", SIZES)
def test_made_people_of_every_kind_have_no_findings(made, body, kind):
    found = look(made / kind, body)
    assert found.findings == []
    counts, manifest = found.summary["counts"], ShardSet(made / kind).manifest
    assert all(counts[what] == manifest[f"num_{what}"] for what in counts)
    assert all(found.summary["labels"][k]["count"] == n for k, n in manifest["labels"].items())


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: f"{m.make.__name__}-{m.kind}")
def test_a_mistake_is_found_named_and_shown_where_it_is(tmp_path, good, body, mistake):
    samples = copy.deepcopy(good[mistake.kind])
    wrong = samples[:: mistake.every]
    for sample in wrong:
        mistake.make(sample)
    found = look(write(tmp_path, mistake.kind, samples), body)
    assert names(found) <= set(mistake.found)
    named = finding(found, mistake.found[0])
    keys = {sample["key"] for sample in wrong}
    assert named.examples
    assert {example.key for example in named.examples} <= keys
    if mistake.kind != "scenes":  # where every person is seen well enough to judge
        assert named.count >= 0.5 * len(wrong)


def test_people_without_3d_whose_sides_are_swapped_are_found_by_their_faces(tmp_path, good, body):
    samples = copy.deepcopy(good["crops"])
    face = [i for i, n in enumerate(joints.names("all")) if n.endswith(("nose", "_eye"))]
    for sample in samples:
        ahead = Rotation.from_rotvec(sample["pose"][0, 0].astype(np.float64)).as_matrix()[:, 2]
        if ahead[2] > 0:  # nobody who labels by hand sees the face of a back
            sample["keypoints_img"][0, face, 2] = 0
        no_3d(sample)
    assert look(write(tmp_path / "good", "crops", samples), body).findings == []
    for sample in samples:
        left_and_right_of_2d(sample)
    assert names(look(write(tmp_path / "bad", "crops", samples), body)) == {"mirrored-torso"}


def test_rare_mistakes_are_warnings_and_frequent_ones_errors(tmp_path, good, body):
    samples = copy.deepcopy(good["crops"])
    for number, severity in ((2, "warning"), (12, "error")):
        for sample in samples[:number]:
            sample["betas"][:, 0] = 7
        found = look(write(tmp_path / severity, "crops", samples), body)
        [one] = found.findings
        assert (one.name, one.severity, one.count, one.total) == (
            "betas-out-of-range", severity, number, len(samples),
        )  # fmt: skip


def test_joints_about_their_root_and_absent_labels_are_no_mistakes(tmp_path, good, body):
    samples = copy.deepcopy(good["crops"])
    for sample in samples:
        root = sample["keypoints_world"][:, joints.index("pelvis", "all"), None, :3]
        sample["keypoints_world"][..., :3] -= root.copy()
        for name in ("transl", "intrinsics", "visible_fraction"):
            sample[name][:] = np.nan
    found = look(write(tmp_path, "crops", samples), body)
    assert found.findings == []
    assert "depth_m" not in found.summary["distributions"]
    assert found.summary["labels"]["transl"]["share"] == 0


def test_cameras_of_views_are_judged_like_cameras_of_images(tmp_path, good, body):
    samples = copy.deepcopy(good["scenes"])
    for sample in samples:
        of_views = sample["intrinsics"][sample["image_of_view"]].copy()
        sample["intrinsics_of_view"], sample["intrinsics"][:] = of_views, np.nan
    found = look(write(tmp_path / "good", "scenes", samples), body)
    assert found.findings == []
    assert found.summary["labels"]["camera"]["share"] == 1
    for sample in samples:
        sample["intrinsics_of_view"][:, :2] *= 3
    assert "reprojection-error" in names(look(write(tmp_path / "bad", "scenes", samples), body))


def test_precropped_images_may_have_their_principal_point_anywhere(tmp_path, good, body):
    samples = copy.deepcopy(good["crops"])
    for sample in samples:
        no_3d(sample)
        sample["intrinsics"][:] = [[300, 0, -200], [0, 300, 500], [0, 0, 1]]
    whole = look(write(tmp_path / "whole", "crops", samples), body)
    assert names(whole) == {"principal-point-off-centre"}
    cut = write(tmp_path / "cut", "crops", samples, precrop={"margin": 2.0})
    assert look(cut, body).findings == []


# The set as a whole


def test_a_wrong_manifest_is_named_and_the_set_looked_at_all_the_same(tmp_path, made, body):
    shutil.copytree(made / "crops", tmp_path / "set")
    path = tmp_path / "set" / "hmrkit.json"
    manifest = json.loads(path.read_text())
    manifest["num_people"] += 1
    manifest["labels"]["pose"] = 3
    path.write_text(json.dumps(manifest))
    shutil.copy(tmp_path / "set" / "crops-00000.tar", tmp_path / "set" / "more.tar")
    found = look(tmp_path / "set", body)
    [one] = found.findings
    assert (one.name, one.severity, one.count) == ("manifest-counts", "error", 2)
    assert "num_people" in one.examples[0].detail
    assert "more.tar" in one.examples[1].detail
    assert found.summary["counts"]["people"] == SIZES["crops"][0]


def test_an_index_that_counts_otherwise_than_its_records_is_found(tmp_path, good, body):
    samples = [complete_sample(s, "all") for s in copy.deepcopy(good["crops"])]
    records = [(s, encode_record(s, "jpg", 92)) for s in samples]
    samples[0]["has_pose"][:] = False  # after it was written, before it is counted
    write_encoded_shard(tmp_path / "a.tar", records, "all")
    write_manifest(tmp_path, "made", "crops", "all", {"body": "free"}, command="")
    [one] = look(tmp_path, body).findings
    assert one.name == "manifest-counts"
    assert one.examples[0].detail == "labels.pose is 47, the records have 48"


def test_unreadable_records_are_counted_with_their_reason(tmp_path, made, body):
    shutil.copytree(made / "crops", tmp_path / "set")
    shards = ShardSet(tmp_path / "set")
    tar = tmp_path / "set" / "crops-00000.tar"
    content = bytearray(tar.read_bytes())
    content[int(shards.shards[0].offset[4]) + 9] ^= 255
    tar.write_bytes(content)
    found = look(tmp_path / "set", body)
    [one] = found.findings
    assert (one.name, one.count, one.total) == ("unreadable-record", 1, 48)
    assert one.examples[0].key == shards.key(2)
    assert "another CRC" in one.examples[0].detail


def test_damaged_pixels_are_found_when_asked_for(tmp_path, good, body):
    sample = complete_sample(copy.deepcopy(good["crops"][0]), "all")
    files = encode_record(sample, "jpg", 92)
    files["0.jpg"] = files["0.jpg"][: len(files["0.jpg"]) // 2]
    write_encoded_shard(tmp_path / "a.tar", [(sample, files)], "all")
    assert look(tmp_path / "a.tar", body).findings == []
    [one] = look(tmp_path / "a.tar", body, with_pixels=True).findings
    assert one.name == "unreadable-record"
    assert "cannot be decoded" in one.examples[0].detail


def test_png_files_are_measured_without_decoding_them(tmp_path, good, body):
    write_shard(tmp_path / "a.tar", good["scenes"], "all", image_format="png")
    found = look(tmp_path / "a.tar", body)
    assert found.summary["image_sizes"] == [{"width": 160, "height": 96, "count": 12}]


def test_repeated_images_and_keys_are_found(tmp_path, good, body):
    write_shard(tmp_path / "a.tar", good["crops"][:20], "all")
    write_shard(tmp_path / "b.tar", good["crops"][18:30], "all")
    found = look(tmp_path, body)
    assert names(found) == {"duplicate-image", "duplicate-key"}
    image, key = finding(found, "duplicate-image"), finding(found, "duplicate-key")
    assert (image.count, key.count) == (2, 2)
    assert image.examples[0].detail == f"same file as in {good['crops'][18]['key']}"


def test_a_label_that_never_changes_is_found(tmp_path, good, body):
    samples = copy.deepcopy(good["crops"])
    for sample in samples:
        sample["betas"][:] = 0.25
    [one] = look(write(tmp_path, "crops", samples), body).findings
    assert (one.name, [e.key for e in one.examples]) == ("constant-label", ["betas"])


# Numbers


def test_distributions_are_those_of_the_labels(tmp_path, good, body):
    sample = copy.deepcopy(good["crops"][0])
    turn = Rotation.from_euler("y", 40, degrees=True) * Rotation.from_rotvec([np.pi, 0, 0])
    sample["pose"][0] = 0
    sample["pose"][0, 0] = turn.as_rotvec()
    sample["pose"][0, joints.index("left_elbow", "smpl24")] = [0, 0, 0.3]
    sample["keypoints_world"][:] = np.nan
    sample["keypoints_world"][..., 3] = 0
    sample["betas"][:] = 0
    sample["transl"][:] = [0, 0.225, 4.9799973]  # the free body's pelvis rests at -0.225, 0.02
    sample["intrinsics"][:] = [[48, 0, 47.5], [0, 48, 47.5], [0, 0, 1]]
    found = look(write(tmp_path, "crops", [sample]), body).summary
    columns = {name: column["median"] for name, column in found["distributions"].items()}
    assert columns["depth_m"] == pytest.approx(5.0, abs=1e-4)
    assert columns["yaw_deg"] == pytest.approx(-40, abs=1e-3)  # to the left of the image
    assert columns["elevation_deg"] == pytest.approx(0, abs=1e-3)
    assert columns["fov_deg"] == pytest.approx(90, abs=1e-4)
    box = sample["box_img"][0]
    assert columns["box_side_px"] == pytest.approx(max(box[2] - box[0], box[3] - box[1]))
    mean = Rotation.from_matrix(body.mean_pose[joints.index("left_elbow", "smpl24")].numpy())
    angle = np.degrees((mean.inv() * Rotation.from_rotvec([0, 0, 0.3])).magnitude())
    assert found["pose_deg"]["left_elbow"]["mean"] == pytest.approx(angle, abs=1e-3)
    assert found["labels"]["keypoints_world"]["share"] == 0
    assert found["joints"]["nose"] == {"views": 1, "people": 0}


def test_samples_are_spread_evenly_and_parts_add_up(made, body, monkeypatch):
    whole = look(made / "scenes", body)
    monkeypatch.setattr(scan, "_RECORDS_PER_JOB", 5)
    monkeypatch.setattr(scan, "_ROWS_AT_ONCE", 3)
    assert look(made / "scenes", body).summary == whole.summary
    some = look(made / "scenes", body, num_samples=4).summary
    assert (some["num_looked_at"], some["num_records"]) == (4, 12)
    assert some["counts"]["records"] == 4
    assert some["findings"] == []


def test_processes_change_nothing(tmp_path, good, body, monkeypatch):
    samples = copy.deepcopy(good["crops"])
    for sample in samples[5:30]:
        millimetres(sample)
    write(tmp_path, "crops", samples)
    alone = look(tmp_path, body)
    monkeypatch.setattr(scan, "_RECORDS_PER_JOB", 10)
    monkeypatch.setattr(scan, "_WORTH_A_PROCESS", (10, 1 << 30))
    assert look(tmp_path, body, workers=2).summary == alone.summary


def test_tars_in_use_in_place_can_be_inspected(tmp_path, body):
    records = [(f"photo{i}", [person(2 * i), person(2 * i + 1)]) for i in range(4)]
    write_tar(tmp_path / "tars" / "mpii" / "000000.tar", records)
    converter = FourDHumansTars(tars=["*/*.tar"], min_keypoints=5)
    found = look(tmp_path / "tars", body, converter=converter, num_pictures=2)
    assert found.summary["counts"] == {"records": 4, "images": 4, "views": 8, "people": 8}
    assert found.summary["image_sizes"] == [{"width": 120, "height": 90, "count": 4}]
    assert found.contact_sheet is not None


# Pictures


@pytest.fixture(scope="module")
def painter(body):
    return Painter(body, skeleton_of(body, True))


def drawn_body(painter, sample):
    """Where the second panel of a crop differs from its photo."""
    bare = copy.deepcopy(sample)
    bare["has_pose"][:] = False
    with_body, photo = (painter.record(s).rgb[:, -256:].astype(int) for s in (sample, bare))
    return np.abs(with_body - photo).max(axis=2) > 8


def test_bodies_without_a_place_are_put_on_their_joints(painter, good):
    overlaps = []
    for sample in copy.deepcopy(good["crops"][:6]):
        placed = drawn_body(painter, sample)
        assert 0.03 < placed.mean() < 0.6
        assert painter.record(sample).notes == set()
        sample["transl"][:] = np.nan
        assert painter.record(sample).notes == {"placed by 3D joints"}
        by_3d = drawn_body(painter, sample)
        sample["keypoints_world"][..., :3] -= sample["keypoints_world"][:, :1, :3].copy()
        assert painter.record(sample).notes == {"placed by 2D joints"}
        by_2d = drawn_body(painter, sample)
        overlaps += [(placed & x).sum() / (placed | x).sum() for x in (by_3d, by_2d)]
    assert min(overlaps) > 0.97


def test_left_limbs_are_blue_and_right_ones_orange(painter, good):
    sample = copy.deepcopy(good["crops"][0])
    sample["images"] = [np.zeros((96, 96, 3), np.uint8)]
    sample["keypoints_img"][..., 2] = 0
    at = {"left_knee": (30, 20), "left_ankle": (30, 70), "right_knee": (60, 20)}
    for name, point in {**at, "right_ankle": (60, 70)}.items():
        sample["keypoints_img"][0, joints.index(name, "all")] = [*point, 1]
    sample["box_img"][:] = [10, 10, 85, 85]
    rgb = painter.record(sample).rgb[:, :256].astype(int)
    zoom = 256 / (1.25 * 75)
    for x, color in ((30, LEFT), (60, RIGHT)):
        column, row = round(128 + (x - 47.5) * zoom), round(128 + (45 - 47.5) * zoom)
        assert np.abs(rgb[row, column] - color).max() < 40


def test_clips_stand_upright_whatever_axis_of_their_world_is_up(painter, good):
    clip = copy.deepcopy(good["motion"][0])
    upright = painter.record(clip).rgb
    assert upright.shape[:2] == (230, 960)
    columns = (upright < 250).any(axis=(0, 2))
    assert columns.mean() > 0.4
    turn = Rotation.from_euler("x", 90, degrees=True)  # y up becomes z up, as in AMASS
    root = Rotation.from_rotvec(clip["pose"][:, 0].astype(np.float64))
    clip["pose"][:, 0] = (turn * root).as_rotvec()
    clip["transl"] = turn.apply(clip["transl"]).astype(np.float32)
    assert np.abs(painter.record(clip).rgb.astype(int) - upright).mean() < 1


# The page and the program


def test_page_needs_nothing_from_outside_and_shows_what_was_found(tmp_path, good, body):
    samples = copy.deepcopy(good["rigs"])
    for sample in samples[:2]:
        left_and_right_of_2d(sample)
    path = write(tmp_path / "<b>set", "rigs", samples)
    found = inspect_shards(path, body, tmp_path / "out", "<i>name", num_pictures=3)
    page = (tmp_path / "out/inspect.html").read_text()
    for link in re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"'\s>)]+)""", page):
        assert link.startswith("data:image/jpeg;base64,")
    assert "http" not in page
    assert "<script" not in page
    assert "<b>set" not in page
    assert "<i>name" not in page
    assert "mirrored-keypoints-2d" in page
    assert "Depth of the pelvis" in page
    assert page.count("<img") == 1 + sum(min(len(f.examples), 2) for f in found.findings)
    assert json.loads((tmp_path / "out/inspect.json").read_text()) == json.loads(
        json.dumps(found.summary)
    )
    assert (tmp_path / "out/contact_sheet.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in (tmp_path / "<b>set").iterdir()) == [
        "a.tar", "a.tar.index", "hmrkit.json",
    ]  # fmt: skip


def test_program_takes_a_folder_logs_its_findings_and_fails_when_strict(
    tmp_path, good, body, program
):
    samples = copy.deepcopy(good["crops"])
    for sample in samples:
        millimetres(sample)
    write(tmp_path / "my set", "crops", samples)
    done = program("inspect", "my set", "strict=true", "num_pictures=2", "workers=1")
    assert done.returncode == 1, done.stderr
    assert "ERROR   units-not-metres (48 of 48 people, 100 %)" in done.stdout
    assert "box_side_px" in done.stdout
    assert "divide millimetres by 1000" in done.stdout
    output = tmp_path / "runs/inspect/my set"
    assert sorted(p.name for p in output.iterdir()) == [
        "contact_sheet.png", "inspect.html", "inspect.json",
    ]  # fmt: skip
    assert json.loads((output / "inspect.json").read_text())["body"] == "free"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["my set", "runs"]


def test_program_takes_a_source_and_says_how_to_prepare_it(program):
    done = program("inspect", "source=coco_2014_spin")
    assert done.returncode == 2
    assert "python -m hmrkit.prepare source=coco_2014_spin output=" in done.stderr


def test_every_check_is_documented_with_its_remedy():
    text = (ROOT / "docs/inspect.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z0-9-]+)` \| (?:error|warning)[^|]*\| (.+) \|$", text, re.M))
    for check in scan.CHECKS:
        assert rows.pop(check.name) == f"{check.what} {check.remedy}"
    assert rows.keys() == {
        "unreadable-record", "manifest-counts", "duplicate-key", "duplicate-image",
        "constant-label",
    }  # fmt: skip


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_page_opens_in_a_browser_without_network(tmp_path, made, body):
    inspect_shards(made / "crops", body, tmp_path, num_pictures=8)
    shot = tmp_path / "shot.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    size = ["--window-size=1200,2600", f"--user-data-dir={tmp_path / 'profile'}"]
    page = (tmp_path / "inspect.html").as_uri()
    command = [CHROMIUM, *flags, *size, f"--screenshot={shot}", page]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    image = cv2.imread(str(shot))
    assert image.shape[:2] == (2600, 1200)
    # Cards, sheet, tables and charts: many colours all the way down.
    for strip in np.array_split(image, 5):
        assert len(np.unique(strip.reshape(-1, 3), axis=0)) > 40
