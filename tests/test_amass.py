"""Motion files in the layouts of their authors, from the download to a batch."""

from pathlib import Path

import joblib
import numpy as np
import pytest
import torch

from hmrkit.data.collate import collate
from hmrkit.data.motion import Motion
from hmrkit.data.shards import ShardSet, write_manifest, write_shard
from hmrkit.data.sources.amass import Amass, Moyo, PoseNpz
from hmrkit.data.sources.official import Skipped

WHOLE = {"first": 0.0, "last": 1.0, "every": 1, "max_frames": None, "min_frames": 1}
TOKENHMR = {"first": 0.2, "last": 0.8, "every": 10, "max_frames": None, "min_frames": 1}


def sequence(num: int, seed: int = 0, gender: object = "female") -> dict[str, np.ndarray]:
    """The arrays of an SMPL+H file of AMASS."""
    rng = np.random.default_rng(seed)
    return {
        "trans": rng.normal(size=(num, 3)),
        "gender": np.array(gender),
        "mocap_framerate": np.array(120.0),
        "betas": rng.normal(size=16),
        "dmpls": rng.normal(size=(num, 8)),
        "poses": rng.normal(0, 0.3, (num, 156)),
    }


def amass_folder(folder: Path) -> Path:
    """Subsets with the spellings of the archives; a shape file beside the sequences."""
    for seed, name in enumerate(
        ("CMU/01/01_01", "CMU/01/01_02", "MPI_Limits/03099/op9", "BioMotionLab_NTroje/s1/0005")
    ):
        path = folder / f"{name}_poses.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **sequence(100 + seed, seed))
    np.savez(folder / "CMU" / "01" / "shape.npz", betas=np.zeros(16), gender="female")
    return folder


def amass(split="train", subsets=("CMU",), frames=WHOLE) -> Amass:
    return Amass(split, subsets, "It is at the page.", **frames)


def samples_of(converter, folder: Path) -> list[dict]:
    records = converter.open(folder)
    return [records[i] for i in range(len(records))]


def test_a_sequence_becomes_a_clip_with_body_shape_place_and_time(tmp_path):
    folder = amass_folder(tmp_path)
    converter = amass()
    samples = samples_of(converter, folder)
    assert [s["key"] for s in samples] == ["CMU-01-01_01_poses", "CMU-01-01_02_poses"]
    write_shard(folder / "shards" / "000000.tar", samples, converter.joint_set)
    write_manifest(folder / "shards", "cmu", "motion", converter.joint_set, options={}, command="")
    shards = ShardSet(folder / "shards", "cmu")
    record, given = shards.read(1), sequence(101, 1)
    np.testing.assert_allclose(record["pose"][:, :22].reshape(-1, 66), given["poses"][:, :66])
    assert (record["pose"][:, 22:] == 0).all()
    np.testing.assert_allclose(record["betas"], np.tile(given["betas"][:10], (101, 1)))
    np.testing.assert_allclose(record["transl"], given["trans"])
    np.testing.assert_allclose(record["time_s"], np.arange(101) / 120, rtol=1e-6)
    assert record["gender"].tolist() == [1] * 101
    batch = collate([Motion(num_frames=7)(shards.read(i)) for i in range(2)])
    assert batch["body"].body_pose.shape == (14, 23, 3, 3)
    assert batch["has_pose"].all()
    assert batch["has_betas"].all()


def test_frames_are_those_that_tokenhmr_keeps(tmp_path):
    folder = amass_folder(tmp_path)
    sample = samples_of(amass(frames=TOKENHMR), folder)[1]  # 101 frames
    kept = list(range(20, 80, 10))
    np.testing.assert_allclose(
        sample["pose"][:, :22].reshape(-1, 66), sequence(101, 1)["poses"][kept, :66], rtol=1e-6
    )
    np.testing.assert_allclose(sample["time_s"], np.arange(6) / 12, rtol=1e-6)


def test_long_sequences_are_cut_into_records_and_short_rests_are_left_out(tmp_path):
    folder = amass_folder(tmp_path)
    records = amass(frames=WHOLE | {"max_frames": 40, "min_frames": 21}).open(folder)
    assert len(records) == 6
    whole = sequence(100, 0)["poses"][:, :66]
    np.testing.assert_allclose(records[1]["pose"][:, :22].reshape(-1, 66), whole[40:80], rtol=1e-6)
    assert records[1]["key"] == "CMU-01-01_01_poses-40"
    assert records[1]["time_s"][0] == 0
    with pytest.raises(Skipped, match="fewer than 21 frames"):
        records[2]
    assert len(records[5]["pose"]) == 21


def test_subsets_are_found_by_either_spelling_and_splits_name_them(tmp_path):
    folder = amass_folder(tmp_path)
    keys = [s["key"] for s in samples_of(amass(subsets=["MPI-Limits", "BMLrub"]), folder)]
    assert keys == ["MPI_Limits-03099-op9_poses", "BioMotionLab_NTroje-s1-0005_poses"]
    assert amass("test", None).subsets == ["Transitions", "SSM"]
    assert len(amass("all", None).subsets) == 18
    with pytest.raises(FileNotFoundError, match=r"expected KIT/.*_poses\.npz.*It is at the page"):
        amass("train", None).open(folder)
    with pytest.raises(ValueError, match="split='training'"):
        amass("training")


@pytest.mark.parametrize("gender", ["male", b"male", np.array(b"male")])
def test_genders_are_read_however_they_were_stored(tmp_path, gender):
    (tmp_path / "CMU").mkdir()
    np.savez(tmp_path / "CMU" / "a_poses.npz", **sequence(3, gender=gender))
    assert samples_of(amass(), tmp_path)[0]["gender"].tolist() == [0, 0, 0]


