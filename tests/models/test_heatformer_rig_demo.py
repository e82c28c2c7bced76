"""Cameras and pictures of a rig as people have them, and the body that comes of them."""

import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from made_rig_folders import made_rig, orthogonal, write_rig

from hmrkit.body.free import free_body
from hmrkit.data.crops import Crops
from hmrkit.data.multiview import MultiView
from hmrkit.data.width_crops import WidthCrops
from hmrkit.geometry.rotations import axis_angle_to_rotmat
from hmrkit.infer.calibration import read_calibration
from hmrkit.infer.rig import _fit_box, _where_visible, predict_rig
from hmrkit.infer.rig_inputs import check_boxes, find_pictures
from hmrkit.types import Body, Prediction

K = [[500.0, 0, 50], [0, 510, 40], [0, 0, 1]]
R = cv2.Rodrigues(np.array([0.2, -0.5, 0.1]))[0]
T = np.array([0.1, 0.2, 3.0])
DIST = [0.1, -0.02, 0.001, 0.0, 0.0]


@pytest.fixture(scope="module")
def records():
    return made_rig(num_instants=2)


def write_opencv(path: Path, nodes: dict) -> None:
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    for name, value in nodes.items():
        if name == "names":
            storage.startWriteStruct("names", cv2.FileNode_SEQ)
            for one in value:
                storage.write("", one)
            storage.endWriteStruct()
        else:
            storage.write(name, np.asarray(value, np.float64))
    storage.release()


def write_calibration(folder: Path, form: str) -> Path:
    """One camera ``left`` in one of the forms that people have."""
    folder.mkdir()
    vector = cv2.Rodrigues(R)[0]
    inner = {"K_left": K, "dist_left": np.reshape(DIST, (1, 5))}
    if form == "json":
        entry = {"K": K, "R": R.tolist(), "t": (1000 * T).tolist(), "dist": DIST}
        (folder / "c.json").write_text(json.dumps({"unit": "mm", "cameras": {"left": entry}}))
        return folder / "c.json"
    if form == "one file":
        nodes = {"names": ["left"], **inner, "R_left": vector, "T_left": T[:, None]}
        write_opencv(folder / "c.yml", nodes)
        return folder / "c.yml"
    if form == "intri and extri":
        write_opencv(folder / "intri.yml", {"names": ["left"], **inner})
        outer = {"names": ["left"], "R_left": vector, "Rot_left": R, "T_left": T[:, None]}
        write_opencv(folder / "extri.yml", outer)
        return folder
    nodes = {"camera_matrix": K, "distortion_coefficients": [DIST], "R": R, "T": T[:, None]}
    write_opencv(folder / "left.xml", nodes)
    return folder


@pytest.mark.parametrize("form", ["json", "one file", "intri and extri", "a file per camera"])
def test_every_form_of_calibration_gives_the_same_camera(tmp_path, form):
    camera = read_calibration(write_calibration(tmp_path / "c", form))["left"]
    np.testing.assert_allclose(camera.intrinsics, K)
    np.testing.assert_allclose(camera.world_to_camera[:3, :3], R, atol=1e-9)
    np.testing.assert_allclose(camera.world_to_camera[:3, 3], T, atol=1e-12)
    np.testing.assert_allclose(camera.distortion, DIST)


def test_the_unit_that_is_given_wins(tmp_path):
    path = write_calibration(tmp_path / "c", "one file")
    camera = read_calibration(path, "mm")["left"]
    np.testing.assert_allclose(camera.world_to_camera[:3, 3], T / 1000)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"K": K, "R": R.tolist()}, "camera 'a': no t"),
        ({"K": K, "R": [[1, 0, 0]] * 3, "t": [0, 0, 1]}, "R is no rotation"),
        ({"K": K, "R": R.tolist(), "t": [0, 0]}, "t has 3 entries"),
        ({"K": K, "R": R.tolist(), "t": [0, 0, None]}, "not finite|not numbers"),
        ({"K": K, "R": R.tolist(), "t": [0, 0, 1], "focal": 3}, "unknown \\['focal'\\]"),
    ],
)
def test_a_camera_that_is_wrong_is_named(tmp_path, entry, message):
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"cameras": {"a": entry}}))
    with pytest.raises(ValueError, match=message):
        read_calibration(path)


def test_files_that_are_no_calibration_are_refused(tmp_path):
    for name, content in (("c.json", "{"), ("d.json", "[]"), ("c.yml", "a: 1\n")):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=name):
            read_calibration(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_calibration(tmp_path / "none.json")


def test_a_distorted_picture_is_straightened(tmp_path):
    camera = read_calibration(write_calibration(tmp_path / "c", "json"))["left"]
    image = np.random.default_rng(0).integers(0, 255, (80, 100, 3), np.uint8)
    assert not np.array_equal(camera.undistort(image), image)
    plain = type(camera)(camera.intrinsics, camera.world_to_camera, np.zeros(5))
    assert plain.undistort(image) is image


def write_pictures(folder: Path, names: list[str], size_px: int = 32) -> None:
    folder.mkdir(parents=True)
    for i, name in enumerate(names):
        cv2.imwrite(str(folder / name), np.full((size_px, size_px, 3), 40 * i, np.uint8))


def write_video(path: Path, num_frames: int) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (32, 32))
    for i in range(num_frames):
        writer.write(np.full((32, 32, 3), 40 * i, np.uint8))
    writer.release()


