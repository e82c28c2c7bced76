"""MPI-INF-3DHP as its own scripts download it: videos and mats of subjects, and a test set."""

import builtins
import json

import numpy as np
import pytest

import made_rigs
from hmrkit.body import joints
from hmrkit.data.sources import mpi_inf_3dhp
from hmrkit.data.sources.mpi_inf_3dhp import MpiInf3dhp
from hmrkit.data.sources.mpi_inf_3dhp_test import MpiInf3dhpTest
from hmrkit.data.sources.official import Skipped
from hmrkit.data.sources.videos import VideoFrames
from made_rigs import MPI_ROWS, MPI_TEST_ROWS, person, ring
from official_files import convert, read_all

NUM_FRAMES, CAMERAS, SIZE_PX = 25, [0, 1, 4], 160
SPIN = {"head_top": "spin_head"}  # the rest is called the same


def people(subject: int) -> list[np.ndarray]:
    return [person(1000 * subject + row, MPI_ROWS) for row in range(NUM_FRAMES)]


def calibrated() -> list:
    return ring(5, SIZE_PX)


def expected(points: np.ndarray, names: list[str], rows: str, prefix: str) -> np.ndarray:
    """Points (K, ...) of the format in the order of our names; NaN where there is none."""
    found = np.full((len(names), *points.shape[1:]), np.nan)
    for row, name in enumerate(rows.split()):
        ours = SPIN.get(name, f"spin_{name}") if prefix == "spin" else f"h36m_{name}"
        if ours in names:
            found[names.index(ours)] = points[row]
    return found


@pytest.fixture(scope="module")
def download(tmp_path_factory):
    """Subjects 1 and 2, one sequence each, as videos; of subject 2 the pictures too."""
    folder = tmp_path_factory.mktemp("mpi")
    for subject in (1, 2):
        sequence = folder / f"S{subject}" / "Seq1"
        made_rigs.write_calibration(sequence / "camera.calibration", calibrated(), SIZE_PX)
        shown = people(subject)
        made_rigs.write_mpi_annotations(sequence / "annot.mat", calibrated(), shown)
        for i in CAMERAS:
            images = [made_rigs.draw(calibrated()[i], p, MPI_ROWS, SIZE_PX) for p in shown]
            made_rigs.write_video(sequence / "imageSequence" / f"video_{i}.avi", images)
            for row in range(0, NUM_FRAMES, 10) if subject == 2 else ():
                name = f"imageFrames/video_{i}/frame_{row + 1:06d}.jpg"
                made_rigs.write_image(sequence / name, images[row])
    bodies = {"1": {"1": {str(n): made_rigs.body(n) for n in (1, 11)}}}
    (folder / "MPI-INF-3DHP_SMPL_NeuralAnnot.json").write_text(json.dumps(bodies))
    return folder


@pytest.mark.parametrize("joint_set", mpi_inf_3dhp.JOINT_SETS)
def test_crops_show_the_frame_that_their_joints_are_of(download, tmp_path, joint_set):
    names = list(joints.names(joint_set))
    converter = MpiInf3dhp(subjects=[1], cameras=CAMERAS, joint_set=joint_set)
    shards, skipped = convert(converter, download, tmp_path)
    samples = {sample["key"]: sample for sample in read_all(shards)}
    assert skipped == {}
    assert list(samples) == [
        f"S1-Seq1-{number:06d}-video_{camera}" for camera in CAMERAS for number in (1, 11, 21)
    ]
    prefix = joint_set[:4]
    dot = names.index(f"{prefix}_{made_rigs.DOT}")
    for camera in CAMERAS:
        for row in (0, 10, 20):
            sample = samples[f"S1-Seq1-{row + 1:06d}-video_{camera}"]
            points = people(1)[row]
            inside = expected(calibrated()[camera].to_camera(points), names, MPI_ROWS, prefix)
            is_labelled = np.isfinite(inside[:, 0])
            assert is_labelled.sum() == 17
            given = sample["keypoints_world"][0]
            np.testing.assert_allclose(given[:, :3], inside, atol=1e-4)
            np.testing.assert_array_equal(given[:, 3] > 0, is_labelled)
            assert made_rigs.has_dot(sample["images"][0], sample["keypoints_img"][0, dot])


