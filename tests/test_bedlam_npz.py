"""BEDLAM's official labels: one npz per sequence, with bodies of SMPL or of SMPL-X."""

from pathlib import Path

import numpy as np
import pytest

from hmrkit.body import joints
from hmrkit.body.gendered import GenderedBodies
from hmrkit.data.sources.bedlam_npz import BedlamNpz
from official_files import convert, pose_bodies, project, read_all, write_bodies, write_photo

K = np.array([[170.0, 0, 80], [0, 170, 60], [0, 0, 1]])
SIZE_HW = (120, 160)
PLAIN, CLOSEUP = "20221010_3_1000_batch01hand_6fps", "20221011_1_250_closeup_suburb_a_6fps"
SMPL22 = [name for name in joints.names("smpl24") if not name.endswith("_hand")]


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_bodies(tmp_path_factory.mktemp("bodies"))


def rows(seed: int, num_pose: int, num_kps: int) -> dict[str, np.ndarray]:
    """Two images, of two people and of one, as the authors' script stacks its lists."""
    rng = np.random.default_rng(seed)
    cam_ext = np.tile(np.eye(4), (3, 1, 1))
    cam_ext[:, :3, 3] = [[-0.7, 0, 4.0], [0.6, 0, 4.5], [0.0, 0.1, 4.0]]
    return {
        "imgname": np.array([f"seq_000000/seq_000000_{i:04d}.png" for i in (5, 0, 5)]),
        "center": rng.uniform(20, 100, (3, 2)),
        "scale": rng.uniform(0.2, 0.5, 3),
        "pose_cam": rng.normal(0, 0.3, (3, num_pose)),
        "pose_world": rng.normal(0, 0.3, (3, num_pose)),
        "shape": rng.normal(size=(3, 10 if num_pose == 72 else 11)),
        "trans_cam": rng.normal(0, 0.1, (3, 3)),
        "trans_world": rng.normal(size=(3, 3)),
        "gtkps": rng.uniform(10, 110, (3, num_kps, 3)),
        "cam_int": np.tile(K, (3, 1, 1)),
        "cam_ext": cam_ext,
        "gender": np.array(["male", "female", "male"]),
        "motion_info": np.array([{"babel": "walk"}] * 3, dtype=object),
    }


def download(folder: Path, content: dict[str, dict]) -> Path:
    (folder / "labels" / "all").mkdir(parents=True)
    for name, arrays in content.items():
        np.savez(folder / "labels" / "all" / f"{name}.npz", **arrays)
        for image in set(arrays["imgname"].tolist()):
            write_photo(folder / "images" / name / "png" / image, SIZE_HW)
    np.savez(folder / "labels" / "all" / "agora-bfh.npz", imgname=np.array(["x.png"]))
    return folder


def converter(bodies: str) -> BedlamNpz:
    return BedlamNpz("labels/**/2*.npz", "images", "closeup", bodies)


def test_smpl_labels_are_posed_where_they_stand(tmp_path: Path, bodies: str):
    content = {PLAIN: rows(0, 72, 45), CLOSEUP: rows(1, 72, 45)}
    shards, left_out = convert(converter(bodies), download(tmp_path, content), tmp_path / "shards")
    assert left_out == {}
    samples = read_all(shards)
    assert [len(sample["pose"]) for sample in samples] == [2, 1, 2, 1]
    assert samples[0]["key"] == f"{PLAIN}-png-seq_000000-seq_000000_0005"
    assert [sample["images"][0].shape[:2] for sample in samples[1:3]] == [SIZE_HW, SIZE_HW[::-1]]
    sample, arrays, neutral = samples[0], content[PLAIN], GenderedBodies(bodies)
    for row, person in enumerate((0, 2)):  # of the image that comes first
        one = slice(person, person + 1)
        pose = arrays["pose_cam"][one].reshape(1, 24, 3)
        mesh = pose_bodies(neutral, pose, arrays["shape"][one], arrays["trans_cam"][one], -1)
        points = neutral[-1].joints_from_mesh(mesh, "all")[0].numpy()
        points = points + arrays["cam_ext"][person, :3, 3]
        np.testing.assert_allclose(sample["keypoints_world"][row, :, :3], points, atol=2e-5)
        np.testing.assert_allclose(
            sample["keypoints_img"][row, :, :2], project(points, K), atol=0.01
        )
        np.testing.assert_allclose(sample["betas"][row], arrays["shape"][person], rtol=1e-6)
    assert sample["gender"].tolist() == [-1, -1]  # the bodies are neutral, whatever is written


def test_smplx_labels_give_joints_in_the_image_alone(tmp_path: Path, bodies: str):
    arrays = rows(2, 165, 127)
    folder = download(tmp_path, {PLAIN: arrays})
    shards, _ = convert(converter("no/bodies/needed"), folder, tmp_path / "shards")
    sample = shards.read(0)
    place = joints.index(SMPL22)
    np.testing.assert_allclose(
        sample["keypoints_img"][:, place, :2], arrays["gtkps"][[0, 2], :22, :2], rtol=1e-6
    )
    others = np.setdiff1d(np.arange(sample["keypoints_img"].shape[1]), place)
    assert (sample["keypoints_img"][:, others, 2] == 0).all()
    assert not sample["has_pose"].any()
    assert not sample["has_betas"].any()
    assert (sample["keypoints_world"][..., 3] == 0).all()
    np.testing.assert_array_equal(sample["intrinsics"], np.float32(K)[None])


def test_other_bodies_and_folders_are_answered(tmp_path: Path, bodies: str):
    with pytest.raises(FileNotFoundError, match=r"expected labels/\*\*/2\*\.npz.*bedlam\.is\.tue"):
        converter(bodies).open(tmp_path)
    folder = download(tmp_path, {PLAIN: rows(3, 156, 52)})
    with pytest.raises(ValueError, match=r"pose_cam of shape \(3, 156\); expected \(N, 72\), SMPL"):
        converter(bodies).open(folder)
