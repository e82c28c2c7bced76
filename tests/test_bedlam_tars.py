"""TokenHMR's tars of BEDLAM: labels of the neutral body, close-ups turned upright."""

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from hmrkit.body import joints
from hmrkit.body.gendered import GenderedBodies
from hmrkit.data.record import decode_image
from hmrkit.data.shards import ShardSet
from hmrkit.data.sources.bedlam_tars import BedlamTars
from hmrkit.data.sources.official import Skipped
from made_tars import HEIGHT, WIDTH, photo, write_tar
from official_files import convert, pose_bodies, project, read_all, write_bodies
from parity import fill

INTRINSICS = np.array([[80.0, 0, 60], [0, 80, 45], [0, 0, 1]])


@pytest.fixture(scope="module")
def body_models(tmp_path_factory):
    folder = write_bodies(tmp_path_factory.mktemp("body_models"))
    regressor = fill.joint_regressor("SMPL_to_J19", 19)
    (Path(folder) / "SMPL_to_J19.pkl").write_bytes(pickle.dumps(regressor))
    return folder


def bedlam(body_models, **options):
    options = {"joint_regressor": "SMPL_to_J19.pkl", "tars": ["**/bedlam/*/*.tar"], **options}
    return BedlamTars(body_models, **options)


def person(seed=0, **changes):
    rng = np.random.default_rng(seed)
    cam_ext = np.eye(4)
    cam_ext[:3, 3] = [0.1, -0.2, 4]
    made = {
        "gender": "male",
        "gtkps": rng.uniform(0, 90, (127, 2)),
        "center": rng.uniform(40, 50, 2),
        "scale": 0.36,  # 72 px
        "pose_cam": rng.normal(0, 0.2, 165),
        "shape": rng.normal(0, 0.5, 11),
        "trans_cam": rng.normal(0, 0.2, 3),
        "cam_ext": cam_ext,
        "cam_int": INTRINSICS.copy(),
    }
    return {**made, **changes}


def one_record(people, tmp_path, body_models, key="seq_000000_0000", **options):
    write_tar(tmp_path / "bedlam" / "scene" / "000000.tar", [(key, people)])
    shards, _ = convert(bedlam(body_models, **options), tmp_path, tmp_path / "shards")
    return read_all(shards)[0]


def test_labels_are_made_of_the_neutral_body_whatever_the_gender(tmp_path, body_models):
    people = [person(0), person(1, gender="female")]
    sample = one_record(people, tmp_path, body_models)
    transl = np.stack([one["trans_cam"] + one["cam_ext"][:3, 3] for one in people])
    pose = np.stack([one["pose_cam"][:72] for one in people]).reshape(-1, 24, 3)
    betas = np.stack([one["shape"][:10] for one in people])
    mesh = pose_bodies(GenderedBodies(body_models), pose, betas, transl, -1)
    regressor = fill.joint_regressor("SMPL_to_J19", 19)
    world = sample["keypoints_world"]
    np.testing.assert_allclose(world[:, 25:, :3], regressor @ mesh.vertices.numpy(), atol=1e-5)
    elbow = joints.index("openpose_left_elbow", "spin44")
    smpl_elbow = mesh.joints[:, joints.index("left_elbow", "smpl24")].numpy()
    np.testing.assert_allclose(world[:, elbow, :3], smpl_elbow, atol=1e-5)
    seen = project(world[..., :3], INTRINSICS)
    np.testing.assert_allclose(sample["keypoints_img"][..., :2], seen, atol=1e-3)
    assert (world[..., 3] == 1).all()
    assert (sample["keypoints_img"][..., 2] == 1).all()
    np.testing.assert_allclose(sample["transl"], transl, atol=1e-6)
    np.testing.assert_allclose(sample["pose"], pose, atol=1e-6)
    np.testing.assert_allclose(sample["betas"], betas, atol=1e-6)
    np.testing.assert_allclose(sample["intrinsics"], INTRINSICS[None])
    assert (sample["gender"] == -1).all()
    assert sample["has_pose"].all()
    assert sample["has_betas"].all()
    width, height = sample["box_img"][0, 2:] - sample["box_img"][0, :2]
    assert (width, height) == pytest.approx((72, 72), rel=1e-5)


