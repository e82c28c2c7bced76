import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from hmrkit import checkpoints, configs
from hmrkit.body.free import free_body
from hmrkit.data.collate import collate, normalize_image
from hmrkit.data.crops import Crops
from hmrkit.geometry.cameras import crop_intrinsics, project, weak_perspective_to_transl
from hmrkit.geometry.rotations import axis_angle_to_rotmat
from hmrkit.infer import exports, predict, run
from hmrkit.infer.loading import load_for_pictures
from hmrkit.render.draw import overlay
from hmrkit.types import Body, Prediction
from made_networks import tiny_module


def made_picture(height=40, width=60):
    """Smooth, and different in each corner."""
    y, x = np.mgrid[:height, :width]
    return np.stack([4 * x, 6 * y, 255 - 2 * x - 3 * y], axis=-1).clip(0, 255).astype(np.uint8)


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(made_picture()).save(path)
    return path


# --- prediction -----------------------------------------------------------------------------------


class MadeModule(torch.nn.Module):
    """One pose for everybody, in a camera that looks at the middle of the crop."""

    device = torch.device("cpu")

    def __init__(self, focal_px=5000.0):
        super().__init__()
        self.body = free_body()
        self.focal_px = focal_px
        self.batch_sizes = []

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return batch

    def predict(self, batch):
        assert batch["image"].dtype == torch.float32
        num, (height, width) = len(batch["image"]), batch["image"].shape[-2:]
        self.batch_sizes.append(num)
        mean = self.body.mean_body(num)
        random = torch.Generator().manual_seed(0)
        bend = axis_angle_to_rotmat(0.4 * torch.randn(1, 24, 3, generator=random))
        body = Body(
            mean.global_orient @ bend[:, 0],
            mean.body_pose @ bend[:, 1:],
            torch.randn(1, 10, generator=random).expand(num, 10),
            torch.tensor([[0.1, -0.2, 0.05]]).expand(num, 3),
        )
        cam = torch.tensor([[0.9, 0.05, 0.2]]).expand(num, 3)
        prediction = Prediction(
            body,
            weak_perspective_to_transl(cam, self.focal_px, height),
            crop_intrinsics(self.focal_px, (height, width)).expand(num, 3, 3),
        )
        return replace(prediction, mesh=self.body(body))


@pytest.fixture(scope="module")
def module():
    return MadeModule()


BOXES = np.array([[10, 20, 110, 230], [200, 30, 330, 250], [250, 100, 390, 290]], np.float32)


@pytest.fixture(scope="module")
def people(module):
    return predict.predict_people(module, Crops([64, 64]), made_picture(300, 400), BOXES)


def test_arrays_are_those_of_the_documented_schema(people):
    named = {"image", "method", "checkpoint"}
    assert people.keys() == exports.PEOPLE_SCHEMA.keys() - named
    sizes = {"N": 3, "J": 24, "K": 24, "V": 6890, "F": 13776}
    for key, value in people.items():
        shape, _ = exports.PEOPLE_SCHEMA[key]
        names = [n.strip() for n in shape.strip("()").split(",") if n.strip()]
        assert value.shape == tuple(sizes.get(n) or int(n) for n in names), key


def test_pose_shape_and_translation_give_the_vertices(people, module):
    rotations = axis_angle_to_rotmat(torch.from_numpy(people["pose"]))
    betas, transl = torch.from_numpy(people["betas"]), torch.from_numpy(people["transl_cam"])
    mesh = module.body(Body(rotations[:, 0], rotations[:, 1:], betas, torch.zeros(3, 3)))
    vertices = mesh.vertices + transl[:, None]
    np.testing.assert_allclose(people["vertices_cam"], vertices.numpy(), atol=2e-5)
    np.testing.assert_allclose(people["joints_cam"], mesh.joints + transl[:, None], atol=2e-5)


