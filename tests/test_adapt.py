"""The 2D evidence of test-time optimisation, and what the report says about the steps."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from hmrkit import checkpoints, report
from hmrkit.adapt.evidence import DetectedKeypoints, LabelledKeypoints
from hmrkit.body import joints
from hmrkit.configs import load_config
from hmrkit.infer.keypoints import given_people

ALL = joints.names("all")


def make_batch(num: int = 6) -> dict:
    """People of 100 x 200 px side by side, in crops of twice their size."""
    generator = torch.Generator().manual_seed(0)
    left = 120.0 * torch.arange(num)
    boxes = torch.stack([left, torch.zeros(num), left + 100, torch.full((num,), 200.0)], dim=1)
    crop_to_img = torch.zeros(num, 2, 3)
    crop_to_img[:, 0, 0] = crop_to_img[:, 1, 1] = 200
    crop_to_img[:, :, 2] = (boxes[:, :2] + boxes[:, 2:]) / 2
    labels = torch.rand(num, len(ALL), 3, generator=generator)
    labels[..., 2] = 1
    return {
        "key": ["picture"] * num,
        "image_of_view": torch.arange(num),
        "box_img": boxes,
        "crop_to_img": crop_to_img,
        "keypoints_crop": labels,
    }


def rows(batch: dict, order: list[int]) -> dict:
    picked = {n: v[order] for n, v in batch.items() if torch.is_tensor(v)}
    return {**picked, "key": ["picture"] * len(order), "image_of_view": torch.arange(len(order))}


def write(path, people: list[np.ndarray]) -> None:
    content = {"people": [{"pose_keypoints_2d": one.ravel().tolist()} for one in people]}
    path.write_text(json.dumps(content))


def person(box, joint_set: str = "openpose25") -> np.ndarray:
    """Joints at both corners of a box, by turns."""
    found = np.zeros((len(joints.names(joint_set)), 3))
    found[0::2, :2], found[1::2, :2], found[:, 2] = box[:2], box[2:], 0.5
    return found


# ------------------------------------------------------------------------------------ noisy labels


def test_labels_are_the_evidence_unless_they_are_made_worse():
    batch = make_batch()
    assert torch.equal(LabelledKeypoints()(batch), batch["keypoints_crop"])


def test_noise_and_lost_joints_are_as_large_as_asked():
    batch = make_batch(200)
    worse = LabelledKeypoints(noise_crop=0.05, drop=0.2)(batch)
    moved = worse[..., :2] - batch["keypoints_crop"][..., :2]
    assert moved.std().item() == pytest.approx(0.05, rel=0.05)
    assert abs(moved.mean().item()) < 0.002
    assert (worse[..., 2] == 0).float().mean().item() == pytest.approx(0.2, abs=0.02)


def test_the_noise_of_a_person_depends_on_nobody_else():
    batch, noisy = make_batch(), LabelledKeypoints(noise_crop=0.1, drop=0.3)
    together = noisy(batch)
    order = [4, 1, 5]
    torch.testing.assert_close(noisy(rows(batch, order)), together[order])
    assert not torch.equal(together[0, :, 2], together[1, :, 2])
    other = LabelledKeypoints(noise_crop=0.1, drop=0.3, seed=1)(batch)
    assert not torch.equal(other, together)


@pytest.mark.parametrize("options", [{"noise_crop": -0.1}, {"drop": 1.0}])
def test_noise_that_cannot_be_is_refused(options):
    with pytest.raises(ValueError, match="noise of 0 or more and a share"):
        LabelledKeypoints(**options)


# -------------------------------------------------------------------------------- detectors' files


def test_everybody_gets_the_detection_that_overlaps_them_most(tmp_path):
    batch = make_batch(3)
    found = [person([240, 10, 335, 195]), person([5, 5, 95, 190]), person([900, 0, 990, 200])]
    write(tmp_path / "picture_keypoints.json", found)
    evidence = DetectedKeypoints(str(tmp_path))(batch)
    assert (evidence[1, :, 2] == 0).all()  # nobody was found there
    nose = joints.index("openpose_nose", "all")
    to_crop = (np.array([240.0, 10.0]) - batch["crop_to_img"][2, :, 2].numpy()) / 200
    np.testing.assert_allclose(evidence[2, nose], [*to_crop, 0.5], atol=1e-5)
    assert (evidence[2, :, 2] > 0).sum() == 25
    flipped = DetectedKeypoints(str(tmp_path))(rows(batch, [2, 1, 0]))
    torch.testing.assert_close(flipped, evidence.flip(0))


def test_pixels_of_a_larger_image_are_scaled(tmp_path):
    batch = make_batch(1)
    write(tmp_path / "picture_keypoints.json", [2 * person([5, 5, 95, 190])])
    wrong, right = (DetectedKeypoints(str(tmp_path), scale=s)(batch) for s in (1.0, 0.5))
    assert (wrong[..., 2] == 0).all()
    assert (right[..., 2] > 0).any()


def test_coco_joints_have_the_labels_names(tmp_path):
    write(tmp_path / "picture_keypoints.json", [person([5, 5, 95, 190], "coco17")])
    evidence = DetectedKeypoints(str(tmp_path))(make_batch(1))[0]
    assert [ALL[i] for i in (evidence[:, 2] > 0).nonzero()[:, 0]] == sorted(
        joints.names("coco17"), key=ALL.index
    )


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        DetectedKeypoints(str(tmp_path / "nowhere"))
    detected = DetectedKeypoints(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"picture_keypoints\.json"):
        detected(make_batch(1))
    for content in ("{", '{"people": [{"pose_keypoints_2d": [1, 2, 3]}]}', "[]"):
        (tmp_path / "picture_keypoints.json").write_text(content)
        with pytest.raises(ValueError, match="is not in OpenPose's format"):
            detected(make_batch(1))
    write(tmp_path / "picture_keypoints.json", [])
    assert (detected(make_batch(1))[..., 2] == 0).all()


def test_the_demo_takes_boxes_from_the_keypoints_or_keypoints_for_the_boxes(tmp_path):
    Image.new("RGB", (400, 300)).save(tmp_path / "a.png")
    write(tmp_path / "a_keypoints.json", [person([10, 10, 90, 190]), person([210, 20, 290, 250])])
    found = {"a": tmp_path / "a.png"}, {"a": (300, 400)}
    people = given_people(str(tmp_path), None, *found)["a"]
    np.testing.assert_array_equal(people.boxes_img, [[10, 10, 90, 190], [210, 20, 290, 250]])
    assert people.keypoints[0] == "openpose25"
    people = given_people(str(tmp_path), [[200, 0, 300, 260]], *found)["a"]
    np.testing.assert_array_equal(people.boxes_img, [[200, 0, 300, 260]])
    np.testing.assert_array_equal(people.keypoints[1][0, 0], [210, 20, 0.5])
    assert given_people(None, [[200, 0, 300, 260]], *found)["a"].keypoints is None


# ------------------------------------------------------------------------------------ the programs


def test_adapt_of_a_program_beats_that_of_the_checkpoint():
    own = object()
    for overrides, expected in (([], own), (["adapt=none"], None), (["adapt=per_batch"], "batch")):
        module = SimpleNamespace(adapt=own)
        config = load_config("eval", ["checkpoint=x", "run_dir=run", *overrides])
        checkpoints.set_adapt(module, config.get("adapt"))
        assert getattr(module.adapt, "per", module.adapt) == expected


@pytest.mark.parametrize("option", ["per_sample", "per_batch", "openpose", "noisy_labels"])
def test_every_option_of_adapt_can_be_built(option):
    module = SimpleNamespace(adapt=None)
    config = load_config("demo", ["checkpoint=x", "input=x", "run_dir=run", f"adapt={option}"])
    checkpoints.set_adapt(module, config.adapt)
    assert module.adapt.num_steps == 15


def test_detections_need_their_folder(tmp_path):
    config = load_config("eval", ["checkpoint=x", "run_dir=run", "adapt=detections"])
    assert OmegaConf.is_missing(config.adapt.evidence, "folder")
    config.adapt.evidence.folder = str(tmp_path)
    module = SimpleNamespace(adapt=None)
    checkpoints.set_adapt(module, config.adapt)
    module.adapt.take_as_given()
    assert module.adapt.evidence is None
    assert (module.adapt.loss.evidence.joint_weight == 1).all()


# -------------------------------------------------------------------------------------- the report


def test_the_report_shows_errors_before_and_after_and_the_loss_of_every_step(tmp_path):
    table = {
        "key": ["a", "b"],
        "index": [0, 1],
        "person": [0, 0],
        "mpjpe": [80.0, 60.0],
        "stage0_mpjpe": [100.0, 90.0],
        "baseline_mpjpe": [200.0, 200.0],
        "curve0_keypoints2d": [4.0, 2.0],
        "curve1_keypoints2d": [3.0, np.nan],  # b was done early
        "curve2_keypoints2d": [2.0, 1.0],
    }
    meta = {"method": "made", "checkpoint": "x", "protocols": {}}
    page = report.write_report(tmp_path, {"made": table}, meta).read_text()
    test = json.loads((tmp_path / "report.json").read_text())["tests"]["made"]
    assert test["adaptation"] == {
        "before": {"mpjpe": 95.0},
        "curves": {"keypoints2d": [3.0, 2.0, 1.5]},
    }
    assert list(test["metrics"]) == ["mpjpe"]
    assert "Test-time optimisation" in page
    assert "keypoints2d on made" in page
    printed = report.format_table(tmp_path / "report.json")
    assert "before adaptation" in printed
    assert "95.0" in printed
    without = {name: v for name, v in table.items() if not name.startswith("curve")}
    plain = report.make_report({"made": without}, meta)
    assert "adaptation" not in plain["tests"]["made"]
    assert "before adaptation" not in report.format_table(plain)