def test_closeups_are_turned_clockwise_and_their_labels_are_not(tmp_path, body_models):
    upright = one_record([person()], tmp_path / "a", body_models, key="room_seq_0000")
    turned = one_record([person()], tmp_path / "b", body_models, key="room_closeup_seq_0000")
    expected = cv2.rotate(decode_image(photo()), cv2.ROTATE_90_CLOCKWISE)
    assert turned["images"][0].shape == (WIDTH, HEIGHT, 3)
    assert np.abs(turned["images"][0].astype(int) - expected).mean() < 2  # compressed anew
    np.testing.assert_array_equal(upright["images"][0], decode_image(photo()))
    for name in ("box_img", "keypoints_img", "intrinsics"):
        np.testing.assert_array_equal(turned[name], upright[name])
    in_place = ShardSet(tmp_path / "b", "bedlam", bedlam(body_models))
    np.testing.assert_array_equal(in_place.read(0)["images"][0], expected)


def test_joints_behind_the_camera_are_absent_from_the_image(tmp_path, body_models):
    sample = one_record([person(trans_cam=np.array([0, 0, -4.0]))], tmp_path, body_models)
    is_before = sample["keypoints_world"][0, :, 2] > 0.05
    assert 0 < is_before.sum() < 44
    np.testing.assert_array_equal(sample["keypoints_img"][0, :, 2], is_before)
    assert np.isnan(sample["keypoints_img"][0, ~is_before, :2]).all()


def test_agora_is_left_out_and_its_folder_alone_says_so(tmp_path, body_models):
    for scene in ("agora_body", "20221010_3"):
        write_tar(tmp_path / "bedlam" / scene / "000000.tar", [("seq", [person()])])
    (found,) = bedlam(body_models).find(tmp_path)
    assert found.parent.name == "20221010_3"
    found.unlink()
    with pytest.raises(FileNotFoundError, match="all 1 tars are left out by"):
        bedlam(body_models).find(tmp_path)


def test_in_place_counts_everyone_without_posing_them(tmp_path, body_models):
    records = [("a", [person(0), person(1)]), ("nobody", []), ("b", [person(2)])]
    write_tar(tmp_path / "bedlam" / "scene" / "000000.tar", records)
    shards = ShardSet(tmp_path, "bedlam", bedlam(body_models))
    assert (len(shards), shards.num_views) == (2, 3)
    labels = shards.manifest["labels"]
    assert labels["pose"] == labels["keypoints_img"] == labels["transl"] == 3
    assert len(shards.read(0)["person_id"]) == 2


def test_nobody_on_a_photo_is_skipped(tmp_path, body_models):
    write_tar(tmp_path / "bedlam" / "scene" / "000000.tar", [("a", [])])
    with pytest.raises(Skipped, match="nobody is labelled"):
        bedlam(body_models).open(tmp_path)[0]


def test_without_the_regressor_of_tokenhmr_nothing_else_is_taken_silently(tmp_path, body_models):
    write_tar(tmp_path / "bedlam" / "scene" / "000000.tar", [("a", [person()])])
    with pytest.raises(FileNotFoundError, match=r"other.pkl does not exist.*joint_regressor=null"):
        bedlam(body_models, joint_regressor="other.pkl").open(tmp_path)
    spin = bedlam(body_models, joint_regressor=None).open(tmp_path)[0]
    ours = bedlam(body_models).open(tmp_path)[0]
    np.testing.assert_allclose(spin["keypoints_world"][:, :25], ours["keypoints_world"][:, :25])
    assert np.abs(spin["keypoints_world"] - ours["keypoints_world"]).max() > 0.01
    with pytest.raises(FileNotFoundError, match="no neutral SMPL body"):
        bedlam(str(tmp_path), joint_regressor=None).open(tmp_path)
