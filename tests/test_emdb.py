"""EMDB in its official layout."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from hmrkit.body import joints
from hmrkit.body.gendered import GenderedBodies
from hmrkit.data.shards import ShardSet
from hmrkit.data.sources.emdb import Emdb
from hmrkit.data.sources.official import Skipped
from official_files import (
    convert,
    crop_to_img,
    cut_views,
    pose_bodies,
    project,
    read_all,
    write_bodies,
    write_photo,
)

NUM_FRAMES, SIZE_HW = 4, (192, 144)
INTRINSICS = np.array([[160.0, 0, 72], [0, 160.0, 96], [0, 0, 1]])
SEQUENCES = {  # participant/sequence: gender, emdb1, emdb2
    "P0/09_outdoor_walk": ("female", True, False),
    "P3/31_outdoor_workout": ("male", False, True),
    "P9/80_outdoor_walk_big_circle": ("neutral", False, False),
}
CODES = {"female": 1, "male": 0, "neutral": -1}


def content(name: str, bodies: GenderedBodies) -> dict:
    """What the pickle of a sequence holds; the projected joints are made from the posed world."""
    gender, is_first, is_second = SEQUENCES[name]
    rng = np.random.default_rng(len(name))
    cameras = np.tile(np.eye(4), (NUM_FRAMES, 1, 1))
    turns = Rotation.from_rotvec(rng.normal(0, 1, (NUM_FRAMES, 3))).as_matrix()
    cameras[:, :3, :3], cameras[:, :3, 3] = turns, rng.normal(0, 3, (NUM_FRAMES, 3))
    seen = np.array([0.1, 0.2, 5.0]) - cameras[:, :3, 3]
    smpl = {
        "poses_root": rng.normal(0, 1, (NUM_FRAMES, 3)),
        "poses_body": rng.normal(0, 0.3, (NUM_FRAMES, 69)),
        "trans": np.einsum("fji,fj->fi", turns, seen),
        "betas": rng.normal(size=10),
    }
    pose = np.concatenate([smpl["poses_root"], smpl["poses_body"]], axis=1)
    betas = np.repeat(smpl["betas"][None], NUM_FRAMES, axis=0)
    mesh = pose_bodies(bodies, pose.reshape(-1, 24, 3), betas, smpl["trans"], CODES[gender])
    points = np.einsum("fij,fkj->fki", turns, mesh.joints.numpy()) + cameras[:, None, :3, 3]
    pixels = project(points, INTRINSICS)
    boxes = np.concatenate([pixels.min(axis=1) - 5, pixels.max(axis=1) + 5], axis=1)
    boxes[2] = 0
    return {
        "gender": gender,
        "name": name.replace("/", "_"),
        "emdb1": is_first,
        "emdb2": is_second,
        "n_frames": NUM_FRAMES,
        "good_frames_mask": np.array([True, False, True, True]),
        "camera": {
            "intrinsics": INTRINSICS,
            "extrinsics": cameras,
            "width": SIZE_HW[1],
            "height": SIZE_HW[0],
        },
        "smpl": smpl,
        "kp2d": pixels,
        "bboxes": {"bboxes": boxes, "invalid_idxs": np.array([1, 2])},
    }


@pytest.fixture(scope="module")
def body_models(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_bodies(tmp_path_factory.mktemp("bodies"))


@pytest.fixture(scope="module")
def contents(body_models: str) -> dict[str, dict]:
    return {name: content(name, GenderedBodies(body_models)) for name in SEQUENCES}


@pytest.fixture(scope="module")
def download(contents: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("emdb")
    for name, values in contents.items():
        (folder / name).mkdir(parents=True)
        (folder / name / f"{values['name']}_data.pkl").write_bytes(pickle.dumps(values, 4))
        for frame in range(NUM_FRAMES):
            write_photo(folder / name / "images" / f"{frame:05d}.jpg", SIZE_HW, frame)
    return folder


@pytest.fixture(scope="module")
def shards(download: Path, body_models: str, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    made, left_out = convert(Emdb("all", body_models), download, tmp_path_factory.mktemp("shards"))
    assert left_out == {"not a good frame": 3, "the box is invalid": 3}
    return made


def test_good_frames_become_records(shards: ShardSet, download: Path, contents: dict):
    samples = read_all(shards)
    assert [s["key"] for s in samples[:2]] == [f"P0-09_outdoor_walk-{i:05d}" for i in (0, 3)]
    assert [s["gender"][0] for s in samples] == [1, 1, 0, 0, -1, -1]
    np.testing.assert_allclose([s["time_s"][0] for s in samples[:2]], [0, 3 / 30])
    name = "P0/09_outdoor_walk"
    assert shards.read_files(1)["0.jpg"] == (download / name / "images/00003.jpg").read_bytes()
    box = contents[name]["bboxes"]["bboxes"][3]
    np.testing.assert_allclose(samples[1]["box_img"][0], box, rtol=1e-6)


def test_the_bodies_project_onto_emdbs_own_2d_joints(shards: ShardSet, contents: dict):
    rows = joints.index(joints.names("smpl24"))
    expected = [values["kp2d"][frame] for values in contents.values() for frame in (0, 3)]
    for sample, pixels in zip(read_all(shards), expected, strict=True):
        np.testing.assert_allclose(sample["keypoints_img"][0, rows, :2], pixels, atol=5e-3)
        np.testing.assert_allclose(crop_to_img(cut_views(sample))[0, rows, :2], pixels, atol=1e-2)
        world = project(sample["keypoints_world"][0, :, :3], sample["intrinsics"][0])
        np.testing.assert_allclose(world, sample["keypoints_img"][0, :, :2], atol=1e-3)


def test_moving_the_parameters_is_moving_the_posed_body(
    shards: ShardSet, contents: dict, body_models: str
):
    bodies, values = GenderedBodies(body_models), contents["P3/31_outdoor_workout"]
    sample, smpl, camera = shards.read(3), values["smpl"], values["camera"]["extrinsics"][3]
    pose = np.concatenate([smpl["poses_root"][3:], smpl["poses_body"][3:]], axis=1)
    betas = smpl["betas"][None]
    world = pose_bodies(bodies, pose.reshape(1, 24, 3), betas, smpl["trans"][3:], 0)
    expected = world.vertices[0].numpy() @ camera[:3, :3].T + camera[:3, 3]
    labels = (sample[name] for name in ("pose", "betas", "transl"))
    found = pose_bodies(bodies, *labels, 0).vertices[0].numpy()
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize(
    ("subset", "first"),
    [("emdb1", "P0-09_outdoor_walk-00000"), ("emdb2", "P3-31_outdoor_workout-00000")],
)
def test_subsets_are_those_that_the_files_name(
    download: Path, body_models: str, subset: str, first: str
):
    records = Emdb(subset, body_models).open(download)
    assert len(records) == NUM_FRAMES
    assert records[0]["key"] == first


def test_boxes_off_the_image_are_skipped(contents: dict, body_models: str, tmp_path: Path):
    name = next(iter(contents))
    for box in ((5000, 10, 5100, 90), (np.nan, 10, 50, 90)):
        boxes = contents[name]["bboxes"]["bboxes"].copy()
        boxes[0] = box
        changed = {**contents[name], "bboxes": {"bboxes": boxes, "invalid_idxs": np.array([])}}
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "one_data.pkl").write_bytes(pickle.dumps(changed, 4))
        write_photo(tmp_path / name / "images/00000.jpg", SIZE_HW)
        with pytest.raises(Skipped, match="the box is not inside the image"):
            Emdb("all", body_models).open(tmp_path)[0]


def test_other_folders_are_answered_with_what_is_expected(
    download: Path, body_models: str, tmp_path: Path
):
    with pytest.raises(FileNotFoundError, match=r"holds 09_out.*; expected P\*/.*emdb\.ait"):
        Emdb("emdb1", body_models).open(download / "P0")
    (tmp_path / "P9").symlink_to(download / "P9")
    with pytest.raises(ValueError, match=r"none of the 1 sequences in .* is in emdb1"):
        Emdb("emdb1", body_models).open(tmp_path)
    with pytest.raises(ValueError, match="subset=emdb3: expected one of emdb1, emdb2, all"):
        Emdb("emdb3", body_models)
    other = tmp_path / "P1" / "10_x"
    other.mkdir(parents=True)
    (other / "P1_10_x_data.pkl").write_bytes(pickle.dumps({"gender": "male"}, 4))
    with pytest.raises(ValueError, match=r"P1_10_x_data\.pkl has \['gender'\]; expected \['emdb1'"):
        Emdb("emdb1", body_models).open(tmp_path)
