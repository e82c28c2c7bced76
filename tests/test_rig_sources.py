"""HeatFormer's databases of three calibrated datasets, in the layout of its own root folder."""

import json
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

import made_rigs
from hmrkit.body import joints
from hmrkit.data.prepare import prepare
from hmrkit.data.sources.heatformer import HeatFormerH36m, HeatFormerMpiInf3dhp
from hmrkit.data.sources.heatformer_behave import HeatFormerBehave
from made_rigs import H36M_ROWS, h36m_name, person, ring
from official_files import convert, read_all

DATABASE = "data/preprocessed_data/"
H36M_FILES = (f"{DATABASE}h36m_test_25fps_new_db.pt", f"{DATABASE}h36m_test_25fps_ex_db.pt")
MPI_FILE = f"{DATABASE}mpii3d_val_scale12_new_db.pt"
H36M17 = [name.removeprefix("h36m_") for name in joints.names("h36m17")]
OURS = [H36M_ROWS.split().index(name) for name in H36M17]
RNG = np.random.default_rng(7)


# ------------------------------------------------------------------------------------- Human3.6M

ACTIONS = [(2, 1), (5, 2)]  # the second one is on the list of damaged ones
NUMBERS = [1, 6, 11, 16]


@pytest.fixture(scope="module")
def h36m(tmp_path_factory):
    """Subject 9; camera 3 has no image 6, and the bodies are the json's in every view."""
    root = tmp_path_factory.mktemp("heatformer")
    moments = {(*a, n): 10 * a[0] + n for a in ACTIONS for n in NUMBERS}
    made_rigs.write_h36m_jsons(root / DATABASE / "extra_data", 9, moments)
    rows = [
        (action, subaction, i + 1, number, seed)
        for (action, subaction, number), seed in moments.items()
        for i in range(4)
        if (number, i) != (6, 2)
    ]
    rows = [rows[i] for i in RNG.permutation(len(rows))]
    names, centers, poses = [], [], []
    for action, subaction, camera, number, seed in rows:
        name = h36m_name(9, action, subaction, camera, number)
        names.append(f"data/h36m/images/{name}")
        points = person(seed, H36M_ROWS)
        seen = made_rigs.seen(ring(4)[camera - 1], points)
        centers.append((seen.min(axis=0) + seen.max(axis=0)) / 2)
        pose = np.array(made_rigs.body(seed)["pose"])
        root_cam = ring(4)[camera - 1].rotation @ Rotation.from_rotvec(pose[:3]).as_matrix()
        poses.append([*Rotation.from_matrix(root_cam).as_rotvec(), *pose[3:]])
        image = made_rigs.draw(ring(4)[camera - 1], points, H36M_ROWS)
        made_rigs.write_image(root / "data/dataset/images" / name, image)
    shapes = [made_rigs.body(row[4])["shape"] for row in rows]
    size = np.repeat(RNG.uniform(60, 90, (len(rows), 1)), 2, axis=1)
    arrays = {
        "img_name": np.array(names),
        "joints2D": np.zeros((len(rows), 49, 3), np.float32),
        "features": np.zeros((len(rows), 16), np.float32),
        "pose": np.float32(poses),
        "shape": np.float32(shapes),
    }
    joblib.dump(arrays, root / H36M_FILES[0], compress=3)
    boxes = {"BBOX": np.zeros((len(rows), 4)), "scale": size / 200, "center": np.array(centers)}
    joblib.dump(boxes, root / H36M_FILES[1])
    return root


def test_human36m_is_rigs_in_metres_whose_pictures_fit(h36m, tmp_path):
    shards, skipped = convert(HeatFormerH36m(*H36M_FILES, sampling_ratio=1), h36m, tmp_path)
    samples = read_all(shards)
    assert [s["key"] for s in samples] == [f"s_09_act_02_subact_01_{n:06d}" for n in (1, 11, 16)]
    assert skipped == {
        "moment has fewer than 4 of the views": 1,
        "sequence is on the list of damaged ones": len(NUMBERS),
    }
    for sample, number in zip(samples, (1, 11, 16), strict=True):
        points = person(20 + number, H36M_ROWS)[OURS]
        np.testing.assert_allclose(sample["keypoints_world"][0, :, :3], points, atol=1e-6)
        np.testing.assert_allclose(
            sample["pose"].ravel(), made_rigs.body(20 + number)["pose"], atol=1e-6
        )
        for view, camera in enumerate(ring(4)):
            seen = sample["keypoints_img"][view, :, :2]
            np.testing.assert_allclose(seen, made_rigs.seen(camera, points), atol=1e-3)
            x1, y1, x2, y2 = sample["box_img"][view]
            middle = (seen.min(axis=0) + seen.max(axis=0)) / 2
            np.testing.assert_allclose([(x1 + x2) / 2, (y1 + y2) / 2], middle, atol=1e-2)
            assert 60 / 1.2 <= x2 - x1 <= 90 / 1.2  # the stored margin is taken out
            dot = sample["keypoints_img"][view, H36M17.index(made_rigs.DOT)]
            assert made_rigs.has_dot(sample["images"][view], dot)


