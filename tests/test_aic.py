"""AI Challenger's keypoints in their official layout."""

import json
from pathlib import Path

import numpy as np
import pytest

from hmrkit.body import joints
from hmrkit.data.sources.ai_challenger import AiChallenger
from official_files import convert, crop_to_img, cut_views, read_all, write_photo

ANNOTATIONS = (
    "ai_challenger_keypoint_train_annotations_20170909/keypoint_train_annotations_20170909.json"
)
IMAGES = "ai_challenger_keypoint_train_20170902/keypoint_train_images_20170902"
NAME = "a0f6bdc065a602b7b84a67fb8d14ce403d902e0d"


def human(seed: int, not_labelled: tuple[int, ...] = ()) -> list[int]:
    points = np.random.default_rng(seed).integers(20, 100, (14, 3))
    points[:, 2] = 1 + np.arange(14) % 2
    points[list(not_labelled)] = 0, 0, 3
    return points.ravel().tolist()


HUMANS = {f"human{i}": human(i, (0, 13)) for i in range(1, 12)}


@pytest.fixture
def download(tmp_path: Path) -> Path:
    folder = tmp_path / "aic"
    write_photo(folder / IMAGES / f"{NAME}.jpg")
    boxes = {name: [10 + i, 20, 110, 115] for i, name in enumerate(HUMANS)}
    absent = {"human12": human(0, tuple(range(14)))}
    photo = {"image_id": NAME, "keypoint_annotations": {**HUMANS, **absent}}
    photo["human_annotations"] = {**boxes, "human12": [0, 0, 9, 9]}
    photo["url"] = "http://www.sinaimg.cn/x.jpg"
    (folder / ANNOTATIONS).parent.mkdir()
    (folder / ANNOTATIONS).write_text(json.dumps([photo]))
    return folder


def aic(**options) -> AiChallenger:
    given = {"annotations": "*/keypoint_train_annotations_*.json"}
    given |= {"images": "*/keypoint_train_images_*", "min_joints": 1}
    return AiChallenger(**{**given, **options})


def test_everyone_is_in_the_record_occluded_joints_too(download: Path, tmp_path: Path):
    shards, left_out = convert(aic(), download, tmp_path / "shards")
    assert left_out == {"somebody on a photo: fewer than 1 labelled joints": 1}
    sample = shards.read(0)
    assert sample["key"] == NAME
    assert sample["box_img"][:, 0].tolist() == list(range(10, 21))  # human2 before human10
    points = np.reshape(HUMANS["human10"], (14, 3))
    found = {n: sample["keypoints_img"][9, joints.index(f"spin_{n}", "lsp14")] for n in NAMES}
    for name, row in NAMES.items():
        assert found[name].tolist() == [*points[row, :2], 1], name
    for name in ("right_shoulder", "neck"):
        assert sample["keypoints_img"][9, joints.index(f"spin_{name}", "lsp14"), 2] == 0
    elbow = crop_to_img(cut_views(sample))[9, joints.index("spin_left_elbow"), :2]
    np.testing.assert_allclose(elbow, points[4, :2], atol=1e-4)


NAMES = {"right_elbow": 1, "left_elbow": 4, "right_ankle": 8, "left_hip": 9, "head_top": 12}


def test_other_folders_are_answered_with_what_is_expected(download: Path):
    with pytest.raises(
        FileNotFoundError, match=r"holds ai_challenger_keypoint_train_20170902/, .*"
    ):
        aic(annotations="*/keypoint_validation_annotations_*.json").open(download)
    (download / ANNOTATIONS).write_text('{"images": []}')
    with pytest.raises(ValueError, match="is not AI Challenger's annotation"):
        aic().open(download)


def test_no_label_is_lost_on_the_way(download: Path, tmp_path: Path):
    samples = read_all(convert(aic(min_joints=12), download, tmp_path / "shards")[0])
    assert [int((s["keypoints_img"][..., 2] > 0).sum()) for s in samples] == [11 * 12]