def test_smplx_files_are_refused(tmp_path):
    (tmp_path / "CMU").mkdir()
    content = sequence(3) | {"poses": np.zeros((3, 165))}
    np.savez(tmp_path / "CMU" / "a_poses.npz", **content)
    with pytest.raises(ValueError, match=r"poses is \(3, 165\).*SMPL\+H"):
        samples_of(amass(), tmp_path)


@pytest.mark.parametrize("changes", [{"first": 0.9, "last": 0.1}, {"every": 0}, {"max_frames": 0}])
def test_selections_of_no_frames_are_refused(changes):
    with pytest.raises(ValueError, match="expected shares"):
        amass(frames=WHOLE | changes)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_moyo_fits_are_read_from_joblib_files(tmp_path, as_tensor):
    rng = np.random.default_rng(0)
    content = {
        "body_pose": rng.normal(0, 0.3, (50, 69)).astype(np.float32),
        "global_orient": rng.normal(0, 0.3, (50, 3)).astype(np.float32),
        "betas": rng.normal(size=(1, 10)).astype(np.float32),
        "transl": rng.normal(size=(50, 3)).astype(np.float32),
    }
    stored = {k: torch.from_numpy(v) for k, v in content.items()} if as_tensor else content
    (tmp_path / "train").mkdir()
    joblib.dump(stored, tmp_path / "train" / "220923_yogi_Bow-Pose.pkl")
    frames = {"first": 0.1, "last": 0.9, "every": 5, "max_frames": 128, "min_frames": 1}
    sample = samples_of(Moyo("**/*.pkl", "", 30.0, **frames), tmp_path)[0]
    kept = np.arange(5, 45, 5)
    assert sample["key"] == "train-220923_yogi_Bow-Pose-0"
    np.testing.assert_array_equal(sample["pose"][:, 0], content["global_orient"][kept])
    np.testing.assert_array_equal(
        sample["pose"][:, 1:22].reshape(8, 63), content["body_pose"][kept, :63]
    )
    assert (sample["pose"][:, 22:] == 0).all()
    np.testing.assert_array_equal(sample["transl"], content["transl"][kept])
    np.testing.assert_array_equal(sample["betas"], np.tile(content["betas"], (8, 1)))
    np.testing.assert_allclose(sample["time_s"], np.arange(8) / 6, rtol=1e-6)
    no_times = samples_of(Moyo("**/*.pkl", "", None, **frames), tmp_path)[0]
    assert "time_s" not in no_times
    joblib.dump({"vertices": np.zeros(3)}, tmp_path / "train" / "other.pkl")
    with pytest.raises(ValueError, match=r"other\.pkl holds \['vertices'\]; expected body_pose"):
        samples_of(Moyo("**/*.pkl", "", None, **frames), tmp_path)


def test_tokenizer_data_has_the_body_joints_alone(tmp_path):
    rng = np.random.default_rng(0)
    content = {
        "pose_body": rng.normal(0, 0.3, (25, 63)),
        "betas": rng.normal(size=(25, 10)),
        "gender": np.array(["male"] * 20 + ["female"] * 5),
        "name": np.array(["a"] * 25),
    }
    (tmp_path / "smplh" / "train").mkdir(parents=True)
    np.savez(tmp_path / "smplh" / "train" / "train_MPI-Limits.npz", **content)
    samples = samples_of(PoseNpz("smplh/train/*.npz", "", 10), tmp_path)
    assert [s["key"] for s in samples] == [
        f"smplh-train-train_MPI-Limits-{start}" for start in (0, 10, 20)
    ]
    last = samples[2]
    np.testing.assert_allclose(last["pose"][:, 1:22].reshape(5, 63), content["pose_body"][20:])
    assert (last["pose"][:, [0, 22, 23]] == 0).all()
    assert last["gender"].tolist() == [1] * 5


def test_cmu_mocap_is_read_in_pieces(tmp_path):
    rng = np.random.default_rng(0)
    content = {"body_pose": rng.normal(0, 0.3, (30, 72)), "betas": rng.normal(size=(30, 10))}
    np.savez(tmp_path / "cmu_mocap.npz", **content)
    samples = samples_of(PoseNpz("**/cmu_mocap.npz", "", 16), tmp_path)
    together = np.concatenate([s["pose"] for s in samples]).reshape(30, 72)
    np.testing.assert_allclose(together, content["body_pose"], rtol=1e-6)
    np.testing.assert_allclose(
        np.concatenate([s["betas"] for s in samples]), content["betas"], rtol=1e-6
    )
    assert "gender" not in samples[0]
    np.savez(tmp_path / "cmu_mocap.npz", betas=content["betas"])
    with pytest.raises(ValueError, match="expected pose_body or body_pose"):
        PoseNpz("**/cmu_mocap.npz", "", 16).open(tmp_path)[0]


def test_a_damaged_file_is_named_and_the_others_are_read(tmp_path):
    folder = amass_folder(tmp_path)
    path = folder / "CMU" / "01" / "01_01_poses.npz"
    path.write_bytes(path.read_bytes()[:500])
    for max_frames in (None, 101):
        records = amass(frames=WHOLE | {"max_frames": max_frames}).open(folder)
        with pytest.raises(ValueError, match=r"01_01_poses\.npz cannot be read as npz"):
            records[0]
        assert len(records[1]["pose"]) == 101