def test_every_other_good_moment_is_taken_after_the_bad_ones_are_gone(h36m):
    records = HeatFormerH36m(*H36M_FILES, sampling_ratio=2, dropped_sequences=[]).open(h36m)
    used = [entry.moment[1:] for entry in records.entries if not entry.problem]
    assert used == [(2, 1, 1), (2, 1, 16), (5, 2, 11)]  # of 1, 11, 16 and 1, 11, 16


def test_fewer_views_make_smaller_rigs(h36m):
    options = {"use_views": [4, 3], "min_views": 1, "sampling_ratio": 1}
    records = HeatFormerH36m(*H36M_FILES, **options).open(h36m)
    assert [entry.cameras for entry in records.entries[:2]] == [(4, 3), (4,)]
    sample = records[0]
    expected = [ring(4)[3].intrinsics, ring(4)[2].intrinsics]
    np.testing.assert_allclose(sample["intrinsics"], expected, rtol=1e-6)


def test_the_databases_own_bodies_are_the_same_people(h36m):
    """A crop has the body of the database, before the camera; a rig that of the json."""
    options = {"sampling_ratio": 1, "dropped_sequences": []}
    crops = HeatFormerH36m(*H36M_FILES, kind="crops", **options).open(h36m)
    rig = HeatFormerH36m(*H36M_FILES, **options).open(h36m)[0]
    for i, entry in enumerate(crops.entries):
        if entry.moment != (9, 2, 1, 1):
            continue
        sample, camera = crops[i], ring(4)[entry.cameras[0] - 1]
        root = camera.rotation @ Rotation.from_rotvec(rig["pose"][0, 0]).as_matrix()
        given = Rotation.from_rotvec(sample["pose"][0, 0]).as_matrix()
        np.testing.assert_allclose(given, root, atol=1e-5)
        np.testing.assert_allclose(sample["pose"][0, 1:], rig["pose"][0, 1:], atol=1e-6)
        np.testing.assert_allclose(sample["betas"], rig["betas"], atol=1e-6)


def test_another_folder_or_file_is_answered_with_what_is_expected(h36m, tmp_path):
    with pytest.raises(FileNotFoundError, match="HeatFormer's root"):
        HeatFormerH36m(*H36M_FILES).open(tmp_path)
    with pytest.raises(ValueError, match=r"has \['BBOX', 'center', 'scale'\]; expected"):
        HeatFormerH36m(H36M_FILES[1], H36M_FILES[1]).open(h36m)
    joblib.dump({"img_name": np.array(["a/b"]), "bbox": np.ones((1, 4))}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="no image name of MPI-INF-3DHP"):
        HeatFormerMpiInf3dhp("x.pt").open(tmp_path)


# ---------------------------------------------------------------------------------- MPI-INF-3DHP

MPI_NUMBERS = [1, 6, 11, 16]
MPI_VIEWS = [0, 2, 7, 8]
SPIN49 = joints.names("spin49")
BBOX = np.array([60.0, 55.0, 50.0, 80.0])  # centre, width, height


@pytest.fixture(scope="module")
def mpi(tmp_path_factory):
    """Subject 8; a body of moment 11 is a misfit, that of 16 is missing; view 4 is not used."""
    root = tmp_path_factory.mktemp("heatformer")
    cameras = ring(9)
    made_rigs.write_calibration(root / "mpi_inf_3dhp/S8/Seq1/camera.calibration", cameras)
    names, points = [], {}
    for number in MPI_NUMBERS:
        world = person(number, " ".join(SPIN49))
        for i in [*MPI_VIEWS, 4]:
            name = f"S8/Seq1/video_{i}/{number:06d}.jpg"
            names.append(f"data/mpi_3dh/{name}")
            seen = made_rigs.draw(cameras[i], world, " ".join(SPIN49).replace("spin_", ""))
            made_rigs.write_image(root / "data/dataset/images_mpii3d" / name, seen)
            points["8", "1", str(i), str(number - 1)] = np.float32(cameras[i].to_camera(world))
    arrays = {"img_name": np.array(names), "bbox": np.tile(BBOX, (len(names), 1))}
    (root / DATABASE / "extra_data").mkdir(parents=True)
    joblib.dump(arrays, root / MPI_FILE, compress=True)
    joblib.dump(points, root / DATABASE / "j3d_mpi_db.pt", compress=True)
    bodies = {"8": {"1": {str(n): made_rigs.body(n) for n in MPI_NUMBERS[:3]}}}
    path = root / DATABASE / "extra_data" / "MPI-INF-3DHP_SMPL_NeuralAnnot.json"
    path.write_text(json.dumps(bodies))
    joblib.dump({("S8", "Seq1", "000011")}, root / DATABASE / "misfits.pt")
    return root