def test_a_rig_is_one_world_with_bodies(download, tmp_path):
    converter = MpiInf3dhp(
        kind="rigs",
        subjects=[1],
        cameras=CAMERAS,
        min_views=3,
        smpl="MPI-INF-3DHP_SMPL_NeuralAnnot.json",
        joint_set="h36m17",
    )
    shards, _ = convert(converter, download, tmp_path)
    names = list(joints.names("h36m17"))
    samples = read_all(shards)
    assert [sample["has_pose"].tolist() for sample in samples] == [[True], [True], [False]]
    np.testing.assert_allclose(samples[1]["pose"].ravel(), made_rigs.body(11)["pose"], atol=1e-6)
    for sample, row in zip(samples, (0, 10, 20), strict=True):
        points = expected(people(1)[row], names, MPI_ROWS, "h36m")
        np.testing.assert_allclose(sample["keypoints_world"][0, :, :3], points, atol=1e-4)
        for view, camera in enumerate(CAMERAS):
            np.testing.assert_allclose(
                sample["keypoints_img"][view, :, :2],
                made_rigs.seen(calibrated()[camera], points),
                atol=1e-2,
            )
            dot = sample["keypoints_img"][view, names.index(f"h36m_{made_rigs.DOT}")]
            assert made_rigs.has_dot(sample["images"][view], dot)


def test_pictures_that_spin_wrote_are_taken_as_they_are(download):
    records = MpiInf3dhp(subjects=[2], cameras=[4], frames="jpg").open(download)
    path = download / "S2/Seq1/imageFrames/video_4/frame_000011.jpg"
    assert records[1]["images"] == [path.read_bytes()]


def test_people_who_leave_the_picture_are_skipped_or_kept(download, tmp_path):
    shown = people(2)
    shown[10] = shown[10] + calibrated()[1].rotation[0] * 1.9  # to the right of camera 1
    sequence = tmp_path / "S2" / "Seq1"
    made_rigs.write_mpi_annotations(sequence / "annot.mat", calibrated(), shown)
    for name in ("imageSequence", "camera.calibration"):
        (sequence / name).symlink_to(download / "S2/Seq1" / name)
    records = MpiInf3dhp(cameras=[1]).open(tmp_path)
    with pytest.raises(Skipped, match="outside"):
        records[1]
    assert records[2]["key"] == "S2-Seq1-000021-video_1"
    assert MpiInf3dhp(cameras=[1], with_all_inside=False).open(tmp_path)[1]["key"]
    rig = MpiInf3dhp(kind="rigs", cameras=CAMERAS, min_views=1).open(tmp_path)[1]
    np.testing.assert_allclose(rig["intrinsics"], [calibrated()[0].intrinsics], rtol=1e-6)
    with pytest.raises(Skipped, match="outside"):
        MpiInf3dhp(kind="rigs", cameras=CAMERAS, min_views=2).open(tmp_path)[1]


def test_the_universal_skeleton_is_for_crops(download):
    real, universal = (
        MpiInf3dhp(subjects=[1], cameras=[0], annotation=name).open(download)[1]["keypoints_world"]
        for name in ("annot3", "univ_annot3")
    )
    np.testing.assert_allclose(universal[..., :3], 1.1 * real[..., :3], rtol=1e-5)
    with pytest.raises(ValueError, match="do not share a world"):
        MpiInf3dhp(kind="rigs", annotation="univ_annot3")


def test_frames_come_in_any_order_and_a_short_video_is_told(tmp_path):
    images = [np.full((32, 48, 3), 10 * i, np.uint8) for i in range(12)]
    made_rigs.write_video(tmp_path / "a.avi", images)
    made_rigs.write_video(tmp_path / "b.avi", images[::-1])
    videos = VideoFrames(max_open=1)
    for frame in (0, 3, 4, 4, 2, 11):
        assert abs(float(videos.read(tmp_path / "a.avi", frame).mean()) - 10 * frame) < 4
        assert abs(float(videos.read(tmp_path / "b.avi", frame).mean()) - 10 * (11 - frame)) < 4
    with pytest.raises(Skipped, match="ends before"):
        videos.read(tmp_path / "a.avi", 12)
    with pytest.raises(Skipped, match="missing"):
        videos.read(tmp_path / "c.avi", 0)
    (tmp_path / "d.avi").write_bytes(b"no video")
    with pytest.raises(Skipped, match="cannot be opened"):
        videos.read(tmp_path / "d.avi", 0)


