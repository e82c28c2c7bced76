"""Evaluation files of 4D-Humans and TokenHMR, from the npz to a batch."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from hmrkit.body import joints
from hmrkit.body.gendered import GenderedBodies
from hmrkit.data.collate import collate
from hmrkit.data.crops import Crops
from hmrkit.data.shards import ShardSet, write_manifest, write_shard
from hmrkit.data.sources.hmr2_npz import Hmr2Npz
from hmrkit.data.sources.official import Skipped
from parity import fill

NAMES = ["seq_a/image_00001.jpg", "seq_b/image_00007.jpg", "seq_a/image_00001.jpg"]


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    """Three people on two photos, as in 3dpw_test.npz."""
    rng = np.random.default_rng(seed)

    def keypoints(num: int, width: int) -> np.ndarray:
        points = rng.uniform(20, 80, (3, num, width)).astype(np.float32)
        points[..., -1] = rng.random((3, num)) < 0.8
        return points

    return {
        "imgname": np.array(NAMES),
        "center": rng.uniform(40, 60, (3, 2)).astype(np.float32),
        "scale": rng.uniform(30, 90, (3, 2)).astype(np.float32),
        "body_pose": rng.normal(0, 0.3, (3, 72)).astype(np.float32),
        "betas": rng.normal(0, 1, (3, 10)).astype(np.float32),
        "has_body_pose": np.array([1.0, 1.0, 0.0]),
        "has_betas": np.array([1.0, 0.0, 1.0]),
        "body_keypoints_2d": keypoints(25, 3),
        "extra_keypoints_2d": keypoints(19, 3),
        "body_keypoints_3d": keypoints(25, 4),
        "extra_keypoints_3d": keypoints(19, 4),
        "gender": np.array(["m", "female", "male"]),
    }


def write(folder: Path, content: dict[str, np.ndarray]) -> Path:
    rng = np.random.default_rng(1)
    for name in set(NAMES):
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = rng.integers(0, 255, (100, 120, 3), np.uint8)
        path.write_bytes(simplejpeg.encode_jpeg(image, quality=90))
    np.savez(folder / "test.npz", **content)
    return folder


def converter(**changes) -> Hmr2Npz:
    options = {
        "annotations": "test.npz",
        "images": "images",
        "where": "It is in the archive.",
        "scale_unit_px": 1,
        "stored_margin": 1.2,
        "with_openpose_limbs_3d": False,
        "body_models": None,
    }
    return Hmr2Npz(**{**options, **changes})


def records_of(folder: Path, **changes) -> list[dict]:
    records = converter(**changes).open(folder)
    return [records[i] for i in range(len(records))]


def test_people_of_one_photo_share_a_record_and_come_out_as_labelled(tmp_path):
    content = arrays()
    folder = write(tmp_path, content)
    made = converter()
    records = made.open(folder)
    samples = [records[i] for i in range(len(records))]
    assert [s["key"] for s in samples] == ["seq_a-image_00001", "seq_b-image_00007"]
    assert samples[0]["images"] == [(folder / "images" / NAMES[0]).read_bytes()]
    write_shard(tmp_path / "shards" / "000000.tar", samples, made.joint_set)
    write_manifest(tmp_path / "shards", "set", made.kind, made.joint_set, options={}, command="")
    record = ShardSet(tmp_path / "shards", "set").read(0)
    for view, row in enumerate((0, 2)):
        box, size = record["box_img"][view], content["scale"][row] / 1.2
        np.testing.assert_allclose((box[:2] + box[2:]) / 2, content["center"][row], rtol=1e-6)
        np.testing.assert_allclose(box[2:] - box[:2], size, rtol=1e-5)
        cut = Crops((256, 256), box_scale=1.2)(record, view, None)
        batch = collate([cut])
        crop = batch["keypoints_crop"][0, joints.index(joints.names("spin44"), "all")].numpy()
        given = np.concatenate([content[f"{part}_keypoints_2d"][row] for part in ("body", "extra")])
        side = content["scale"][row].max()
        wanted = (given[:, :2] - content["center"][row]) / side * 2
        is_seen = given[:, 2] > 0
        np.testing.assert_allclose(crop[is_seen, :2], wanted[is_seen], atol=1e-4)
        np.testing.assert_array_equal(crop[:, 2], given[:, 2])
        assert bool(batch["has_pose"][0]) == bool(content["has_body_pose"][row])
        assert bool(batch["has_betas"][0]) == bool(content["has_betas"][row])
    np.testing.assert_array_equal(record["pose"][0].ravel(), content["body_pose"][0])
    assert np.isnan(record["pose"][1]).all()


def test_only_m_and_male_are_male(tmp_path):
    content = arrays() | {"gender": np.array(["m", "neutral", "f"])}
    genders = [s["gender"].tolist() for s in records_of(write(tmp_path, content))]
    assert genders == [[0, 1], [1]]
    del content["gender"]
    assert records_of(write(tmp_path, content))[0]["gender"].tolist() == [-1, -1]


def test_genders_may_be_bytes_but_not_numbers(tmp_path):
    content = arrays() | {"gender": np.array([b"m", b"female", b"male"])}
    genders = [s["gender"].tolist() for s in records_of(write(tmp_path, content))]
    assert genders == [[0, 0], [1]]
    for wrong in ([0, 1, 0], ["m", "man", "f"]):
        folder = write(tmp_path, content | {"gender": np.array(wrong)})
        with pytest.raises(ValueError, match=r"test.npz has genders '(0|man)'"):
            converter().open(folder)


def test_a_box_off_the_image_drops_its_person_alone(tmp_path):
    for change in ({"center": (5000, 50)}, {"center": (np.nan, 50)}, {"scale": (0, 0)}):
        content = arrays()
        for name, value in change.items():
            content[name][0] = value
        records = converter().open(write(tmp_path, content))
        sample = records[0]
        np.testing.assert_array_equal(sample["betas"], content["betas"][2:])
        assert [one.reason for one in records.left_out] == [
            "somebody in an image: no box inside it"
        ]
        assert len(records[1]["box_img"]) == 1
        assert records.left_out == []


def test_three_dimensional_limbs_of_openpose_are_kept_only_on_request(tmp_path):
    content = arrays()
    content["body_keypoints_3d"][..., 3] = content["extra_keypoints_3d"][..., 3] = 1
    folder = write(tmp_path, content)
    dropped, kept = (
        records_of(folder, with_openpose_limbs_3d=keep)[0]["keypoints_world"]
        for keep in (False, True)
    )
    names = np.array(joints.names("spin44"))
    assert set(names[dropped[0, :, 3] == 0]) == set(joints.names("openpose25")[1:15])
    assert (kept[..., 3] == 1).all()
    np.testing.assert_array_equal(kept[1, 25:, :3], content["extra_keypoints_3d"][2, :, :3])


def test_files_of_2d_labels_alone_are_read(tmp_path):
    content = arrays()
    content = {k: content[k] for k in ("imgname", "center", "scale", "body_keypoints_2d")}
    content["scale"] = content["scale"].max(axis=1)  # (N,): a square
    samples = records_of(write(tmp_path, content))
    size = samples[0]["box_img"][:, 2:] - samples[0]["box_img"][:, :2]
    np.testing.assert_allclose(size[:, 0], size[:, 1], rtol=1e-5)
    assert not samples[0]["has_pose"].any()
    assert (samples[0]["keypoints_img"][:, 25:, 2] == 0).all()
    assert (samples[0]["keypoints_world"][..., 3] == 0).all()


def test_emdb_joints_are_read_off_the_mesh_of_the_persons_gender(tmp_path):
    content = arrays()
    both = [content.pop(f"{part}_keypoints_2d") for part in ("body", "extra")]
    content["keypoints_2d"] = np.concatenate(both, axis=1)
    content["scale"] = content["scale"] / 200
    folder = write(tmp_path, content)
    (folder / "bodies").mkdir()
    files = {"MALE": fill.smpl("male"), "FEMALE": fill.smpl("female")}
    for gender, body in files.items():
        (folder / "bodies" / f"SMPL_{gender}.pkl").write_bytes(pickle.dumps(body))
    made = {"scale_unit_px": 200, "body_models": str(folder / "bodies")}
    samples = records_of(folder, **made)
    assert converter(**made).joint_set == "all"
    of_smpl = joints.index(joints.names("smpl24"), "all")
    world = samples[1]["keypoints_world"][0]  # one woman
    assert (world[of_smpl, 3] == 1).all()
    assert (np.delete(world[:, 3], of_smpl) == 0).all()
    body = GenderedBodies(folder / "bodies")
    mesh = body.regressed_joints(
        content["body_pose"][1:2].reshape(1, 24, 3),
        content["betas"][1:2],
        np.zeros((1, 3)),
        np.array([1]),
    )
    np.testing.assert_allclose(world[of_smpl, :3], mesh[0], atol=1e-6)
    of_skeleton = body.joints(
        content["body_pose"][1:2].reshape(1, 24, 3),
        content["betas"][1:2],
        np.zeros((1, 3)),
        np.array([1]),
        "smpl24",
    )
    assert np.abs(mesh - of_skeleton).max() > 1e-3
    size = samples[1]["box_img"][0, 2:] - samples[1]["box_img"][0, :2]
    np.testing.assert_allclose(size * 1.2, content["scale"][1] * 200, rtol=1e-5)


def test_what_cannot_be_used_is_skipped_with_a_reason(tmp_path):
    content = arrays()
    content["scale"][1] = 0
    folder = write(tmp_path, content)
    records = converter().open(folder)
    with pytest.raises(Skipped, match="nobody in the image has a box inside it"):
        records[1]
    (folder / "images" / NAMES[0]).unlink()
    with pytest.raises(Skipped, match="image file is missing"):
        records[0]


def test_a_wrong_folder_or_file_is_answered_with_what_is_expected(tmp_path):
    (tmp_path / "other.txt").touch()
    with pytest.raises(
        FileNotFoundError, match=r"holds other\.txt; expected test\.npz\. It is in the archive"
    ):
        converter().open(tmp_path)
    np.savez(tmp_path / "test.npz", imgname=np.array(["a.jpg"]))
    with pytest.raises(ValueError, match=r"test\.npz has .*expected \['center', 'scale'\] too"):
        converter().open(tmp_path)
    write(tmp_path, arrays() | {"betas": np.zeros((2, 10))})
    with pytest.raises(ValueError, match="betas has 2 rows and imgname 3"):
        converter().open(tmp_path)
    write(tmp_path, arrays())
    with pytest.raises(FileNotFoundError, match="expected pictures"):
        converter(images="pictures").open(tmp_path)