def test_pictures_of_one_name_are_one_instant_and_may_be_missing(tmp_path):
    write_pictures(tmp_path / "in" / "a", ["1.png", "2.png", "3.png"])
    write_pictures(tmp_path / "in" / "b", ["2.png", "3.png"])
    found = find_pictures(tmp_path / "in", ["a", "b", "c"], tmp_path / "out")
    assert found.instants == ["1", "2", "3"]
    assert found.read("b", "1") is None
    assert found.read("b", "2").max() == 0
    assert found.read("a", "2").max() == 40
    assert find_pictures(tmp_path / "in", ["a"], tmp_path / "out", 2).instants == ["1", "3"]


def test_a_video_per_camera_is_read_frame_by_frame(tmp_path):
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "a.avi", 5)
    write_video(tmp_path / "in" / "b.avi", 4)
    found = find_pictures(tmp_path / "in", ["a", "b"], tmp_path / "out", 2)
    assert found.instants == ["000000", "000002", "000004"]
    for instant in found.instants:
        assert abs(found.read("a", instant).mean() - 40 * int(instant)) < 4
    assert found.read("b", "000004") is None


def test_pictures_without_common_names_go_together_in_order_if_they_are_as_many(tmp_path):
    write_pictures(tmp_path / "in" / "a", ["a1.png", "a2.png"])
    write_pictures(tmp_path / "in" / "b", ["b1.png", "b2.png"])
    found = find_pictures(tmp_path / "in", ["a", "b"], tmp_path / "out")
    assert found.read("b", found.instants[1]).max() == 40
    cv2.imwrite(str(tmp_path / "in" / "b" / "b3.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="name pictures of the same instant alike"):
        find_pictures(tmp_path / "in", ["a", "b"], tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="named after one of the cameras"):
        find_pictures(tmp_path / "in", ["other"], tmp_path / "out")


def test_boxes_are_by_camera_and_person(tmp_path):
    box = [1, 2, 30, 40]
    boxes = check_boxes({"a": box, "b": {"0": [box, None]}}, ["a", "b"], ["0", "1"])
    assert boxes["a"]["1"].tolist() == [box]
    assert np.isnan(boxes["b"]["0"][1]).all()
    for wrong in ({"c": box}, {"a": [1, 2, 3]}, {"a": [3, 2, 1, 4]}, {"a": "all"}, [box]):
        with pytest.raises(ValueError, match="boxes of"):
            check_boxes(wrong, ["a", "b"], ["0"])


class Oracle(torch.nn.Module):
    """Says where the people are, and keeps what it was shown."""

    def __init__(self, record):
        super().__init__()
        self.body, self.net, self.device = free_body(), torch.nn.Identity(), torch.device("cpu")
        rotmat = axis_angle_to_rotmat(torch.from_numpy(record["pose"]))
        labels = (torch.from_numpy(record[name]) for name in ("betas", "transl"))
        self.labels = Body(rotmat[:, 0], rotmat[:, 1:], *labels)

    def transfer_batch_to_device(self, batch, device, index):
        return batch

    def predict(self, batch):
        self.batch = batch
        views = len(batch["image_of_view"])
        nothing = torch.zeros(views, 3)
        return Prediction(
            self.labels, nothing, torch.eye(3).expand(views, 3, 3), mesh=self.body(self.labels)
        )


def test_what_is_said_of_the_world_is_seen_where_the_pictures_show_it(records):
    record = records[0]
    oracle = Oracle(record)
    cut = MultiView(Crops((64, 64)), keypoint_crops=WidthCrops((96, 96)))
    boxes = record["box_img"][:, None].astype(float)
    boxes[3] = np.nan  # a camera that does not see the person
    result = predict_rig(
        oracle, cut, record["images"], record["intrinsics"], record["world_to_camera"], boxes
    )
    assert oracle.batch["image_of_view"].tolist() == [0, 1, 2]
    assert oracle.batch["image"].abs().max() < 4  # normalised
    points = result["vertices_world"][0]
    for view in range(3):
        matrix, camera = record["world_to_camera"][view], record["intrinsics"][view]
        rays = (points @ matrix[:3, :3].T + matrix[:3, 3]) @ camera.T
        seen = rays[:, :2] / rays[:, 2:]
        np.testing.assert_allclose(
            [*seen.min(axis=0), *seen.max(axis=0)], record["box_img"][view], atol=4
        )  # the box is that of the dressed person
    with pytest.raises(ValueError, match="person 0 is seen by no camera"):
        predict_rig(
            oracle, cut, record["images"], record["intrinsics"], record["world_to_camera"],
            boxes * np.nan,
        )  # fmt: skip


def test_boxes_are_made_square_where_only_their_width_counts():
    box = np.array([10.0, 0, 20, 40])
    plain = SimpleNamespace(keypoint_crops=Crops((8, 8)))
    assert _fit_box(plain, box) is box
    wide = _fit_box(SimpleNamespace(keypoint_crops=WidthCrops((8, 8))), box)
    np.testing.assert_allclose(wide, [-5, 0, 35, 40])


def test_a_second_look_outside_the_picture_is_not_taken():
    first = np.array([[[0.0, 0, 100, 100]], [[0, 0, 100, 100]]])
    second = np.array([[[10.0, 10, 50, 90]], [[95, 10, 150, 90]]])
    kept = _where_visible(second, first, [(100, 100), (100, 100)])
    np.testing.assert_array_equal(kept, [second[0], first[1]])


def test_the_made_rig_is_calibrated(records, tmp_path):
    write_rig(tmp_path / "rig", records)
    cameras = read_calibration(tmp_path / "rig" / "cameras.json")
    for view, camera in enumerate(cameras.values()):
        matrix = records[0]["world_to_camera"][view]
        np.testing.assert_allclose(camera.world_to_camera, matrix, atol=1e-5)
        np.testing.assert_allclose(orthogonal(matrix[:3, :3]), matrix[:3, :3], atol=1e-5)