def test_other_files_are_answered_with_what_is_expected(download, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"get_dataset\.sh"):
        MpiInf3dhp().open(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"S1/Seq1, S2/Seq1.*subjects \[5\]"):
        MpiInf3dhp(subjects=[5]).open(download)
    with pytest.raises(FileNotFoundError, match="NeuralAnnot"):
        MpiInf3dhp(smpl="bodies.json").open(download)
    broken = tmp_path / "S1" / "Seq1"
    broken.mkdir(parents=True)
    (broken / "annot.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    with pytest.raises(ValueError, match=r"annot.mat is no annotation"):
        MpiInf3dhp().open(tmp_path)
    (broken / "camera.calibration").write_text("Skeletool Camera Calibration File V1.0\n")
    with pytest.raises(ValueError, match="no Skeletool camera calibration"):
        mpi_inf_3dhp.read_calibration(broken / "camera.calibration")


# --------------------------------------------------------------------------------------- test set


def write_test_set(folder, sizes, valid) -> dict[int, list[np.ndarray]]:
    """``TS<n>`` with one camera each, as MATLAB 7.3 files."""
    h5py = pytest.importorskip("h5py")
    shown = {}
    for number, (width, height) in sizes.items():
        camera = ring(1, height)[0]
        shown[number] = [person(100 * number + row, MPI_TEST_ROWS) for row in range(len(valid))]
        inside = np.stack([1000 * camera.to_camera(points) for points in shown[number]])
        sequence = folder / f"TS{number}"
        sequence.mkdir(parents=True)
        with h5py.File(sequence / "annot_data.mat", "w", userblock_size=512) as file:
            file["annot2"] = np.stack([made_rigs.seen(camera, p) for p in shown[number]])[:, None]
            file["annot3"] = inside[:, None]
            file["univ_annot3"] = 0.9 * inside[:, None]
            file["valid_frame"] = np.float64(valid)[:, None]
            file["activity_annotation"] = np.ones((len(valid), 1))
        for row, points in enumerate(shown[number]):
            image = made_rigs.draw(camera, points, MPI_TEST_ROWS, max(width, height))
            name = sequence / "imageSequence" / f"img_{row + 1:06d}.jpg"
            made_rigs.write_image(name, image[:height, :width])
    return shown


def test_the_test_set_is_its_valid_frames_with_everybody_inside(tmp_path):
    shown = write_test_set(tmp_path, {1: (160, 160), 5: (80, 160)}, [1, 0, 1])
    converter = MpiInf3dhpTest(sequences=[1, 5])
    shards, skipped = convert(converter, tmp_path, tmp_path / "out")
    samples = read_all(shards)
    assert [sample["key"] for sample in samples] == ["TS1-img_000001", "TS1-img_000003"]
    assert skipped == {"a joint lies outside the image": 2}  # the narrow pictures of TS5
    names = list(joints.names("h36m17"))
    camera = ring(1, 160)[0]
    for sample, row in zip(samples, (0, 2), strict=True):
        inside = expected(camera.to_camera(shown[1][row]), names, MPI_TEST_ROWS, "h36m")
        np.testing.assert_allclose(sample["keypoints_world"][0, :, :3], 0.9 * inside, atol=1e-5)
        np.testing.assert_allclose(sample["intrinsics"][0], camera.intrinsics, atol=1e-2)
        dot = sample["keypoints_img"][0, names.index(f"h36m_{made_rigs.DOT}")]
        assert made_rigs.has_dot(sample["images"][0], dot)
    everybody = MpiInf3dhpTest([1, 5], "annot3", with_all_inside=False, joint_set="spin24")
    records = everybody.open(tmp_path)
    assert len(records) == 4
    metres = records[0]["keypoints_world"][0]
    inside = camera.to_camera(shown[1][0])[MPI_TEST_ROWS.split().index("head_top")]
    row = joints.index("spin_head", "spin24")
    np.testing.assert_allclose(metres[row, :3], inside, atol=1e-5)


def test_cameras_that_do_not_project_the_labels_are_unknown(tmp_path):
    h5py = pytest.importorskip("h5py")
    write_test_set(tmp_path, {2: (160, 160)}, [1, 1])
    with h5py.File(tmp_path / "TS2" / "annot_data.mat", "r+") as file:
        file["annot2"][...] = np.random.default_rng(0).uniform(20, 140, file["annot2"].shape)
    sample = MpiInf3dhpTest(sequences=[2]).open(tmp_path)[0]
    assert np.isnan(sample["intrinsics"]).all()


def test_without_h5py_the_message_says_what_to_install(tmp_path, monkeypatch):
    write_test_set(tmp_path, {1: (60, 60)}, [1])
    real = builtins.__import__

    def without(name, *rest):
        if name == "h5py":
            raise ModuleNotFoundError("No module named 'h5py'", name="h5py")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"pip install 'hmrkit\[datasets\]'"):
        MpiInf3dhpTest(sequences=[1]).open(tmp_path)


def test_a_file_that_is_no_test_annotation_is_named(tmp_path):
    pytest.importorskip("h5py")
    with pytest.raises(FileNotFoundError, match=r"get_testset\.sh"):
        MpiInf3dhpTest(sequences=[1]).open(tmp_path)
    (tmp_path / "TS1").mkdir()
    (tmp_path / "TS1" / "annot_data.mat").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"annot_data.mat is no annotation"):
        MpiInf3dhpTest(sequences=[1]).open(tmp_path)