def test_mpi_inf_3dhp_is_rigs_whose_legs_are_on_their_sides(mpi, tmp_path):
    converter = HeatFormerMpiInf3dhp(MPI_FILE, sampling_ratio=1, misfits=f"{DATABASE}misfits.pt")
    shards, skipped = convert(converter, mpi, tmp_path)
    assert skipped == {"body is on the list of misfits": 1}
    samples = read_all(shards)
    assert [s["key"] for s in samples] == [f"S8-Seq1-{n:06d}" for n in (1, 6, 16)]
    assert [s["has_pose"].tolist() for s in samples] == [[True], [True], [False]]
    for sample, number in zip(samples, (1, 6, 16), strict=True):
        world = person(number, " ".join(SPIN49))
        for row, name in enumerate(H36M17):
            theirs = {"jaw": "spin_head"}.get(name, f"spin_{name}")
            np.testing.assert_allclose(
                sample["keypoints_world"][0, row, :3], world[SPIN49.index(theirs)], atol=1e-5
            )
        for view, i in enumerate(MPI_VIEWS):
            camera = ring(9)[i].world_to_camera
            np.testing.assert_allclose(sample["world_to_camera"][view], camera, atol=1e-5)
            np.testing.assert_allclose(sample["box_img"][view], [35, 15, 85, 95], atol=1e-4)


def test_misfits_are_taken_out_after_the_sampling(mpi):
    records = HeatFormerMpiInf3dhp(
        MPI_FILE, sampling_ratio=2, misfits=f"{DATABASE}misfits.pt"
    ).open(mpi)
    assert [(e.moment[2], bool(e.problem)) for e in records.entries] == [(1, False), (11, True)]


# ---------------------------------------------------------------------------------------- BEHAVE


@pytest.fixture(scope="module")
def behave(tmp_path_factory):
    """Two moments before four Kinects; the files are called jpg and may hold anything."""
    root = tmp_path_factory.mktemp("heatformer")
    names = " ".join(joints.names("openpose25")).replace("openpose_", "")
    rows = []
    for i, moment in enumerate(("t0005.000", "t0005.033")):
        folder = f"BEHAVE/sequences/Date03_Sub03_chair/{moment}"
        points = np.column_stack([person(i, names), np.linspace(0, 1, 25)])
        for k, camera in enumerate(ring(4)):
            image = made_rigs.draw(camera, points[:, :3], names)
            made_rigs.write_image(root / folder / f"k{k}.color.jpg", image)
        row = {
            "img_name": folder,
            "R": np.stack([c.rotation for c in ring(4)]),
            "t": np.stack([c.translation for c in ring(4)]),
            "K": np.stack([c.intrinsics for c in ring(4)]),
            "w_3d_openpose": torch.from_numpy(np.float32(points)),
        }
        rows.append(row)
    (root / DATABASE).mkdir(parents=True)
    joblib.dump(rows, root / DATABASE / "BEHAVE_valid_db.pt")
    return root


def test_behave_is_keypoints_with_square_boxes_and_no_body(behave, tmp_path):
    shards, skipped = convert(HeatFormerBehave(), behave, tmp_path)
    samples = read_all(shards)
    assert skipped == {}
    assert [s["key"][-8:] for s in samples] == ["0005-000", "0005-033"]
    assert not any(sample["has_pose"].any() for sample in samples)
    for sample in samples:
        confidence = sample["keypoints_world"][0, :, 3]
        np.testing.assert_allclose(confidence, np.linspace(0, 1, 25), atol=1e-6)
        assert np.isnan(sample["keypoints_img"][:, 0, :2]).all()  # confidence 0 is no label
        seen = sample["keypoints_img"][:, 1:, :2]
        box = sample["box_img"]
        extent = (seen.max(axis=1) - seen.min(axis=1)).max(axis=1)
        np.testing.assert_allclose(box[:, 2:] - box[:, :2], extent[:, None].repeat(2, 1), atol=1e-3)
        dot = sample["keypoints_img"][:, joints.index("openpose_right_wrist", "openpose25")]
        assert all(map(made_rigs.has_dot, sample["images"], dot))


def test_fewer_kinects_and_a_missing_picture(behave, tmp_path):
    records = HeatFormerBehave(use_views=[2, 0]).open(behave)
    expected = [ring(4)[2].intrinsics, ring(4)[0].intrinsics]
    np.testing.assert_allclose(records[0]["intrinsics"], expected, rtol=1e-6)
    download = tmp_path / "download"
    (download / DATABASE).mkdir(parents=True)
    (download / DATABASE / "BEHAVE_valid_db.pt").symlink_to(
        behave / DATABASE / "BEHAVE_valid_db.pt"
    )
    with pytest.raises(ValueError, match="every record was skipped"):
        prepare(HeatFormerBehave(), "behave", download, tmp_path / "out", workers=0)
    joblib.dump([{"R": 1}], Path(tmp_path) / "other.pt")
    with pytest.raises(ValueError, match=r"other.pt is no list of dicts with"):
        HeatFormerBehave("other.pt").open(tmp_path)
