"""MPII's Matlab file and the json made of it, in their official layouts."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from hmrkit.body import joints
from hmrkit.data.sources.mpii import Mpii
from official_files import convert, crop_to_img, cut_views, read_all, write_photo

MAT = "mpii_human_pose_v1_u12_2/mpii_human_pose_v1_u12_1.mat"
RNG = np.random.default_rng(4)
JOINTS = RNG.integers(20, 100, (3, 16, 2)).astype(float)  # of three people, Matlab px
UNLABELLED = {0: (0, 1), 1: (), 2: ()}
POSITION, SCALE = np.array([[60.0, 55.0], [80.0, 70.0], [50.0, 50.0]]), [0.4, 0.25, 0.3]


def structs(rows: list[dict]) -> np.ndarray:
    """A Matlab struct array, as savemat writes it."""
    names = list(rows[0])
    out = np.empty((1, len(rows)), dtype=[(name, object) for name in names])
    for i, row in enumerate(rows):
        out[0, i] = tuple(row[name] for name in names)
    return out


def person(number: int) -> dict:
    points = [
        {"x": JOINTS[number, j, 0], "y": JOINTS[number, j, 1], "id": j, "is_visible": j % 2}
        for j in range(16)
        if j not in UNLABELLED[number]
    ]
    head = {"x1": 1, "y1": 2, "x2": 3, "y2": 4}
    position = structs([{"x": POSITION[number, 0], "y": POSITION[number, 1]}])
    labels = {"annopoints": structs([{"point": structs(points[::-1])}]), "scale": SCALE[number]}
    return {**head, **labels, "objpos": position}


def write_mat(folder: Path) -> None:
    nobody = np.zeros((0, 0))
    bystander = {**person(2), "annopoints": nobody}
    unplaced = {**person(2), "objpos": nobody, "scale": nobody}
    train = structs([person(0), bystander, person(1), unplaced])
    photos = [
        {"image": structs([{"name": "015601864.jpg"}]), "annorect": train, "vididx": 1},
        {"image": structs([{"name": "test.jpg"}]), "annorect": structs([bystander]), "vididx": 2},
        {"image": structs([{"name": "empty.jpg"}]), "annorect": nobody, "vididx": 3},
        {"image": structs([{"name": "044.jpg"}]), "annorect": structs([person(2)]), "vididx": 4},
    ]
    release = {"annolist": structs(photos), "img_train": np.array([[1, 0, 1, 1]], np.uint8)}
    (folder / MAT).parent.mkdir(parents=True)
    savemat(folder / MAT, {"RELEASE": structs([{**release, "version": "1.1"}])})


@pytest.fixture
def download(tmp_path: Path) -> Path:
    folder = tmp_path / "mpii"
    for name in ("015601864.jpg", "044.jpg", "test.jpg", "empty.jpg"):
        write_photo(folder / "images" / name)
    write_mat(folder)
    return folder


def mpii(**options) -> Mpii:
    given = {"annotations": MAT, "images": "images", "box": "position", "stored_margin": 1.2}
    return Mpii(**{**given, "first_pixel": 1, "min_joints": 1, **options})


def test_the_matlab_file_gives_everyone_who_has_joints(download: Path, tmp_path: Path):
    shards, left_out = convert(mpii(), download, tmp_path / "shards")
    assert left_out == {
        "somebody on a photo: fewer than 1 labelled joints": 1,
        "somebody on a photo: the box is empty": 1,
    }
    several, one = read_all(shards)
    assert (several["key"], one["key"]) == ("015601864", "044")
    assert several["keypoints_img"][:, :, 2].tolist() == [[0, 0] + [1] * 14, [1] * 16]
    np.testing.assert_array_equal(several["keypoints_img"][0, 2:, :2], JOINTS[0, 2:] - 1)
    np.testing.assert_array_equal(one["keypoints_img"][0, :, :2], JOINTS[2] - 1)
    half = 200 * 0.4 / 1.2 / 2
    np.testing.assert_allclose(
        several["box_img"][0], [59 - half, 54 - half, 59 + half, 54 + half], rtol=1e-6
    )
    batch = cut_views(several)
    head_top = joints.index("spin_head_top")
    np.testing.assert_allclose(crop_to_img(batch)[1, head_top, :2], JOINTS[1, 9] - 1, atol=1e-4)


def test_spins_choices_are_options(download: Path, tmp_path: Path):
    converter = mpii(first_pixel=0, min_joints=16, box="joints")
    several, one = read_all(convert(converter, download, tmp_path / "shards")[0])
    assert several["keypoints_img"].shape == (2, 16, 3)  # also the one without a position
    np.testing.assert_array_equal(several["keypoints_img"][0, :, :2], JOINTS[1])
    tight = [*JOINTS[2].min(axis=0), *JOINTS[2].max(axis=0)]
    np.testing.assert_array_equal(one["box_img"][0], tight)


def test_the_json_says_the_same(download: Path, tmp_path: Path):
    people = []
    for number, image in enumerate(("015601864.jpg", "015601864.jpg", "044.jpg")):
        is_seen = np.isin(np.arange(16), UNLABELLED[number], invert=True)
        points = np.where(is_seen[:, None], JOINTS[number], -1.0)
        labels = {"joints": points.tolist(), "joints_vis": is_seen.astype(int).tolist()}
        place = {"center": POSITION[number].tolist(), "scale": SCALE[number], "image": image}
        people.append({**labels, **place})
    (download / "annot").mkdir()
    (download / "annot" / "train.json").write_text(json.dumps(people))
    from_json = read_all(
        convert(mpii(annotations="annot/train.json"), download, tmp_path / "json")[0]
    )
    from_mat = read_all(convert(mpii(), download, tmp_path / "mat")[0])
    for ours, theirs in zip(from_json, from_mat, strict=True):
        for field in ("keypoints_img", "box_img"):
            np.testing.assert_array_equal(ours[field], theirs[field])


def test_other_folders_are_answered_with_what_is_expected(download: Path):
    with pytest.raises(FileNotFoundError, match=r"holds 0156.*expected mpii_human_pose.*mpi-inf"):
        mpii().open(download / "images")
    (download / "valid.json").write_text('{"images": []}')
    with pytest.raises(ValueError, match=r"valid\.json is not MPII's annotation"):
        mpii(annotations="valid.json").open(download)
    with pytest.raises(ValueError, match="box=objpos: expected position or joints"):
        mpii(box="objpos")
