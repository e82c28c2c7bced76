"""4D-Humans' training tars: who is kept, with which labels, and nothing in them is ever run."""

import logging
import os
import pickle

import numpy as np
import pytest

from hmrkit.data.prepare import prepare
from hmrkit.data.record import BadRecord
from hmrkit.data.sources.fourdhumans import FourDHumansTars
from hmrkit.data.sources.official import Skipped
from hmrkit.data.sources.pose_histogram import (
    BODY_JOINTS,
    THRESHOLDS,
    is_probable,
    pose_bins,
    pose_density,
)
from made_tars import HEIGHT, WIDTH, person, photo, write_tar
from official_files import convert, crop_to_img, cut_views, read_all

LOW1 = {
    "suppress_keypoint_confidence": 0.3,
    "suppress_betas": 3.0,
    "poses_betas_simultaneous": True,
    "min_keypoints": 5,
    "max_reprojection_loss": 31000.0,
    "betas_regulariser": True,
}


def tars(**options):
    return FourDHumansTars(tars=["**/mpii-train/*.tar"], **options)


def one_record(people, tmp_path, image=None, **options):
    """The record of one photo, through a shard."""
    images = [{"jpg": photo()} if image is None else image]
    write_tar(tmp_path / "mpii-train" / "000000.tar", [("photo", people, *images)])
    shards, left_out = convert(tars(**options), tmp_path, tmp_path / "shards")
    return read_all(shards)[0], left_out


# Labels


def test_everyone_on_a_photo_is_in_one_record_with_all_labels(tmp_path):
    people = [person(seed) for seed in range(3)]
    sample, _ = one_record(people, tmp_path)
    assert sample["joint_set"] == "spin44"
    assert len(sample["images"]) == 1
    assert sample["images"][0].shape == (HEIGHT, WIDTH, 3)
    batch = cut_views(sample)
    for row, one in enumerate(people):
        np.testing.assert_allclose(
            sample["box_img"][row], [*(one["center"] - [24, 36]), *(one["center"] + [24, 36])]
        )
        np.testing.assert_array_equal(sample["keypoints_img"][row], one["keypoints_2d"])
        np.testing.assert_array_equal(sample["keypoints_world"][row], one["keypoints_3d"])
        np.testing.assert_array_equal(sample["pose"][row].ravel(), one["body_pose"])
        np.testing.assert_array_equal(sample["betas"][row], one["betas"])
    assert sample["has_pose"].all()
    assert sample["has_betas"].all()
    assert (sample["gender"] == -1).all()
    assert np.isnan(sample["transl"]).all()
    seen = crop_to_img(batch)[:, :, 2] > 0
    assert seen.sum() == 3 * 44


def test_the_file_of_the_photo_is_kept_as_it_is_whatever_it_is_called(tmp_path):
    for name, suffix in (("jpg", ".jpg"), ("jpeg", ".jpg"), ("png", ".png"), ("JPG", ".jpg")):
        folder = tmp_path / name
        content = photo(3, suffix)
        write_tar(folder / "mpii-train" / "0.tar", [("photo", [person()], {name: content})])
        records = tars().open(folder)
        assert records[0]["images"] == [content]


def test_a_stored_margin_is_taken_out_of_the_box(tmp_path):
    one = person()
    sample, _ = one_record([one], tmp_path, stored_margin=1.2)
    width, height = sample["box_img"][0, 2:] - sample["box_img"][0, :2]
    assert (width, height) == pytest.approx((40, 60), rel=1e-5)


def test_keypoints_without_confidence_are_absent_not_zero(tmp_path):
    one = person()
    one["keypoints_2d"][7] = 0
    one["keypoints_3d"][:] = 0
    sample, _ = one_record([one], tmp_path)
    assert np.isnan(sample["keypoints_img"][0, 7, :2]).all()
    assert np.isnan(sample["keypoints_world"][0, :, :3]).all()
    assert (sample["keypoints_world"][..., 3] == 0).all()


def test_a_body_that_is_no_label_is_absent_where_the_file_has_zeros_and_kept_where_not(tmp_path):
    zeros = {"body_pose": np.zeros(72, np.float32), "betas": np.zeros(10, np.float32)}
    flags = {"has_body_pose": np.array(0.0), "has_betas": np.array(0.0)}
    sample, _ = one_record([person(**zeros, **flags), person(1, **flags)], tmp_path)
    assert not sample["has_pose"].any()
    assert not sample["has_betas"].any()
    assert np.isnan(sample["pose"][0]).all()
    assert np.isnan(sample["betas"][0]).all()
    np.testing.assert_array_equal(sample["pose"][1].ravel(), person(1)["body_pose"])


# Filters


def confident(number):
    keypoints = person()["keypoints_2d"]
    keypoints[number:, 2] = 0.29
    return keypoints


def fitted(loss):
    return {"fitting_loss": np.array({"reprojection_loss": loss}, object)}


