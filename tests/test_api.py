"""What ``hmrkit.api`` promises: fields, shapes, frames and units, for arrays, PIL and paths."""

import dataclasses
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from hmrkit import api
from hmrkit.body import joints
from hmrkit.body.free import free_body
from hmrkit.checkpoints import save_checkpoint
from hmrkit.geometry.rotations import axis_angle_to_rotmat
from hmrkit.types import Body
from made_networks import tiny_module

SMALL = ("data.cut.input_size=[32,32]", "model.net.backbone.width=4")
BOXES = np.array([[10, 5, 60, 90], [70, 20, 118, 99]], np.float32)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "x.ckpt"
    save_checkpoint(tiny_module("hmr_tiny", *SMALL), path)
    return path


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> api.Model:
    return api.load(checkpoint, device="cpu")


def picture(height: int = 100, width: int = 120, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((width, height)))


def test_the_example_at_the_top_of_the_module_works(checkpoint: Path, tmp_path: Path, monkeypatch):
    lines = inspect.getdoc(api).splitlines()
    example = "\n".join(line[4:] for line in lines if line.startswith("    "))
    image = picture()
    monkeypatch.chdir(tmp_path)
    code = example.replace("runs/quickstart/checkpoints/last.ckpt", "x.ckpt")
    (tmp_path / "x.ckpt").write_bytes(checkpoint.read_bytes())
    exec(compile(code, "example", "exec"), {"image": image})
    assert len(trimesh.load(tmp_path / "people.glb").geometry) == 1


def test_a_model_says_what_it_is(model: api.Model):
    assert (model.method, model.body, model.device) == ("hmr", "free", "cpu")
    assert not model.finds_people


def test_the_mesh_is_the_body_of_the_parameters_in_front_of_the_camera(model: api.Model):
    people = api.predict(model, picture(), BOXES, joint_set="coco17")
    assert len(people) == 2
    rotmat = axis_angle_to_rotmat(torch.from_numpy(people.pose))
    body = Body(rotmat[:, 0], rotmat[:, 1:], torch.from_numpy(people.betas), torch.zeros(2, 3))
    posed = free_body()(body).vertices.numpy() + people.transl_cam[:, None]
    np.testing.assert_allclose(people.vertices_cam, posed, atol=1e-4)
    assert (people.vertices_cam[..., 2] > 0).all()
    rays = people.joints_cam @ people.intrinsics_img.T
    np.testing.assert_allclose(people.keypoints_img, rays[..., :2] / rays[..., 2:], atol=0.05)
    assert people.joint_names == tuple(joints.names("coco17"))
    wrist = people.joint_names.index("spin_left_wrist")
    np.testing.assert_array_equal(people.joint("left_wrist"), people.joints_cam[:, wrist])
    np.testing.assert_array_equal(people.keypoint("left_wrist"), people.keypoints_img[:, wrist])
    np.testing.assert_array_equal(people.image_size, [100, 120])
    np.testing.assert_array_equal(people.box_img, BOXES)
    with pytest.raises(ValueError, match=r"no joint 'left_wing'.*spin_left_wrist"):
        people.joint("left_wing")
    with pytest.raises(ValueError, match="openpose_neck or spin_neck"):
        api.predict(model, picture(), joint_set="spin49").joint("neck")


def test_arrays_pil_pictures_and_paths_are_the_same_picture(model: api.Model, tmp_path: Path):
    image = picture()
    Image.fromarray(image).save(tmp_path / "x.png")
    shown = (image, Image.fromarray(image), tmp_path / "x.png", str(tmp_path / "x.png"))
    results = [api.predict(model, one) for one in shown]
    for people in results:
        np.testing.assert_array_equal(people.vertices_cam, results[0].vertices_cam)


def test_several_pictures_give_what_each_gives_alone(model: api.Model):
    images = [picture(), picture(80, 90, seed=1), picture(100, 120, seed=2)]
    boxes = [BOXES, None, np.zeros((0, 4))]
    focals = [300.0, None, 400.0]
    together = api.predict(model, images, boxes, focal_px=focals, batch_size=3)
    assert [len(people) for people in together] == [2, 1, 0]
    for people, image, box, focal_px in zip(together, images, boxes, focals, strict=True):
        alone = api.predict(model, image, box, focal_px=focal_px)
        for field in dataclasses.fields(api.People):
            if field.name != "_arrays":
                pair = getattr(people, field.name), getattr(alone, field.name)
                if isinstance(pair[0], np.ndarray):
                    np.testing.assert_allclose(*pair, atol=1e-3, err_msg=field.name)
    assert together[0].intrinsics_img[0, 0] == pytest.approx(300)
    assert together[2].vertices_cam.shape == (0, 6890, 3)
    assert api.predict(model, []) == []


def test_results_are_saved_and_drawn(model: api.Model, tmp_path: Path):
    image = picture()
    people = api.predict(model, image, BOXES)
    for name in ("x.npz", "x.glb", "x.obj"):
        people.save(tmp_path / name)
    with np.load(tmp_path / "x.npz") as saved:
        np.testing.assert_array_equal(saved["vertices_cam"], people.vertices_cam)
        assert saved["method"] == "hmr"
    scene = trimesh.load(tmp_path / "x.glb")
    np.testing.assert_allclose(
        scene.geometry["person_1"].vertices, people.vertices_cam[1] * [1, -1, -1], atol=1e-5
    )
    assert people.overlay(image).shape == image.shape
    nobody = api.predict(model, image, np.zeros((0, 4)))
    np.testing.assert_array_equal(nobody.overlay(image), image)
    nobody.save(tmp_path / "nobody.npz")
    with pytest.raises(ValueError, match="nobody"):
        nobody.save(tmp_path / "nobody.glb")


def test_methods_that_find_people_need_no_boxes(tmp_path: Path):
    save_checkpoint(tiny_module("sathmr_tiny"), tmp_path / "x.ckpt")
    model = api.load(tmp_path / "x.ckpt", device="cpu")
    assert model.finds_people
    everybody, nobody = (api.predict(model, [picture()], min_score=s)[0] for s in (0.0, 0.999))
    assert len(everybody) > len(nobody) == 0
    assert (np.diff(everybody.score) <= 0).all()
    with pytest.raises(ValueError, match="finds people itself"):
        api.predict(model, picture(), BOXES)


@pytest.mark.parametrize(
    ("image", "boxes", "message"),
    [
        (np.zeros((4, 4, 3)), None, "uint8"),
        (np.zeros((4, 4), np.uint8), None, r"\(H, W, 3\)"),
        (picture(), [[5, 5, 2, 9]], "x1 < x2"),
        (picture(), [[500, 5, 502, 9]], "outside"),
    ],
)
def test_pictures_and_boxes_that_cannot_be_are_refused(model, image, boxes, message):
    with pytest.raises(ValueError, match=message):
        api.predict(model, image, boxes)


def test_lists_that_do_not_fit_the_pictures_are_refused(model: api.Model):
    with pytest.raises(ValueError, match="boxes: 1 for 2 pictures"):
        api.predict(model, [picture(), picture()], [BOXES])
    with pytest.raises(FileNotFoundError, match="no such picture"):
        api.predict(model, "missing.jpg")
