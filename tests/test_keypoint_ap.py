"""Average precision of keypoints: COCO's definition on cases that can be counted by hand."""

import json
import math

import numpy as np
import pytest
import torch

from hmrkit.body import joints
from hmrkit.body.free import free_body
from hmrkit.evaluation import build_protocol
from hmrkit.geometry.cameras import project
from hmrkit.keypoint_ap import (
    SIGMAS,
    annotated_people,
    average_precision,
    found_people,
    oks,
    read_annotations,
    standing_transl,
)
from hmrkit.types import Body, Prediction

BOX = [10.0, 20.0, 80.0, 120.0]


def annotation(number: int, image: int, **changes) -> dict:
    points = np.random.default_rng(7).uniform(20, 90, (17, 2))
    keypoints = np.column_stack([points, np.full(17, 2)])
    own = {"id": number, "image_id": image, "category_id": 1, "iscrowd": 0, "area": 9600.0}
    own |= {"bbox": BOX, "num_keypoints": 17, "keypoints": keypoints.ravel().tolist()}
    return own | changes


def found(*rows: dict, score: float = 1.0, shift: float = 0.0):
    points = np.array([row["keypoints"] for row in rows]).reshape(-1, 17, 3)[..., :2] + shift
    return found_people(points, np.full(len(rows), score))


def images(num: int) -> list[dict]:
    return [{"id": i + 1} for i in range(num)]


def test_the_sigmas_are_cocos():
    expected = [26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]
    np.testing.assert_allclose(1000 * SIGMAS, expected)
    assert joints.names("coco17")[5] == "spin_left_shoulder"


def test_similarity_falls_with_distance_as_defined():
    row = annotation(1, 1)
    one = annotated_people(images(1), [row])[1]
    value = oks(one, found(row, shift=3.0))[0, 0]
    expected = np.exp(-18 / (2 * 9600 * (2 * SIGMAS) ** 2)).mean()
    assert value == pytest.approx(expected)
    assert oks(one, found(row))[0, 0] == 1


def test_unlabelled_keypoints_do_not_count():
    keypoints = np.array(annotation(1, 1)["keypoints"]).reshape(17, 3)
    keypoints[3:] = 0
    row = annotation(1, 1, keypoints=keypoints.ravel().tolist(), num_keypoints=3)
    other = annotation(2, 1)  # the same place, with the other keypoints anywhere
    assert oks(annotated_people(images(1), [row])[1], found(other))[0, 0] == 1


def test_perfect_people_score_one_and_missing_ones_lower_the_recall():
    rows = [annotation(i + 1, i + 1) for i in range(4)]
    everybody = annotated_people(images(4), rows)
    perfect = average_precision(everybody, {i + 1: found(rows[i]) for i in range(4)})
    assert all(perfect[n] == pytest.approx(1) for n in ("ap", "ap50", "ap75", "ar", "ap_large"))
    half = average_precision(everybody, {i + 1: found(rows[i]) for i in range(2)})
    assert half["ar"] == 0.5
    assert half["ap"] == pytest.approx(51 / 101)  # recalls 0 to 0.5 of the 101


def test_a_second_find_of_the_same_person_is_wrong():
    row = annotation(1, 1)
    everybody = annotated_people(images(1), [row])
    twice = average_precision(everybody, {1: found(row, row)})
    assert twice["ap"] == pytest.approx(1)  # the second comes after full recall
    wrong_first = found_people(
        np.concatenate([found(row, shift=500.0).keypoints_img, found(row).keypoints_img])[..., :2],
        np.array([0.9, 0.5]),
    )
    assert average_precision(everybody, {1: wrong_first})["ap"] == pytest.approx(0.5)


def test_crowds_and_people_without_keypoints_may_be_found_and_need_not_be():
    row = annotation(1, 1)
    blank = annotation(2, 1, num_keypoints=0, keypoints=[0.0] * 51)
    everybody = annotated_people(images(1), [row, blank])
    inside = found_people(np.full((1, 17, 2), 50.0), np.ones(1))
    both = found_people(
        np.concatenate([inside.keypoints_img, found(row).keypoints_img])[..., :2], np.ones(2)
    )
    assert average_precision(everybody, {1: both})["ap"] == pytest.approx(1)
    assert average_precision(everybody, {1: found(row)})["ar"] == pytest.approx(1)