def test_the_filters_leave_out_whom_the_authors_leave_out(tmp_path):
    people = [
        person(0, keypoints_2d=confident(5)),
        person(1, keypoints_2d=confident(4)),  # "more than 4 joints"
        person(2, extra_info=fitted(30999.0)),
        person(3, extra_info=fitted(31000.0)),
        person(4, extra_info={}),  # never fitted
        person(5, extra_info=fitted(np.float32(40000))),
    ]
    sample, left_out = one_record(people, tmp_path, **LOW1)
    kept = [0, 2, 4]
    np.testing.assert_array_equal(
        sample["pose"].reshape(-1, 72), [people[i]["body_pose"] for i in kept]
    )
    assert (sample["keypoints_img"][0, :, 2] > 0).sum() == 5
    assert left_out == {
        "somebody on a photo: too few keypoints": 1,
        "somebody on a photo: the reprojection loss is too high": 2,
    }


def test_flags_follow_the_order_of_the_authors_filters(tmp_path):
    large = person(1)["betas"].copy()
    large[3] = -3.01
    people = [
        person(0),
        person(1, betas=large),
        person(2, has_body_pose=np.array(0.0)),
        person(3, has_betas=np.array(0.0)),
    ]
    sample, _ = one_record(people, tmp_path, **LOW1)
    assert sample["has_pose"].tolist() == [True, False, False, False]
    assert sample["has_betas"].all()  # the regulariser's zeros are labels
    assert not sample["betas"][1:].any()
    np.testing.assert_array_equal(sample["betas"][0], people[0]["betas"])
    (tmp_path / "again").mkdir()
    options = {**LOW1, "poses_betas_simultaneous": False, "betas_regulariser": False}
    sample, _ = one_record(people, tmp_path / "again", **options)
    assert sample["has_pose"].tolist() == [True, True, False, True]
    assert sample["has_betas"].tolist() == [True, False, True, False]


def test_a_photo_that_nobody_is_left_on_is_skipped_with_the_reason(tmp_path):
    records = [
        ("empty", []),
        ("poor", [person(keypoints_2d=confident(0)), person(extra_info=fitted(1e6))]),
        ("named", [person()]),
        ("good", [person()]),
    ]
    write_tar(tmp_path / "mpii-train" / "000000.tar", records)
    converter = tars(**LOW1, exclude_keys=["named"])
    shards, left_out = convert(converter, tmp_path, tmp_path / "shards")
    assert [sample["key"] for sample in read_all(shards)] == ["mpii-train-000000-good"]
    assert left_out == {
        "nobody is left: nobody is labelled": 1,
        "nobody is left: the reprojection loss is too high, too few keypoints": 1,
        "excluded by exclude_keys": 1,
    }
    with pytest.raises(Skipped) as skipped:
        converter.open(tmp_path)[0]
    assert skipped.value.detail == "mpii-train/000000.tar: empty"


def test_prepare_reports_who_is_left_out_and_what_is_damaged(tmp_path):
    download = tmp_path / "download"
    for number, people in enumerate([[person(), person(keypoints_2d=confident(0))], []]):
        records = [(f"photo{i}", people) for i in range(3)]
        write_tar(download / "mpii-train" / f"{number:06d}.tar", records)
    with (download / "mpii-train" / "000001.tar").open("r+b") as file:
        file.truncate(2000)
    options = {"workers": 0, "records_per_shard": 2, "max_bad": 0.5}
    manifest = prepare(tars(**LOW1), "mpii", download, tmp_path / "shards", **options)
    assert manifest["num_people"] == manifest["num_records"] == 3
    assert {reason: entry["count"] for reason, entry in manifest["skipped"].items()} == {
        "somebody on a photo: too few keypoints": 3,
        "cannot be converted: BadRecord": 2,  # the photo at the cut, and what was behind it
    }
    with pytest.raises(ValueError, match="more than max_bad allows"):
        prepare(tars(**LOW1), "mpii", download, tmp_path / "strict", workers=0, max_bad=0.01)


# The pose histogram


@pytest.fixture(scope="module")
def histogram(tmp_path_factory):
    """All counts in a block around the rest pose."""
    path = tmp_path_factory.mktemp("data") / "amass_poses_hist100_SMPL+H_G.npy"
    counts = np.zeros((21, 100, 100, 100), np.float32)
    counts[:, 44:56, 44:56, 44:56] = 1000
    np.save(path, counts)
    return str(path)


def test_the_density_is_smoothed_over_bins_and_joints_with_zeros_outside(histogram):
    density = pose_density(histogram)
    volume = (2 * np.pi / 100) ** 3
    flat = 1 / (21 * 12**3 * volume)
    offsets = np.arange(-8, 9)
    kernel = np.exp(-(offsets**2) / 8)
    kernel /= kernel.sum()
    inside = kernel[(offsets >= -6) & (offsets < 6)].sum() ** 3  # at bin 50 of 44..55
    assert density[10, 50, 50, 50] == pytest.approx(flat * inside, rel=1e-5)
    at_end = kernel[offsets >= 0].sum()
    assert density[0, 50, 50, 50] == pytest.approx(flat * inside * at_end, rel=1e-5)
    assert density[0, 0, 0, 0] == 0


