"""Detectors through their one interface, and in front of a method of crops."""

import sys

import cv2
import numpy as np
import pytest
import torch

from hmrkit import checkpoints
from hmrkit.configs import load_config, to_plain
from hmrkit.infer import videos
from hmrkit.infer.detectors import Detections, OnnxDetector, SceneDetector, TorchvisionDetector
from hmrkit.infer.loading import load_for_pictures
from hmrkit.infer.scenes import predict_scene
from made_detector import overlaps, scenes, train_detector
from test_infer import made_checkpoint


def red_on_grey(size_hw=(120, 200), box=(50, 30, 90, 110)):
    image = np.full((*size_hw, 3), 120, np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = [230, 20, 20]
    return image


class FindsRed(torch.nn.Module):
    """A detector with MMDeploy's outputs: the box around what is red, and one that is no person."""

    def forward(self, image):
        is_red = (image[0, 0] - image[0, 1] > 1.0).float()
        rows = torch.arange(image.shape[2], dtype=torch.float32)
        columns = torch.arange(image.shape[3], dtype=torch.float32)
        by_row, by_column = is_red.amax(dim=1), is_red.amax(dim=0)

        def span(hit, place):
            far = 1e6
            low = torch.where(hit > 0, place, place + far).amin()
            high = torch.where(hit > 0, place + 1, place - far).amax()
            return low, high

        (x1, x2), (y1, y2) = span(by_column, columns), span(by_row, rows)
        score = torch.where(x2 > x1, 0.8, 0.0)
        person = torch.stack([x1, y1, x2, y2, score])
        other = torch.tensor([1.0, 1, 5, 5, 0.9])
        unsure = torch.tensor([1.0, 1, 9, 9, 0.2])
        return torch.stack([unsure, other, person])[None], torch.tensor([[0, 3, 0]])


@pytest.fixture(scope="module")
def finds_red(tmp_path_factory):
    pytest.importorskip("onnxruntime")
    path = tmp_path_factory.mktemp("onnx") / "red.onnx"
    torch.onnx.export(
        FindsRed(),
        (torch.zeros(1, 3, 160, 160),),
        path,
        input_names=["input"],
        output_names=["dets", "labels"],
        dynamo=False,
    )
    return str(path)


@pytest.mark.parametrize("size_hw", [(120, 200), (300, 150), (160, 160)])
def test_boxes_of_an_onnx_detector_are_in_pixels_of_the_picture(finds_red, size_hw):
    box = (50, 30, 90, 110)
    (found,) = OnnxDetector(finds_red)([red_on_grey(size_hw, box)])
    assert found.boxes_img.shape == (1, 4)
    np.testing.assert_allclose(found.boxes_img[0], np.array(box) - 0.5, atol=2.5)
    assert found.scores.tolist() == pytest.approx([0.8])


@pytest.fixture(scope="module")
def tiny_detector(tmp_path_factory):
    pytest.importorskip("onnxruntime")
    path = tmp_path_factory.mktemp("tiny") / "people.onnx"
    train_detector(path)
    return str(path)


def test_a_detector_trained_on_made_up_scenes_finds_people_of_others(tiny_detector):
    detector = OnnxDetector(tiny_detector, min_score=0.3)
    num_people = num_found = num_wrong = 0
    for sample in scenes(24, seed=12):
        (found,) = detector(sample["images"])
        match = overlaps(sample["box_img"], found.boxes_img) > 0.5
        is_seen = sample["visible_fraction"] > 0.5
        num_people, num_found = num_people + is_seen.sum(), num_found + match[is_seen].any(1).sum()
        num_wrong += (~match.any(axis=0)).sum()
    assert num_people > 20
    assert num_found > 0.8 * num_people
    assert num_wrong < 0.25 * num_people


def test_an_onnx_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"detector\.path=nowhere: no such file"):
        OnnxDetector("nowhere")


def test_onnx_without_its_package_is_named_with_the_remedy(finds_red, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r'pip install "hmrkit\[onnx\]"'):
        OnnxDetector(finds_red)