def test_keypoints_are_the_joints_seen_by_the_exported_camera(people):
    camera = torch.from_numpy(people["intrinsics_img"])
    seen = project(torch.from_numpy(people["joints_cam"]).double(), camera.double())
    np.testing.assert_allclose(people["keypoints_img"], seen.numpy(), atol=0.01)
    assert people["joint_names"][0] == "pelvis"


def test_one_person_is_reprojected_exactly(module):
    alone = predict.predict_people(module, Crops([64, 64]), made_picture(300, 400), BOXES[1:2])
    np.testing.assert_array_equal(alone["intrinsics_img"], alone["intrinsics_own_img"][0])
    np.testing.assert_allclose(alone["transl_cam"], alone["transl_own_cam"], atol=1e-6)
    assert alone["camera_shift_px"].max() < 1e-6


def test_several_people_share_a_camera_with_pelvis_exact_and_the_rest_within_half_a_pixel(
    people, module
):
    assert people["camera_shift_px"].max() < 0.5
    own = [
        predict.predict_people(module, Crops([64, 64]), made_picture(300, 400), box[None])
        for box in BOXES
    ]
    assert len({float(o["intrinsics_img"][0, 0]) for o in own}) == 3  # three different cameras
    for i, alone in enumerate(own):
        shared, exact = people["keypoints_img"][i], alone["keypoints_img"][0]
        np.testing.assert_allclose(shared[0], exact[0], atol=1e-3)
        np.testing.assert_allclose(shared, exact, atol=0.5)
    # The picture's camera: square pixels, looking at its middle.
    camera = people["intrinsics_img"]
    np.testing.assert_allclose(camera[:2, 2], [199.5, 149.5])
    assert camera[0, 0] == camera[1, 1]


def test_smaller_boxes_stand_further_away(people):
    heights = BOXES[:, 3] - BOXES[:, 1]
    depths = people["joints_cam"][:, 0, 2]
    np.testing.assert_allclose(depths / depths[0], heights[0] / heights, rtol=0.01)


def test_who_is_in_front_hides_who_is_behind(module):
    boxes = np.array([[150, 90, 250, 210], [100, 30, 300, 270]], np.float32)  # the second is larger
    image = made_picture(300, 400)
    people = predict.predict_people(module, Crops([64, 64]), image, boxes)
    assert people["joints_cam"][0, 0, 2] > people["joints_cam"][1, 0, 2]
    x, y = people["keypoints_img"][:, 0].mean(axis=0).round().astype(int)  # where both pelves are
    for order in ([0, 1], [1, 0]):
        colors = np.array([[0.1, 0.2, 1.0], [1.0, 0.2, 0.1]])[order]
        vertices = list(people["vertices_cam"][order])
        drawn = overlay(image, vertices, people["faces"], people["intrinsics_img"], colors=colors)
        assert drawn[y, x, 0] > drawn[y, x, 2] + 50


@pytest.mark.parametrize("name", ["hmr", "hmr2", "tokenhmr", "pymaf", "cliff"])
def test_every_method_of_crops_is_seen_where_it_predicts(name, tmp_path):
    checkpoints.save_checkpoint(tiny_module(f"{name}_tiny"), tmp_path / "last.ckpt")
    module, cut = load_for_pictures(tmp_path / "last.ckpt", "cpu")
    image, boxes_img = made_picture(300, 400), BOXES[:2]
    together = predict.predict_people(module, cut, image, boxes_img)
    for i, box in enumerate(boxes_img):
        alone = predict.predict_people(module, cut, image, box[None])
        assert alone["camera_shift_px"] < 0.01
        batch = collate([cut(predict.make_sample(image, box[None], None), 0, None)])
        found = module.predict({**batch, "image": normalize_image(batch["image"])})
        in_crop = project(found.mesh.joints + found.transl_cam[:, None], found.intrinsics_crop)[0]
        to_img = batch["crop_to_img"][0]
        seen = (in_crop @ to_img[:, :2].T + to_img[:, 2]).detach().numpy()
        np.testing.assert_allclose(alone["keypoints_img"][0], seen, atol=0.05)
        moved = np.linalg.norm(together["keypoints_img"][i] - seen, axis=1)
        assert moved[0] < 0.05  # the pelvis
        assert (moved < together["camera_shift_px"][i] + 0.05).all()
    if name == "cliff":  # predicts before the picture's camera, also before a given one
        assert together["camera_shift_px"].max() < 0.01
        given = predict.predict_people(module, cut, image, boxes_img, focal_px=700.0)
        assert given["camera_shift_px"].max() < 0.01


