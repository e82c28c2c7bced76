"""Leeds Sports Pose and its two extended sets, in their official layouts."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from hmrkit.body import joints
from hmrkit.data.sources.lsp import Lsp
from hmrkit.data.sources.official import Skipped
from official_files import convert, crop_to_img, cut_views, read_all, write_photo

NUM = 4
POINTS = np.random.default_rng(2).uniform(10, 110, (NUM, 14, 2))
FLAGS = np.random.default_rng(3).integers(0, 2, (NUM, 14))


def write(folder: Path, layout: str, names: str) -> Path:
    for number in range(NUM):
        write_photo(folder / names.format(number + 1), seed=number)
    values = np.concatenate([POINTS, FLAGS[..., None]], axis=2)  # (N, 14, 3)
    axes = {"lsp": (2, 1, 0), "lspet": (1, 2, 0)}[layout]
    savemat(folder / "joints.mat", {"joints": values.transpose(axes)})
    return folder


def lsp(**options) -> Lsp:
    given = {"annotations": "joints.mat", "images": "images/*.jpg", "where": "It is at Leeds."}
    return Lsp(**{**given, "rows": None, "unlabelled_flag": None, **options})


def test_lsp_labels_every_joint_whatever_its_flag(tmp_path: Path):
    folder = write(tmp_path / "lsp", "lsp", "images/im{:04d}.jpg")
    first = read_all(convert(lsp(rows=[0, 3]), folder, tmp_path / "train")[0])
    last = read_all(convert(lsp(rows=[3, 4]), folder, tmp_path / "test")[0])
    assert [s["key"] for s in first + last] == [f"images-im000{i}" for i in (1, 2, 3, 4)]
    for number, sample in enumerate(first + last):
        assert (sample["keypoints_img"][..., 2] == 1).all()
        np.testing.assert_allclose(sample["keypoints_img"][0, :, :2], POINTS[number], atol=1e-5)
        tight = [*POINTS[number].min(axis=0), *POINTS[number].max(axis=0)]
        np.testing.assert_allclose(sample["box_img"][0], tight, atol=1e-5)
    wrist = joints.index("spin_right_wrist")
    found = crop_to_img(cut_views(last[0]))[0, wrist, :2]
    np.testing.assert_allclose(found, POINTS[3, 6], atol=1e-4)


def test_in_lsp_extended_joints_of_flag_0_are_not_labelled(tmp_path: Path):
    folder = write(tmp_path / "lspet", "lspet", "images/im{:05d}.jpg")
    samples = read_all(convert(lsp(unlabelled_flag=0), folder, tmp_path / "shards")[0])
    for number, sample in enumerate(samples):
        labelled = FLAGS[number] == 1
        assert (sample["keypoints_img"][0, :, 2] == labelled).all()
        tight = [*POINTS[number][labelled].min(axis=0), *POINTS[number][labelled].max(axis=0)]
        np.testing.assert_allclose(sample["box_img"][0], tight, atol=1e-5)


def test_hr_lspet_lies_in_the_folder_itself_as_png(tmp_path: Path):
    folder = write(tmp_path / "hr-lspet", "lspet", "im{:05d}.png")
    shards, _ = convert(lsp(images="*.png"), folder, tmp_path / "shards")
    assert shards.key(2) == "im00003"
    assert shards.read_files(2)["0.png"] == (folder / "im00003.png").read_bytes()
    assert (shards.read(2)["keypoints_img"][..., 2] == 1).all()


def test_a_person_without_labels_is_skipped(tmp_path: Path):
    folder = write(tmp_path / "lspet", "lspet", "images/im{:05d}.jpg")
    values = np.zeros((14, 3, NUM))
    savemat(folder / "joints.mat", {"joints": values})
    with pytest.raises(Skipped, match="no joint is labelled"):
        lsp(unlabelled_flag=0).open(folder)[0]


def test_other_folders_are_answered_with_what_is_expected(tmp_path: Path):
    folder = write(tmp_path / "lsp", "lsp", "images/im{:04d}.jpg")
    with pytest.raises(FileNotFoundError, match=r"holds im0001.*expected joints\.mat.*Leeds"):
        lsp().open(folder / "images")
    (folder / "images" / "im0002.jpg").unlink()
    with pytest.raises(ValueError, match=r"labels 4 images and .* holds 3"):
        lsp().open(folder)
    savemat(folder / "joints.mat", {"joints": np.zeros((16, 3, 4))})
    with pytest.raises(ValueError, match=r"joints of shape \(16, 3, 4\); expected \(3, 14, images"):
        lsp().open(folder)
