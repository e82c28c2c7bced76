"""COCO, CrowdPose and PoseTrack18 in their official layouts, written here by hand."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from hmrkit.body import joints
from hmrkit.data.sources.coco import Coco
from hmrkit.data.sources.official import Skipped
from official_files import convert, crop_to_img, cut_views, read_all, write_photo

LEFT_RIGHT = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
LIMBS = [f"{side}_{name}" for name in LEFT_RIGHT for side in ("left", "right")]
COCO = ["nose", "left_eye", "right_eye", "left_ear", "right_ear", *LIMBS]
CROWDPOSE = [*LIMBS, "head", "neck"]
POSETRACK = ["nose", "head_bottom", "head_top", *COCO[3:]]


def keypoints(seed: int, absent: tuple[int, ...] = (), occluded: tuple[int, ...] = (), num=17):
    """x, y, v of every joint in one list, as the json has them."""
    points = np.random.default_rng(seed).integers(20, 100, (num, 3))
    points[:, 2] = 2
    points[list(occluded), 2] = 1
    points[list(absent)] = 0
    return points.ravel().tolist()


def annotation(number: int, photo: int, values: list, **more) -> dict:
    points = np.reshape(values, (-1, 3))
    base = {"id": number, "image_id": photo, "category_id": 1, "bbox": [15, 16, 90.5, 95]}
    base |= {"iscrowd": 0, "num_keypoints": int((points[:, 2] > 0).sum()), "area": 4000.0}
    return {**base, "segmentation": [[15, 16, 90, 16, 90, 95]], "keypoints": values, **more}


def write_json(path: Path, photos: dict[int, str], annotations: list, names=COCO) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"id": n, "file_name": f, "width": 160, "height": 120} for n, f in photos.items()]
    category = {"supercategory": "person", "id": 1, "name": "person", "skeleton": [[1, 2]]}
    content = {"info": {}, "licenses": [], "images": images, "annotations": annotations}
    path.write_text(json.dumps({**content, "categories": [{**category, "keypoints": names}]}))


def coco(**options) -> Coco:
    given = {
        "annotations": "annotations/person_keypoints_val2017.json",
        "images": "val2017",
        "where": "It is at cocodataset.org.",
        "joint_set": "coco17",
    }
    return Coco(**{**given, **options})


@pytest.fixture
def download(tmp_path: Path) -> Path:
    """Three photos: two people and a group; a group alone; somebody without joints and one with."""
    folder = tmp_path / "coco"
    photos = {9: "000000000009.jpg", 25: "000000000025.jpg", 30: "000000000030.jpg"}
    for number, name in photos.items():
        write_photo(folder / "val2017" / name, seed=number)
    group = {"counts": [1, 2], "size": [120, 160]}
    people = [
        annotation(901, 30, keypoints(1)),
        annotation(102, 9, keypoints(2, absent=(0, 1, 2), occluded=(9,))),
        annotation(103, 9, keypoints(3, absent=(15, 16)), bbox=[50, 40, 60, 70]),
        annotation(104, 9, [0] * 51, iscrowd=1, segmentation=group),
        annotation(105, 25, [0] * 51, iscrowd=1, segmentation=group),
        annotation(106, 30, [0] * 51),
    ]
    write_json(folder / "annotations" / "person_keypoints_val2017.json", photos, people)
    return folder


def test_a_photo_is_one_record_with_everyone_who_has_joints(download: Path, tmp_path: Path):
    shards, left_out = convert(coco(), download, tmp_path / "shards")
    assert left_out == {
        "somebody on a photo: a group, not a person (iscrowd)": 1,
        "nobody on the photo is usable: a group, not a person (iscrowd)": 1,
        "somebody on a photo: fewer than 1 labelled joints": 1,
    }
    first, last = read_all(shards)
    assert (first["key"], last["key"]) == ("000000000009", "000000000030")
    assert shards.read_files(0)["0.jpg"] == (download / "val2017/000000000009.jpg").read_bytes()
    np.testing.assert_array_equal(first["box_img"], [[15, 16, 105.5, 111], [50, 40, 110, 110]])
    labelled = np.float32(keypoints(2, absent=(0, 1, 2), occluded=(9,))).reshape(17, 3)
    assert first["keypoints_img"][0, :, 2].tolist() == [0] * 3 + [1] * 14
    np.testing.assert_array_equal(first["keypoints_img"][0, 3:, :2], labelled[3:, :2])
    assert not first["has_pose"].any()
    batch = cut_views(first)
    left_wrist = joints.index("spin_left_wrist")
    np.testing.assert_allclose(crop_to_img(batch)[0, left_wrist, :2], labelled[9, :2], atol=1e-4)
    assert batch["keypoints_crop"][1, joints.index("spin_left_ankle"), 2] == 0


def test_spins_choice_is_people_with_all_joints_of_arms_and_legs(download: Path, tmp_path: Path):
    shards, left_out = convert(coco(min_limb_joints=12), download, tmp_path / "shards")
    assert [len(sample["box_img"]) for sample in read_all(shards)] == [1, 1]
    reason = "somebody on a photo: fewer than 12 labelled joints of arms and legs"
    assert left_out[reason] == 1


def test_hmr2_takes_the_limbs_for_openposes(download: Path, tmp_path: Path):
    converter = coco(joint_set="spin44", prefix="openpose")
    sample = read_all(convert(converter, download, tmp_path / "shards")[0])[1]
    values = np.reshape(keypoints(1), (17, 3))
    place = joints.index("openpose_right_hip", "spin44")
    assert sample["keypoints_img"][0, place].tolist() == [*values[12, :2], 1]
    assert sample["keypoints_img"][0, joints.index("spin_right_hip", "spin44"), 2] == 0


def test_every_process_finds_the_same_records(download: Path):
    converter = coco()
    here, there = converter.open(download), pickle.loads(pickle.dumps(converter)).open(download)
    assert len(here) == len(there) == 3
    assert here[2]["key"] == there[2]["key"] == "000000000030"


def test_crowdposes_joints_are_lsps(tmp_path: Path):
    folder = tmp_path / "crowdpose"
    write_photo(folder / "images" / "100000.jpg")
    values = keypoints(5, absent=(4,), num=14)
    people = [annotation(1, 100000, values)]
    write_json(folder / "json" / "crowdpose_train.json", {100000: "100000.jpg"}, people, CROWDPOSE)
    converter = coco(annotations="json/crowdpose_train.json", images="images", joint_set="lsp14")
    sample = read_all(convert(converter, folder, tmp_path / "shards")[0])[0]
    points = np.reshape(values, (14, 3))
    for theirs, ours in (("head", "head_top"), ("neck", "neck"), ("right_knee", "right_knee")):
        found = sample["keypoints_img"][0, joints.index(f"spin_{ours}", "lsp14")]
        assert found.tolist() == [*points[CROWDPOSE.index(theirs), :2], 1]
    assert sample["keypoints_img"][0, joints.index("spin_left_wrist", "lsp14"), 2] == 0


def test_posetracks_videos_keep_their_tracks(tmp_path: Path):
    folder = tmp_path / "posetrack"
    for video, track in (("000342_mpii_test", 4), ("000522_mpii_test", 7)):
        name = f"images/val/{video}/000003.jpg"
        write_photo(folder / name)
        values = keypoints(track, absent=(3, 4))
        people = [annotation(1, 10003420003, values, track_id=track, bbox_head=[1, 2, 3, 4])]
        people.append(annotation(2, 10003420003, values, track_id=track + 1))
        del people[1]["bbox"]
        path = folder / "posetrack_data" / "annotations" / "val" / f"{video}.json"
        write_json(path, {10003420003: name, 10003420004: "unlabelled.jpg"}, people, POSETRACK)
    converter = coco(
        annotations="posetrack_data/annotations/val/*.json",
        images=".",
        joint_set="spin44",
        prefix="openpose",
    )
    shards, left_out = convert(converter, folder, tmp_path / "shards")
    samples = read_all(shards)
    assert [s["key"] for s in samples] == [
        "images-val-000342_mpii_test-000003",
        "images-val-000522_mpii_test-000003",
    ]
    assert [s["person_id"].tolist() for s in samples] == [[4], [7]]
    assert left_out == {"somebody on a photo: the box is empty": 2}
    points = np.reshape(keypoints(4), (17, 3))
    for theirs, ours in (
        ("head_bottom", "spin_neck"),
        ("head_top", "spin_head_top"),
        ("left_ankle", "openpose_left_ankle"),
    ):
        found = samples[0]["keypoints_img"][0, joints.index(ours, "spin44")]
        assert found.tolist() == [*points[POSETRACK.index(theirs), :2], 1]


POSE = np.random.default_rng(8).normal(0, 0.4, (2, 24, 3)).astype(np.float32)
BETAS = np.random.default_rng(9).normal(size=(2, 10)).astype(np.float32)
TRANSL = np.float32([[0.1, 0.2, 9.0], [-0.4, 0.1, 12.0]])


def write_cliff(path: Path, numbers: list[int]) -> None:
    np.savez(
        path,
        imgname=np.array(["val2017/x.jpg"] * 2),
        annot_id=np.array(numbers),
        pose=POSE.reshape(2, 72),
        shape=BETAS,
        global_t=TRANSL,
        focal_l=np.array([200.0, 200.0]),
        has_smpl=np.ones(2),
    )


def write_eft(path: Path, numbers: list[int]) -> None:
    matrices = Rotation.from_rotvec(POSE.reshape(-1, 3)).as_matrix().reshape(2, 24, 3, 3)
    fits = [
        {
            "parm_pose": matrices[i].tolist(),
            "parm_shape": BETAS[i].tolist(),
            "parm_cam": [0.9, 0.1, 0.2],
            "bbox_scale": 1.2,
            "bbox_center": [50.0, 60.0],
            "smpltype": "smpl",
            "annotId": number,
            "imageName": "x.jpg",
        }
        for i, number in enumerate(numbers)
    ]
    path.write_text(json.dumps({"ver": 0.1, "data": fits}))


def write_neuralannot(path: Path, numbers: list[int]) -> None:
    fits = {}
    for i, number in enumerate(numbers):
        body = {"pose": POSE[i].ravel().tolist(), "shape": BETAS[i].tolist()}
        camera = {"focal": [5000.0 + i, 5100.0], "princpt": [80.0 + i, 61.0]}
        body["trans"] = TRANSL[i].tolist()
        fits[str(number)] = {"smpl_param": body, "cam_param": camera}
    path.write_text(json.dumps(fits))


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (write_cliff, "coco2014part_cliffGT.npz"),
        (write_eft, "COCO2014-All-ver01.json"),
        (write_neuralannot, "MSCOCO_train_SMPL_NeuralAnnot.json"),
    ],
)
def test_fitted_bodies_join_people_by_annotation(download: Path, tmp_path: Path, write, name: str):
    write(download / name, [103, 901])  # 102 has none
    first, last = read_all(convert(coco(smpl_labels=name), download, tmp_path / "shards")[0])
    assert first["has_pose"].tolist() == first["has_betas"].tolist() == [False, True]
    np.testing.assert_allclose(first["pose"][1], POSE[0], atol=1e-5)
    np.testing.assert_allclose(last["pose"][0], POSE[1], atol=1e-5)
    np.testing.assert_allclose(last["betas"][0], BETAS[1], atol=1e-6)
    assert np.isnan(first["pose"][0]).all()
    if write is write_eft:
        assert np.isnan(last["transl"]).all()
        assert np.isnan(last["intrinsics"]).all()
        return
    np.testing.assert_array_equal(first["transl"][1], TRANSL[0])
    own = first["intrinsics_of_view"]
    if write is write_cliff:
        middle = [[200, 0, 80], [0, 200, 60], [0, 0, 1]]
        np.testing.assert_array_equal(first["intrinsics"], [middle])
        assert np.isnan(own).all()
    else:
        assert np.isnan(own[0]).all()
        np.testing.assert_array_equal(own[1], [[5000, 0, 80], [0, 5100, 61], [0, 0, 1]])
        np.testing.assert_array_equal(last["intrinsics_of_view"][0][:2, 2], [81, 61])
        assert np.isnan(first["intrinsics"]).all()


def test_people_without_a_fit_can_be_left_out(download: Path, tmp_path: Path):
    write_cliff(download / "fits.npz", [103, 901])
    converter = coco(smpl_labels="fits.npz", only_with_smpl=True)
    shards, left_out = convert(converter, download, tmp_path / "shards")
    assert [s["has_pose"].tolist() for s in read_all(shards)] == [[True], [True]]
    assert left_out["somebody on a photo: no fitted body"] == 1


def test_other_folders_are_answered_with_what_is_expected(download: Path, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"does not exist.*person_keypoints.*cocodataset"):
        coco().open(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds annotations/, val2017/; expected train20"):
        coco(images="train2017").open(download)
    with pytest.raises(FileNotFoundError, match=r"holds 00.*expected annotations/person"):
        coco().open(download / "val2017")
    (download / "annotations/instances.json").write_text('{"images": [], "annotations": []}')
    with pytest.raises(ValueError, match=r"instances\.json is no keypoint annotation.*categories"):
        coco(annotations="annotations/instances.json").open(download)
    (download / "odd.json").write_text('{"7": {"pose": [0, 1]}}')
    with pytest.raises(ValueError, match=r"odd\.json is not what was expected.*CLIFF"):
        coco(smpl_labels="odd.json").open(download)
    with pytest.raises(ValueError, match=r"labels spin_nose.*which this joint set lacks"):
        coco(joint_set="lsp14").open(download)
    with pytest.raises(ValueError, match="only_with_smpl"):
        coco(only_with_smpl=True)


def test_annotations_that_lack_something_are_left_out_with_a_reason(tmp_path: Path):
    folder = tmp_path / "coco"
    write_photo(folder / "val2017/a.jpg")
    people = [
        annotation(1, 7, keypoints(1), track_id=0),
        annotation(2, 7, keypoints(2)),  # no track_id
        annotation(3, 7, keypoints(3), bbox=[900, 900, 50, 60]),  # off the photo
        annotation(4, 8, keypoints(4)),  # no such photo
        annotation(5, 7, keypoints(5)[:-3]),
        annotation(6, 7, keypoints(6)),
    ]
    del people[5]["keypoints"]
    write_json(folder / "annotations/person_keypoints_val2017.json", {7: "a.jpg"}, people)
    shards, left_out = convert(coco(), folder, tmp_path / "shards")
    (sample,) = read_all(shards)
    assert sample["person_id"].tolist() == [0, 1]
    assert left_out == {
        "somebody on a photo: no box inside it": 1,
        "nobody on the photo is usable: the file does not list the image": 1,
        "somebody on a photo: no 17 keypoints": 2,
    }


def test_people_with_other_focal_lengths_have_cameras_of_their_own(download: Path, tmp_path: Path):
    write_cliff(download / "fits.npz", [102, 103])
    fits = dict(np.load(download / "fits.npz")) | {"focal_l": np.array([200.0, 300.0])}
    np.savez(download / "fits.npz", **fits)
    first, _ = read_all(convert(coco(smpl_labels="fits.npz"), download, tmp_path / "shards")[0])
    assert first["intrinsics_of_view"][:, 0, 0].tolist() == [200, 300]
    assert np.isnan(first["intrinsics"]).all()


def test_a_missing_image_is_skipped_by_name(download: Path):
    (download / "val2017/000000000030.jpg").unlink()
    with pytest.raises(Skipped) as skipped:
        coco().open(download)[2]
    assert skipped.value.reason == "image file is missing"
    assert "000000000030.jpg" in skipped.value.detail