def test_a_known_focal_length_is_used_and_keeps_sizes(module):
    crops, image = Crops([64, 64]), made_picture(300, 400)
    far = predict.predict_people(module, crops, image, BOXES)
    near = predict.predict_people(module, crops, image, BOXES, focal_px=900.0)
    assert near["intrinsics_img"][0, 0] == 900
    ratio = near["joints_cam"][:, 0, 2] / far["joints_cam"][:, 0, 2]
    np.testing.assert_allclose(ratio, 900 / far["intrinsics_img"][0, 0], rtol=1e-4)
    np.testing.assert_allclose(near["keypoints_img"][:, 0], far["keypoints_img"][:, 0], atol=1e-2)


def test_people_of_a_picture_are_predicted_in_batches_with_the_same_result(module):
    image = made_picture(300, 400)
    module.batch_sizes.clear()
    boxes_img = np.repeat(BOXES[:1], 5, axis=0)
    in_parts = predict.predict_people(module, Crops([64, 64]), image, boxes_img, batch_size=2)
    assert module.batch_sizes == [2, 2, 1]
    np.testing.assert_allclose(in_parts["vertices_cam"][0], in_parts["vertices_cam"][4], atol=1e-5)


def test_turns_take_the_line_of_sight_to_that_of_the_shared_camera():
    direction = torch.tensor([[0.3, -0.2, 1.0], [0, 0, 1], [-2, 1, 0.5]]).double()
    turn = predict._turn_from_z(direction)
    expected = torch.nn.functional.normalize(direction, dim=-1)
    np.testing.assert_allclose(turn[..., 2], expected, atol=1e-12)
    np.testing.assert_allclose(turn @ turn.mT, np.tile(np.eye(3), (3, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(torch.linalg.det(turn), np.ones(3), atol=1e-12)


# --- the command ----------------------------------------------------------------------------------


def made_checkpoint(path):
    net = {
        "_target_": "hmrkit.models.hmr.model.HMR",
        "backbone": {
            "_target_": "hmrkit.layers.convnet.ConvNet",
            "input_size": [64, 64],
            "width": 4,
            "num_features": 32,
        },
        "input_size": [64, 64],
        "num_hidden": 32,
    }
    config = {
        "model": {
            "net": net,
            "loss": {"_target_": "hmrkit.models.hmr.loss.HMRLoss"},
            "optimizer": None,
            "scheduler": None,
        },
        "body": {"_target_": "hmrkit.body.free.free_body"},
        "data": {
            "cut": {
                "_target_": "hmrkit.data.crops.Crops",
                "input_size": [64, 64],
                "box_joints": "smpl24",
            }
        },
    }
    torch.manual_seed(0)
    checkpoints.save_checkpoint(checkpoints.build_module(config), path)
    return path


def test_demo_writes_every_file_and_lists_what_it_skipped(program, tmp_path):
    made_checkpoint(tmp_path / "last.ckpt")
    touch(tmp_path / "in" / "a.jpg")
    touch(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "broken.jpg").write_bytes(b"no picture")
    overrides = [
        "checkpoint=last.ckpt",
        "input=in",
        "output=out",
        "boxes=[[5,0,30,38],[20,5,55,39]]",
    ]
    result = program("demo", *overrides, "formats=[overlay,npz,glb,obj]", "joint_set=coco17")
    assert result.returncode == 0, result.stderr
    assert "broken.jpg cannot be read" in result.stdout + result.stderr
    assert "2 of 3 pictures done" in result.stdout + result.stderr
    assert "whole picture" not in result.stdout + result.stderr
    stems = {path.stem for path in (tmp_path / "out").glob("*.npz")}
    assert stems == {"a_jpg", "a_png"}
    for stem in stems:
        with np.load(tmp_path / "out" / f"{stem}.npz", allow_pickle=False) as file:
            assert set(file) == set(exports.PEOPLE_SCHEMA)
            assert file["pose"].shape == (2, 24, 3)
            assert file["joint_names"][0] == "spin_nose"
            vertices = file["vertices_cam"]
            assert str(file["image"]) == stem.replace("_", ".")
        scene = trimesh.load(tmp_path / "out" / f"{stem}.glb", process=False)
        glb = scene.geometry["person_1"].vertices
        np.testing.assert_allclose(glb, vertices[1] * [1, -1, -1], atol=1e-5)
        overlay = cv2.imread(str(tmp_path / "out" / f"{stem}_overlay.jpg"))
        assert overlay.shape == (40, 60, 3)
        assert np.abs(overlay.astype(int) - made_picture()[..., ::-1]).max() > 60
        assert (tmp_path / "out" / f"{stem}.obj").is_file()


def made_folder(tmp_path):
    (tmp_path / "last.ckpt").write_bytes(b"not looked at")
    touch(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    return tmp_path


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["input=a.jpg", "checkpoint=no.ckpt"], r"checkpoint=no\.ckpt: no such file"),
        (["input=no.jpg"], r"input=no\.jpg: no such file or folder"),
        (["input=b.jpg"], r"no picture can be opened:\n.*b\.jpg"),
        (["input=a.jpg", "boxes=[[100,0,200,20]]"], r"lies outside a\.jpg"),
        (
            ["input=a.jpg", "formats=[fbx]"],
            r"formats=\['fbx'\]: choose from overlay, side, npz, glb, obj",
        ),
        (["input=a.jpg", "joint_set=smpl99"], "smpl99"),
        (["input=a.jpg", "focal_px=-2"], "focal_px=-2: give a positive number"),
        ([], "input missing"),
    ],
)
def test_wrong_options_are_answered_before_anything_heavy(
    tmp_path, monkeypatch, overrides, message
):
    monkeypatch.chdir(made_folder(tmp_path))
    config = configs.load_config("demo", ["checkpoint=last.ckpt", "run_dir=out", *overrides])
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run.make_plan(config)


def test_a_wrong_input_ends_the_command_with_one_message_and_without_torch(tmp_path):
    program = (
        "import sys\nfrom hmrkit.demo import main\n"
        "try:\n    main()\nfinally:\n    print('torch' in sys.modules)"
    )
    folder = made_folder(tmp_path)
    command = [sys.executable, "-c", program, "checkpoint=last.ckpt", "input=no.jpg"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert result.returncode != 0
    assert "input=no.jpg: no such file" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout.strip().endswith("False")


def test_a_picture_without_a_box_is_listed(tmp_path, monkeypatch):
    monkeypatch.chdir(made_folder(tmp_path))
    touch(tmp_path / "c.jpg")
    Path("boxes.json").write_text(json.dumps({"a.jpg": [[0, 0, 30, 30]]}))
    overrides = ["checkpoint=last.ckpt", "run_dir=out", "input=[a.jpg,b.jpg,c.jpg]"]
    plan = run.make_plan(configs.load_config("demo", [*overrides, "boxes=boxes.json"]))
    assert plan.names == ["a"]
    assert set(plan.skipped) == {"b", "c"}
    assert "no box is given" in plan.skipped["c"]