def test_sizes_are_apart_and_a_size_without_people_has_no_number():
    row = annotation(1, 1, area=50.0**2)
    numbers = average_precision(annotated_people(images(1), [row]), {1: found(row)})
    assert numbers["ap_medium"] == pytest.approx(1)
    assert math.isnan(numbers["ap_large"])


def test_nobody_found_is_zero_and_strangers_are_refused():
    everybody = annotated_people(images(1), [annotation(1, 1)])
    assert average_precision(everybody, {})["ap"] == 0
    with pytest.raises(ValueError, match="image 5 is not in the annotation file"):
        average_precision(everybody, {5: found(annotation(1, 5))})


def test_a_wrong_annotation_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cocodataset\.org"):
        read_annotations(tmp_path / "nothing.json")
    (tmp_path / "wrong.json").write_text('{"people": []}')
    with pytest.raises(ValueError, match=r"wrong\.json is not a keypoint annotation file"):
        read_annotations(tmp_path / "wrong.json")


def test_the_protocol_scores_perfect_bodies_by_their_annotations(tmp_path):
    """Bodies in crops of images, their own joints as annotations: everything is found."""
    body_model, num = free_body(), 3
    body = body_model.mean_body(num)
    transl = torch.tensor([[0.0, 0.0, 40.0]]).expand(num, 3)
    camera = torch.diag(torch.tensor([40.0, 40.0, 1.0])).expand(num, 3, 3)
    to_img = torch.tensor([[100.0, 0, 150], [0, 100.0, 140]]).repeat(num, 1, 1)
    points = project(body_model.joints(body, "coco17") + transl[:, None], camera)
    points = points @ to_img[:, :, :2].transpose(1, 2) + to_img[:, None, :, 2]
    rows = []
    for i, own in enumerate(points.tolist()):
        keypoints = [number for x, y in own for number in (x, y, 2)]
        rows.append(annotation(i + 1, i + 1, keypoints=keypoints, area=10000.0))
    path = tmp_path / "person_keypoints.json"
    path.write_text(json.dumps({"images": images(num), "annotations": rows}))
    protocol = build_protocol(
        {
            "_target_": "hmrkit.keypoint_ap.KeypointAP",
            "name": "AP",
            "joint_set": "coco17",
            "root": [],
            "annotations": str(path),
        }
    )
    one = Body(body.global_orient, body.body_pose, body.betas, body.transl)
    prediction = Prediction(one, transl, camera, mesh=body_model(one))
    size = len(joints.names("all"))
    batch = {
        "crop_to_img": to_img,
        "has_pose": torch.zeros(num, dtype=torch.bool),
        "keypoints_crop": torch.zeros(num, size, 3),
        "box_img": torch.tensor([[50.0, 40, 250, 240]] * num),
    }
    columns = {k: v.numpy() for k, v in protocol.measure(prediction, batch, body_model).items()}
    columns["key"] = np.array([f"val2014-COCO_val2014_{i + 1:012d}" for i in range(num)])
    numbers = protocol.summary(columns)
    assert numbers["ap"] == pytest.approx(100)
    assert numbers["baseline_ap"] == numbers["baseline_ar"] > 0  # it is the mean pose, further off
    columns["key"] = np.array(["photo"] * num)
    with pytest.raises(ValueError, match="not named after an image of COCO"):
        protocol.summary(columns)


def test_the_baseline_stands_in_the_middle_of_the_crop():
    camera = torch.tensor([[[30.0, 0, 0.4], [0, 20.0, -0.2], [0, 0, 1]]])
    seen = project(torch.zeros(1, 1, 3) + standing_transl(camera)[:, None], camera)
    torch.testing.assert_close(seen, torch.zeros(1, 1, 2))
    above = torch.tensor([[[0.0, 1.0, 0.0]]]) + standing_transl(camera)[:, None]
    assert project(above, camera)[0, 0, 1].item() == pytest.approx(0.9)