def test_thresholds_belong_to_joints_by_name():
    by_name = dict(zip(BODY_JOINTS, THRESHOLDS.tolist(), strict=True))
    assert by_name["left_foot"] == by_name["right_foot"] == 0
    assert by_name["spine3"] == pytest.approx(0.025)
    assert by_name["right_wrist"] == pytest.approx(1e-3)
    assert len(by_name) == 21


def test_a_pose_is_improbable_if_one_body_joint_is(histogram):
    pose = np.zeros((5, 24, 3))
    pose[1, 18, 0] = 2.0  # left elbow
    pose[2, 0] = 3.0  # the root does not count
    pose[3, 22:] = 3.0  # nor do the hands
    pose[4, 10, 2] = 2.0  # a foot far away from any pose
    assert is_probable(pose, histogram).tolist() == [True, False, True, True, False]


def test_an_angle_beyond_half_a_turn_is_the_same_rotation_by_less():
    pose = np.zeros((3, 24, 3))
    pose[:, 4, 1] = [0.2, 0.2 + 2 * np.pi, -2 * np.pi + 0.2]
    bins = pose_bins(pose)
    assert bins[0, 3, 1] == int((0.2 + np.pi) / (2 * np.pi) * 100)
    np.testing.assert_array_equal(bins[1:], bins[[0, 0]])


def test_improbable_poses_are_no_labels(tmp_path, histogram):
    bent = np.zeros(72, np.float32)
    bent[3 * 18] = 2.0
    straight = np.full(72, 0.1, np.float32)
    people = [person(0, body_pose=bent), person(1, body_pose=straight)]
    sample, _ = one_record(people, tmp_path, pose_histogram=histogram)
    assert sample["has_pose"].tolist() == [False, True]
    assert sample["has_betas"].all()


def test_a_filter_that_is_off_is_said_loudly(tmp_path, caplog, histogram):
    write_tar(tmp_path / "mpii-train" / "000000.tar", [("photo", [person()])])
    with caplog.at_level(logging.WARNING):
        tars(pose_histogram=histogram).open(tmp_path)
        assert not caplog.records
        tars().open(tmp_path)
    assert "improbable fitted poses of **/mpii-train/*.tar stay labels" in caplog.text


def test_a_wrong_histogram_is_refused(tmp_path):
    write_tar(tmp_path / "mpii-train" / "000000.tar", [("photo", [person()])])
    with pytest.raises(FileNotFoundError, match=r"pose_histogram=.*nowhere\.npy does not exist"):
        tars(pose_histogram=str(tmp_path / "nowhere.npy")).open(tmp_path)
    np.save(tmp_path / "small.npy", np.zeros((21, 2, 2, 2)))
    with pytest.raises(ValueError, match=r"has shape \(21, 2, 2, 2\), not \(21, 100, 100, 100\)"):
        is_probable(np.zeros((1, 24, 3)), str(tmp_path / "small.npy"))


# Downloads that are not as expected


def test_a_wrong_folder_says_what_was_found_and_expected(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds images/; expected \*\*/mpii-train/\*\.tar"):
        tars().open(tmp_path)


def test_tars_are_found_at_any_depth_and_left_out_by_words(tmp_path):
    for name in ("mpii-train/000001.tar", "all/mpii-train/000000.tar", "mpii-train/000002.tar"):
        write_tar(tmp_path / name, [("photo", [person()])])
    assert [p.relative_to(tmp_path).as_posix() for p in tars().find(tmp_path)] == [
        "all/mpii-train/000000.tar",
        "mpii-train/000001.tar",
        "mpii-train/000002.tar",
    ]
    records = tars(leave_out=["000002.tar"]).open(tmp_path)
    keys = [records[i]["key"] for i in range(len(records))]
    assert keys == ["all-mpii-train-000000-photo", "mpii-train-000001-photo"]  # unique


class Evil:
    def __reduce__(self):
        return os.system, ("touch {}",)


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (pickle.dumps([person(body_pose=Evil())]), "labels", "is refused, nothing in it was run"),
        (pickle.dumps([person()])[:-400], "labels", "is damaged"),
        (pickle.dumps({"center": 0}), "labels", "not a list of dicts"),
        (pickle.dumps([{"center": np.zeros(2)}]), "labels", "a person has no 'keypoints_2d'"),
        (pickle.dumps([person(betas=np.zeros(11))]), "labels", r"betas has shape \(11,\)"),
        (None, "missing", r"needs an image and data.pyd, has \['jpg'\]"),
    ],
)
def test_damaged_labels_are_named_and_never_run(tmp_path, content, kind, message, monkeypatch):
    ran = []
    monkeypatch.setattr(os, "system", ran.append)
    members = {"jpg": photo()} if content is None else {"jpg": photo(), "data.pyd": content}
    with pytest.raises((BadRecord, ValueError), match=message) as caught:
        tars().decode(members, "photo")
    assert getattr(caught.value, "kind", "labels") == kind
    assert ran == []
