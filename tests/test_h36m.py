"""Human3.6M as H36M-Toolbox writes it out, with the labels of 3DMPPE and of the toolbox."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import made_rigs
from hmrkit.body import joints
from hmrkit.data.prepare import prepare
from hmrkit.data.sources.h36m import H36m, H36mToolbox
from made_rigs import H36M_ROWS, h36m_name, person, ring
from official_files import convert, read_all

MOMENTS = {(2, 1, 1): 1, (2, 1, 6): 6, (3, 2, 1): 21}
NAMES = [name.removeprefix("h36m_") for name in joints.names("h36m17")]
OURS = [H36M_ROWS.split().index(name) for name in NAMES]


@pytest.fixture(scope="module")
def download(tmp_path_factory):
    """Two subjects; of subject 9 an image, a label and a body are missing."""
    folder = tmp_path_factory.mktemp("h36m")
    for subject in (1, 9):
        moments = {key: seed + 100 * subject for key, seed in MOMENTS.items()}
        labelled = {k: v for k, v in moments.items() if (subject, k) != (9, (3, 2, 1))}
        made_rigs.write_h36m_jsons(folder / "annotations", subject, labelled)
        for (action, subaction, number), seed in moments.items():
            for i, camera in enumerate(ring(4)):
                if (subject, number, i) == (9, 6, 2):
                    continue
                name = h36m_name(subject, action, subaction, i + 1, number)
                image = made_rigs.draw(camera, person(seed, H36M_ROWS), H36M_ROWS)
                made_rigs.write_image(folder / "images" / name, image)
    return folder


def test_a_rig_has_metres_names_and_cameras_that_agree_with_its_pictures(download, tmp_path):
    shards, skipped = convert(H36m(subjects=[1]), download, tmp_path)
    assert skipped == {}
    assert shards.manifest["kind"] == "rigs"
    samples = read_all(shards)
    assert [sample["key"] for sample in samples] == [
        "s_01_act_02_subact_01_000001",
        "s_01_act_02_subact_01_000006",
        "s_01_act_03_subact_02_000001",
    ]
    for sample, seed in zip(samples, (101, 106, 121), strict=True):
        points = person(seed, H36M_ROWS)[OURS]
        np.testing.assert_allclose(sample["keypoints_world"][0, :, :3], points, atol=1e-6)
        body = made_rigs.body(seed)
        np.testing.assert_allclose(sample["pose"].ravel(), body["pose"], atol=1e-6)
        np.testing.assert_allclose(sample["betas"][0], body["shape"], atol=1e-6)
        np.testing.assert_allclose(sample["transl"][0], body["trans"], atol=1e-6)
        for view, camera in enumerate(ring(4)):
            expected = made_rigs.seen(camera, points)
            np.testing.assert_allclose(
                sample["keypoints_img"][view, :, :2], expected, atol=1e-3, err_msg=str(view)
            )
            np.testing.assert_allclose(sample["box_img"][view, :2], expected.min(0), atol=1e-3)
            dot = sample["keypoints_img"][view, NAMES.index(made_rigs.DOT)]
            assert made_rigs.has_dot(sample["images"][view], dot)
            np.testing.assert_allclose(
                sample["world_to_camera"][view, :3, 3], camera.translation, atol=1e-6
            )


def test_views_are_crops_in_the_axes_of_their_cameras(download, tmp_path):
    shards, _ = convert(H36m(subjects=[1], kind="crops", cameras=[3, 1]), download, tmp_path)
    samples = read_all(shards)
    assert len(samples) == 2 * len(MOMENTS)
    assert samples[0]["key"] == "s_01_act_02_subact_01_ca_01_000001"
    assert samples[2]["key"] == "s_01_act_02_subact_01_ca_03_000001"  # camera by camera
    camera, sample = ring(4)[2], samples[2]
    np.testing.assert_array_equal(sample["world_to_camera"][0], np.eye(4))
    points = camera.to_camera(person(101, H36M_ROWS)[OURS])
    np.testing.assert_allclose(sample["keypoints_world"][0, :, :3], points, atol=1e-5)
    np.testing.assert_allclose(sample["intrinsics"][0], camera.intrinsics, rtol=1e-6)
    root = camera.rotation @ Rotation.from_rotvec(made_rigs.body(101)["pose"][:3]).as_matrix()
    given = Rotation.from_rotvec(sample["pose"][0, 0]).as_matrix()
    np.testing.assert_allclose(given, root, atol=1e-5)
    assert np.isnan(sample["transl"]).all()  # it turns about a pelvis that is not labelled
    assert made_rigs.has_dot(sample["images"][0], sample["keypoints_img"][0, -1])


def test_what_is_missing_is_skipped_with_its_reason(download, tmp_path):
    converter = H36m(subjects=[9, 1], dropped_sequences=[[1, 3, 2]])
    shards, skipped = convert(converter, download, tmp_path)
    assert [sample["key"][:4] for sample in read_all(shards)] == ["s_01", "s_01", "s_09"]
    assert skipped == {
        "sequence is on the list of damaged ones": 1,
        "moment has fewer than 4 of the views": 1,
        "no 3D joints for this frame": 1,
    }
    shards, _ = convert(H36m(subjects=[9], min_views=3), download, tmp_path / "three")
    assert [len(sample["images"]) for sample in read_all(shards)] == [4, 3]
    few = H36m(subjects=[1], frame_step=10).open(download)
    assert [entry.moment[3] for entry in few.entries] == [1, 1]


def test_a_moment_without_a_body_keeps_its_joints(download, tmp_path):
    for with_smpl in (True, False):
        folder = tmp_path / str(with_smpl)
        made_rigs.write_h36m_jsons(folder / "annotations", 1, {(2, 1, 1): 101})
        (folder / "images").symlink_to(download / "images")
        bodies = folder / "annotations" / "Human36M_subject1_SMPL_NeuralAnnot.json"
        bodies.write_text("{}") if with_smpl else bodies.unlink()
        sample = H36m(subjects=[1], with_smpl=with_smpl).open(folder)[0]
        assert "pose" not in sample
        assert sample["keypoints_world"][0, :, 3].all()


def test_the_toolbox_keeps_its_distorted_pixels_and_knows_where_cameras_stand(tmp_path):
    rows = [(1, 2, 1, camera, number) for camera in (1, 2, 3, 4) for number in (1, 2, 6)]
    made_rigs.write_toolbox_pickle(tmp_path / "h36m_train.pkl", rows, distortion_px=1.5)
    for row in rows:
        made_rigs.write_image(tmp_path / "images" / h36m_name(*row), np.zeros((9, 9, 3), np.uint8))
    records = H36mToolbox("h36m_train.pkl", kind="rigs").open(tmp_path)
    assert [entry.moment[3] for entry in records.entries] == [1, 6]
    sample = records[1]
    points = person(6, H36M_ROWS)[OURS]
    np.testing.assert_allclose(sample["keypoints_world"][0, :, :3], points, atol=1e-5)
    for view, camera in enumerate(ring(4)):
        np.testing.assert_allclose(
            sample["keypoints_img"][view, :, :2], made_rigs.seen(camera, points) + 1.5, atol=1e-3
        )
        expected = camera.world_to_camera
        np.testing.assert_allclose(sample["world_to_camera"][view], expected, atol=1e-5)
    crops = H36mToolbox("h36m_train.pkl", kind="crops", cameras=[4]).open(tmp_path)
    assert crops[0]["key"] == "s_01_act_02_subact_01_ca_04_000001"
    assert len(crops) == 2


def test_the_command_counts_what_it_left_out(download, tmp_path):
    manifest = prepare(
        H36m(subjects=[9]), "h36m", download, tmp_path / "out", workers=0, max_bad=0.0
    )
    assert manifest["num_records"] == 1
    assert manifest["num_views"] == 4
    assert manifest["skipped"]["no 3D joints for this frame"]["examples"] == [
        "s_09_act_03_subact_02_000001"
    ]
    assert manifest["skipped"]["moment has fewer than 4 of the views"]["count"] == 1


def test_another_folder_is_answered_with_what_is_expected(download, tmp_path):
    with pytest.raises(FileNotFoundError, match="expected images/s_"):
        H36m(subjects=[1]).open(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"subjects \[7\]"):
        H36m(subjects=[7]).open(download)
    (tmp_path / "images").symlink_to(download / "images")
    with pytest.raises(FileNotFoundError, match=r"(?s)expected Human36M_subject1_camera.*3DMPPE"):
        H36m(subjects=[1], annotations="images").open(tmp_path)
    with pytest.raises(FileNotFoundError, match="generate_labels"):
        H36mToolbox("h36m_train.pkl").open(tmp_path)
    with pytest.raises(ValueError, match="rigs or crops"):
        H36m(subjects=[1], kind="scenes")