def test_torchvisions_detector_says_which_file_is_missing_and_loads_one_that_is_there(
    tmp_path, monkeypatch
):
    detection = pytest.importorskip("torchvision.models.detection")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    message = r"no weights at .*checkpoints.*; download https://.* boxes=<file>"
    with pytest.raises(ValueError, match=message):
        TorchvisionDetector()
    name = "ssdlite320_mobilenet_v3_large"
    torch.manual_seed(0)
    net = getattr(detection, name)(weights=None, weights_backbone=None)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    detector = TorchvisionDetector(name, str(tmp_path / "net.pth"), min_score=0.0, device="cpu")
    first, second = detector([red_on_grey(), red_on_grey((90, 60), (10, 10, 30, 60))])
    for found, (height, width) in ((first, (120, 200)), (second, (90, 60))):
        assert found.boxes_img.shape == (len(found.scores), 4)
        assert (found.boxes_img <= [width, height, width, height]).all()
        assert (np.diff(found.scores) <= 0).all()
    with pytest.raises(ValueError, match=r"net\.pth is not for fasterrcnn"):
        TorchvisionDetector("fasterrcnn_mobilenet_v3_large_320_fpn", str(tmp_path / "net.pth"))
    with pytest.raises(ValueError, match=r"detector\.name=yolo: torchvision has no such"):
        TorchvisionDetector("yolo")


def test_a_method_of_crops_finds_nobody(tmp_path):
    made_checkpoint(tmp_path / "crops.ckpt")
    with pytest.raises(ValueError, match=r"crops\.ckpt looks at crops"):
        SceneDetector(str(tmp_path / "crops.ckpt"))


def made_scene_checkpoint(path):
    """A small SAT-HMR that believes to see somebody everywhere."""
    overrides = [
        *("experiment=sathmr_tiny", "run_dir=run", "model.net.long_side_px=112"),
        *("model.net.encoder.dim=32", "model.net.encoder.embed.width=4"),
        "model.net.decoder.dim=32",
    ]
    config = to_plain(load_config("train", overrides))
    torch.manual_seed(0)
    module = checkpoints.build_module({key: config[key] for key in ("model", "body", "data")})
    with torch.no_grad():
        module.net.conf_head.bias += 8.0
    checkpoints.save_checkpoint(module, path)
    return str(path)


def test_a_method_that_finds_people_is_a_detector_for_the_others(tmp_path):
    path = made_scene_checkpoint(tmp_path / "scene.ckpt")
    images = [red_on_grey(), red_on_grey((160, 90), (10, 10, 30, 60))]
    found = SceneDetector(path, device="cpu")(images)
    module, cut = load_for_pictures(tmp_path / "scene.ckpt", "cpu")
    for one, image in zip(found, images, strict=True):
        ((people,), _) = predict_scene(module, cut, image, [0.5])
        assert len(one.boxes_img) == len(people["box_img"]) == 8
        height, width = image.shape[:2]
        limit = np.float32([width, height, width, height]) - 0.5
        np.testing.assert_allclose(
            one.boxes_img, np.clip(people["box_img"], -0.5, limit), atol=0.05
        )
        np.testing.assert_allclose(one.scores, people["score"], atol=1e-4)
        assert (np.diff(one.scores) <= 0).all()


def test_the_largest_people_are_kept_in_their_order():
    boxes = np.float32([[0, 0, 10, 10], [0, 0, 30, 30], [0, 0, 20, 20], [0, 0, 99, 5]])
    found = Detections(boxes, np.float32([0.9, 0.8, 0.7, 0.6]), np.array([4, 5, 6, 7]))
    assert found.largest(2).ids.tolist() == [5, 7]
    assert found.largest(None, min_height_px=9).ids.tolist() == [4, 5, 6]
    assert found.largest(2, min_height_px=9).scores.tolist() == pytest.approx([0.8, 0.7])


def test_the_demo_finds_follows_and_shows_who_is_detected(tmp_path, finds_red, program):
    made_checkpoint(tmp_path / "last.ckpt")
    with videos.VideoWriter(tmp_path / "walk.mp4", 10.0, crf=10) as writer:
        for frame in range(6):
            writer.write(red_on_grey(box=(20 + 10 * frame, 20, 60 + 10 * frame, 110)))
    cv2.imwrite(str(tmp_path / "nobody.png"), np.full((60, 80, 3), 120, np.uint8))
    done = program(
        *("demo", "checkpoint=last.ckpt", "input=[walk.mp4,nobody.png]", "output=out"),
        *("detector=onnx", f"detector.path={finds_red}", "formats=[npz,overlay]", "min_frames=3"),
    )
    assert done.returncode == 0, done.stderr
    assert "nobody.png: the detector finds nobody" in done.stdout + done.stderr
    (path,) = (tmp_path / "out" / "walk").glob("*.npz")
    with np.load(path) as person:
        assert person["is_seen"].all()
        np.testing.assert_allclose(person["box_img"][:, 0], 20 + 10 * np.arange(6), atol=4)
        assert person["score"].tolist() == pytest.approx([0.8] * 6)
