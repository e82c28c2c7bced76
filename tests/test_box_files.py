"""People that other programs found, in the forms those programs write."""

import json
from pathlib import Path

import numpy as np
import pytest

from hmrkit.infer import boxes
from hmrkit.infer.keypoints import frame_people, given_in_frames

IMAGES = {"a": Path("in/a.jpg"), "b": Path("in/b.jpg")}
SIZES = {"a": (100, 200), "b": (100, 200)}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return str(path)


def coco(*people):
    """The annotations of a.jpg; b.jpg has none."""
    images = [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "b.jpg"}]
    return {
        "images": images,
        "annotations": [{"image_id": 7, "category_id": 1} | p for p in people],
    }


def test_a_coco_dataset_gives_boxes_scores_ids_and_keypoints(tmp_path):
    keypoints = [10.0, 20.0, 2] * 16 + [0, 0, 0]
    one = {"bbox": [10, 20, 30, 40], "track_id": 3, "score": 0.75, "keypoints": keypoints}
    path = write(tmp_path / "c.json", coco(one, one | {"category_id": 2}))
    found = boxes.read_people(path, IMAGES, SIZES)
    assert found["a"].boxes_img.tolist() == [[9.5, 19.5, 39.5, 59.5]]
    assert found["a"].ids.tolist() == [3]
    assert found["a"].scores.tolist() == [0.75]
    joint_set, points = found["a"].keypoints
    assert joint_set == "coco17"
    assert points[0, 0].tolist() == [10, 20, 1]
    assert points[0, 16, 2] == 0
    assert len(found["b"].boxes_img) == 0


def test_coco_results_name_pictures_by_number(tmp_path):
    rows = [{"image_id": 12, "bbox": [1, 2, 3, 4], "score": 0.5, "category_id": 1}]
    path = write(tmp_path / "r.json", rows)
    given = given_in_frames(None, path, "clip")
    assert list(given) == [11]
    named = boxes.read_people(path, {"12": Path("in/12.jpg")}, {"12": (100, 200)})
    assert named["12"].boxes_img.shape == (1, 4)


def test_openpose_json_is_the_people_of_its_picture(tmp_path):
    person = [10.0, 20, 0.9, 50, 80, 0.8] + [0.0] * 69
    content = {"people": [{"pose_keypoints_2d": person}]}
    found = boxes.read_people(write(tmp_path / "a_keypoints.json", content), IMAGES, SIZES)
    assert found["a"].boxes_img.tolist() == [[10, 20, 50, 80]]
    assert found["a"].keypoints[0] == "openpose25"
    assert len(found["b"].boxes_img) == 0


def test_phalps_dictionary_as_json_keeps_its_tracks(tmp_path):
    content = {
        f"frames/{number:06d}.jpg": {"tracked_ids": [4, 2], "tracked_bbox": [[1, 2, 9, 9]] * 2}
        for number in (1, 2)
    }
    given = given_in_frames(None, write(tmp_path / "p.json", content), "clip")
    assert sorted(given) == [0, 1]
    found = frame_people(given, 1, "clip", (100, 200))
    assert found.ids.tolist() == [4, 2]
    assert found.boxes_img[0].tolist() == [0.5, 1.5, 9.5, 10.5]
    assert len(frame_people(given, 5, "clip", (100, 200)).boxes_img) == 0


def test_inline_boxes_are_for_every_frame():
    given = given_in_frames(None, [[1, 2, 3, 4]], "clip")
    assert frame_people(given, 17, "clip", (100, 200)).boxes_img.tolist() == [[1, 2, 3, 4]]
    with pytest.raises(ValueError, match="lies outside frame 3 of clip, which is 2 wide"):
        frame_people(given_in_frames(None, [[5, 2, 8, 4]], "clip"), 3, "clip", (2, 2))


def test_openpose_files_of_a_video_are_found_by_its_name(tmp_path):
    content = {"people": [{"pose_keypoints_2d": [10.0, 20, 0.9, 50, 80, 0.8] + [0.0] * 69}]}
    write(tmp_path / "clip_000000000001_keypoints.json", content)
    write(tmp_path / "other_000000000002_keypoints.json", content)
    given = given_in_frames(str(tmp_path), None, "clip")
    assert list(given) == [1]
    assert given[1].boxes_img.tolist() == [[10, 20, 50, 80]]
    with pytest.raises(FileNotFoundError, match=r"no film_<number>_keypoints\.json"):
        given_in_frames(str(tmp_path), None, "film")


@pytest.mark.parametrize(
    "content",
    [{"images": [{"id": 1}], "annotations": []}, [{"bbox": [1, 2, 3, 4]}], 3, "x"],
)
def test_what_is_in_no_known_form_is_refused(tmp_path, content):
    with pytest.raises(ValueError, match=r"expected \[\[x1,y1,x2,y2\],"):
        boxes.read_people(write(tmp_path / "x.json", content), IMAGES, SIZES)


def test_names_without_numbers_are_no_frames(tmp_path):
    path = write(tmp_path / "x.json", {"a.jpg": [[1, 2, 3, 4]]})
    with pytest.raises(ValueError, match=r"'a\.jpg' has no frame number of clip"):
        given_in_frames(None, path, "clip")


def test_our_own_coco_export_can_be_read_again(tmp_path):
    from hmrkit.infer.coco import Shown, write_coco

    points = np.random.default_rng(0).uniform(5, 90, (2, 17, 2))
    shown = Shown("a.jpg", (100, 200), points, [4, 9], np.array([0.5, np.nan]))
    write_coco(tmp_path / "c.json", [shown])
    found = boxes.read_people(str(tmp_path / "c.json"), IMAGES, SIZES)["a"]
    assert found.ids.tolist() == [4, 9]
    np.testing.assert_allclose(found.keypoints[1][..., :2], points, atol=0.01)
    np.testing.assert_allclose(found.boxes_img[:, :2], points.min(axis=1) - 0.5, atol=0.01)
