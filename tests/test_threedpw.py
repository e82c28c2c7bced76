"""3DPW in its official layout: pickles of Python 2, and every frame as a picture."""

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from hmrkit.body import joints
from hmrkit.body.gendered import GenderedBodies
from hmrkit.data.shards import ShardSet
from hmrkit.data.sources.official import Skipped
from hmrkit.data.sources.threedpw import ThreeDpw
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
from test_body_files import python2_dump

NAME, NUM_FRAMES, SIZE_HW = "downtown_bar_00", 4, (192, 108)  # portrait, as some are
INTRINSICS = np.array([[150.0, 0, 54], [0, 151.0, 96], [0, 0, 1]])


def sequence() -> dict:
    """Two people in front of a moving camera; the second walks behind it in the last frame."""
    rng = np.random.default_rng(12)
    poses = rng.normal(0, 0.3, (2, NUM_FRAMES, 72))
    poses[..., :3] = rng.normal(0, 1.5, (2, NUM_FRAMES, 3))
    cameras = np.tile(np.eye(4), (NUM_FRAMES, 1, 1))
    turns = Rotation.from_rotvec(rng.normal(0, 0.8, (NUM_FRAMES, 3))).as_matrix()
    cameras[:, :3, :3], cameras[:, :3, 3] = turns, rng.normal(0, 2, (NUM_FRAMES, 3))
    wanted_cam = np.array([[-0.3, 0.1, 5.0], [0.5, 0.0, 6.0]])  # origins of the bodies
    trans = np.einsum("fji,pfj->pfi", turns, wanted_cam[:, None] - cameras[:, :3, 3])
    away = np.array([0.0, 0.0, -6.0]) - cameras[3, :3, 3]
    trans[1, 3] = turns[3].T @ away
    detected = np.concatenate(
        [rng.uniform(20, 90, (2, NUM_FRAMES, 2, 18)), rng.uniform(0.1, 1, (2, NUM_FRAMES, 1, 18))],
        axis=2,
    )
    detected[..., 10] = 0  # the right ankle is never found
    detected[1, 0] = 0
    valid = np.ones((2, NUM_FRAMES), np.int64)
    valid[:, 1] = 0
    valid[1, 2] = 0
    return {
        "sequence": NAME,
        "poses": list(poses),
        "trans": list(trans),
        "betas": [rng.normal(size=10), rng.normal(size=300)],
        "genders": ["m", "f"],
        "poses2d": list(detected),
        "campose_valid": list(valid),
        "cam_poses": cameras,
        "cam_intrinsics": INTRINSICS,
        "img_frame_ids": np.arange(NUM_FRAMES),
        "jointPositions": [np.zeros((NUM_FRAMES, 72))] * 2,
        "texture_maps": [],
        "v_template_clothed": [np.zeros((3, 3))] * 2,
    }


CONTENT = sequence()


@pytest.fixture(scope="module")
def download(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("3dpw")
    path = folder / "sequenceFiles" / "test" / f"{NAME}.pkl"
    path.parent.mkdir(parents=True)
    path.write_bytes(python2_dump(CONTENT, 2))
    for frame in range(NUM_FRAMES):
        write_photo(folder / "imageFiles" / NAME / f"image_{frame:05d}.jpg", SIZE_HW, frame)
    return folder


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_bodies(tmp_path_factory.mktemp("bodies"))


@pytest.fixture(scope="module")
def shards(download: Path, bodies: str, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Boxes and 2D joints of the labelled bodies."""
    converter = ThreeDpw("test", "projected", "projected", bodies)
    made, left_out = convert(converter, download, tmp_path_factory.mktemp("shards"))
    assert left_out == {
        "nobody has a valid camera pose": 1,
        "somebody in a frame: no valid camera pose": 1,
        "somebody in a frame: not detected or outside the image": 1,
    }
    return made


def test_frames_with_a_valid_camera_become_records(shards: ShardSet, download: Path):
    samples = read_all(shards)
    assert [s["key"] for s in samples] == [f"{NAME}-image_0000{i}" for i in (0, 2, 3)]
    assert [s["person_id"].tolist() for s in samples] == [[0, 1], [0], [0]]
    np.testing.assert_allclose([s["time_s"][0] for s in samples], [0, 2 / 30, 3 / 30])
    assert samples[0]["gender"].tolist() == [0, 1]
    stored = shards.read_files(1)["0.jpg"]
    assert stored == (download / "imageFiles" / NAME / "image_00002.jpg").read_bytes()
    assert samples[0]["images"][0].shape == (*SIZE_HW, 3)


def test_moving_the_parameters_is_moving_the_posed_body(shards: ShardSet, bodies: str):
    sample = shards.read(0)
    camera = CONTENT["cam_poses"][0]
    for person, gender in enumerate((0, 1)):
        one = slice(person, person + 1)
        betas = CONTENT["betas"][person][:10]
        pose = CONTENT["poses"][person][0].reshape(1, 24, 3)
        transl = CONTENT["trans"][person][:1]
        world = pose_bodies(GenderedBodies(bodies), pose, betas[None], transl, gender)
        expected = world.vertices[0].numpy() @ camera[:3, :3].T + camera[:3, 3]
        labels = sample["pose"][one], sample["betas"][one], sample["transl"][one]
        found = pose_bodies(GenderedBodies(bodies), *labels, gender)
        np.testing.assert_allclose(found.vertices[0].numpy(), expected, atol=2e-5)
        other = pose_bodies(GenderedBodies(bodies), *labels, 1 - gender)
        assert np.abs(other.vertices[0].numpy() - expected).max() > 0.1
        pelvis = sample["keypoints_world"][person, joints.index("pelvis"), :3]
        np.testing.assert_allclose(pelvis, found.joints[0, 0].numpy(), atol=1e-5)


def test_labels_in_3d_project_onto_those_in_2d(shards: ShardSet):
    for sample in read_all(shards):
        pixels = project(sample["keypoints_world"][..., :3], sample["intrinsics"][0])
        np.testing.assert_allclose(sample["keypoints_img"][..., :2], pixels, atol=1e-3)
        assert (sample["keypoints_img"][..., 2] == 1).all()
        np.testing.assert_array_equal(sample["world_to_camera"], np.eye(4)[None])
        body = sample["keypoints_img"][:, joints.index(joints.names("smpl45")), :2]
        tight = np.concatenate([body.min(axis=1), body.max(axis=1)], axis=1)
        np.testing.assert_array_equal(sample["box_img"], tight)
        batch = cut_views(sample)
        assert batch["has_transl"].all()
        np.testing.assert_allclose(crop_to_img(batch)[..., :2], pixels, atol=1e-2)


def test_detected_joints_span_spins_box(download: Path, bodies: str, tmp_path: Path):
    converter = ThreeDpw("test", "detected", "detected", bodies)
    shards, left_out = convert(converter, download, tmp_path)
    assert left_out["somebody in a frame: not detected or outside the image"] == 1  # frame 0
    sample = shards.read(0)
    assert sample["person_id"].tolist() == [0]
    points = CONTENT["poses2d"][0][0]  # (3, 18)
    found = points[:2, points[2] > 0]
    box = [*found.min(axis=1), *found.max(axis=1)]
    np.testing.assert_allclose(sample["box_img"][0], box, rtol=1e-6)
    keypoints = sample["keypoints_img"][0]
    wrist = keypoints[joints.index("openpose_left_wrist")]
    np.testing.assert_allclose(wrist, points[:, 7], rtol=1e-6)
    absent = ("openpose_right_ankle", "openpose_left_heel", "openpose_pelvis")
    assert (keypoints[joints.index(absent), 2] == 0).all()
    assert keypoints[joints.index("spin_left_wrist"), 2] == 1


def test_evaluation_takes_gendered_joints(shards: ShardSet, bodies: str):
    sample = shards.read(0)
    batch = cut_views(sample)
    rows = joints.index(["h36m_pelvis", *joints.names("h36m14")])
    labels = (sample[name][1:] for name in ("pose", "betas", "transl"))
    mesh = pose_bodies(GenderedBodies(bodies), *labels, 1)
    model = GenderedBodies(bodies)[1]
    expected = model.joints_from_mesh(mesh, "all")[0, rows].numpy()
    np.testing.assert_allclose(batch["keypoints_world"][1, rows, :3], expected, atol=1e-5)


def test_a_missing_picture_is_skipped_by_name(download: Path, bodies: str, tmp_path: Path):
    folder = tmp_path / "3dpw"
    folder.mkdir()
    (folder / "sequenceFiles").symlink_to(download / "sequenceFiles")
    (folder / "imageFiles").mkdir()
    with pytest.raises(Skipped) as skipped:
        ThreeDpw("test", "projected", "projected", bodies).open(folder)[0]
    assert skipped.value.reason == "image file is missing"


def test_other_folders_are_answered_with_what_is_expected(
    download: Path, bodies: str, tmp_path: Path
):
    converter = ThreeDpw("train", "projected", "projected", bodies)
    with pytest.raises(
        FileNotFoundError,
        match=r"holds imageFiles/, sequ.*; expected .*/train/.*virtualhumans",
    ):
        converter.open(download)
    with pytest.raises(FileNotFoundError, match="no male SMPL body"):
        ThreeDpw("test", "projected", "projected", str(tmp_path)).open(download)
    with pytest.raises(ValueError, match=r"box=tight.*expected detected or projected"):
        ThreeDpw("test", "tight", "projected", bodies)
    damaged = tmp_path / "sequenceFiles" / "train"
    damaged.mkdir(parents=True)
    (tmp_path / "imageFiles").mkdir()
    (damaged / "x.pkl").write_bytes(python2_dump({"poses": []}, 2))
    with pytest.raises(ValueError, match=r"x\.pkl has \['poses'\]; expected \['trans', 'betas'"):
        converter.open(tmp_path)
