"""SPIN's family of annotation files -> records: every key, every option, what goes wrong."""

import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from scipy.spatial.transform import Rotation

from hmrkit.body import joints
from hmrkit.configs import config_dir, load_config, to_plain
from hmrkit.data.crops import Crops
from hmrkit.data.prepare import prepare
from hmrkit.data.sources.eft import EftJson
from hmrkit.data.sources.official import Skipped
from hmrkit.data.sources.openpose import OpenPose
from hmrkit.data.sources.spin_npz import SpinNpz
from hmrkit.data.sources.static_fits import StaticFits
from hmrkit.evaluation import build_protocol
from official_files import convert, write_photo

SPIN24 = joints.index(joints.names("spin24"), "spin49")
OPENPOSE25 = joints.index(joints.names("openpose25"), "spin49")
NAMES = ["train/a.jpg", "train/b.png", "train/a.jpg", "train/c.jpg"]  # c does not exist
SIZE_HW = (120, 160)


def make_rows(num=4, seed=0):
    """An annotation file's arrays; SPIN stores float64."""
    rng = np.random.default_rng(seed)
    part = np.dstack([rng.uniform(30, 90, (num, 24, 2)), np.ones((num, 24))])
    part[:, 19:, 2] = 0  # the face is not labelled
    openpose = np.dstack([rng.uniform(30, 90, (num, 25, 2)), rng.uniform(0.1, 1, (num, 25))])
    world = np.dstack([rng.normal(0, 0.4, (num, 24, 3)), np.ones((num, 24))])
    world[:, 12, 3] = 0
    return {
        "imgname": np.array(NAMES[:num]),
        "center": rng.uniform(50, 70, (num, 2)),
        "scale": rng.uniform(0.3, 0.5, num),
        "part": part,
        "openpose": openpose,
        "S": world,
        "pose": rng.normal(0, 0.3, (num, 72)),
        "shape": rng.normal(0, 1, (num, 10)),
        "has_smpl": np.array([1, 1, 0, 1])[:num],
        "gender": np.array(["m", "f", "n", "m"])[:num],
    }


def write_download(folder, rows, name="rows.npz"):
    write_photo(folder / "train/a.jpg", SIZE_HW)
    write_photo(folder / "train/b.png", SIZE_HW, seed=1)
    np.savez(folder / name, **rows)
    return folder


def open_rows(folder, rows, **options):
    return SpinNpz("rows.npz", **options).open(write_download(folder, rows))


def test_rows_of_one_image_are_one_record_with_all_their_labels(tmp_path):
    rows = make_rows()
    shards, left_out = convert(
        SpinNpz("rows.npz"), write_download(tmp_path / "in", rows), tmp_path / "out"
    )
    assert left_out == {"image file is missing": 1}
    assert [shards.read(i)["key"] for i in range(len(shards))] == ["train-a", "train-b"]
    both = shards.read(0)
    for person, row in enumerate([0, 2]):
        for columns, key in ((SPIN24, "part"), (OPENPOSE25, "openpose")):
            is_labelled = rows[key][row, :, 2] > 0
            found = both["keypoints_img"][person, columns]
            np.testing.assert_allclose(found[is_labelled], rows[key][row][is_labelled], rtol=1e-6)
            assert np.isnan(found[~is_labelled, :2]).all()
            assert (found[~is_labelled, 2] == 0).all()
        found = both["keypoints_world"][person, SPIN24]
        assert found[12, 3] == 0
        np.testing.assert_allclose(found[:12], rows["S"][row, :12], rtol=1e-6)
    assert both["has_pose"].tolist() == both["has_betas"].tolist() == [True, False]
    np.testing.assert_allclose(both["pose"][0].ravel(), rows["pose"][0], rtol=1e-6)
    np.testing.assert_allclose(both["betas"][0], rows["shape"][0], rtol=1e-6)
    assert both["gender"].tolist() == [0, -1]
    assert shards.read(1)["gender"].tolist() == [1]
    assert np.isnan(both["intrinsics"]).all()
    assert np.isnan(both["transl"]).all()


def test_the_image_files_are_kept_as_they_are(tmp_path):
    records = open_rows(tmp_path, make_rows())
    assert records[0]["images"] == [(tmp_path / "train/a.jpg").read_bytes()]


def test_the_stored_box_comes_back_without_its_margin(tmp_path):
    rows = make_rows()
    box = open_rows(tmp_path, rows)[1]["box_img"][0].astype(np.float64)
    np.testing.assert_allclose((box[:2] + box[2:]) / 2, rows["center"][1], rtol=1e-6)
    np.testing.assert_allclose(1.2 * (box[2:] - box[:2]), 200 * rows["scale"][1], rtol=1e-5)
    wide = open_rows(tmp_path, rows, layout={"stored_margin": 1.0})[1]["box_img"][0]
    np.testing.assert_allclose(wide[2:] - wide[:2], 200 * rows["scale"][1], rtol=1e-5)


@pytest.mark.parametrize("way", ["box=part", "nothing stored"])
def test_without_a_stored_box_it_is_that_of_the_labelled_joints(tmp_path, way):
    rows = make_rows()
    if way == "nothing stored":
        del rows["center"], rows["scale"]
    layout = {"box": "part"} if way == "box=part" else {}
    box = open_rows(tmp_path, rows, layout=layout)[1]["box_img"][0]
    points = rows["part"][1, :19, :2]
    np.testing.assert_allclose(box, [*points.min(axis=0), *points.max(axis=0)], rtol=1e-6)


def test_people_without_a_box_inside_the_image_are_left_out_and_counted(tmp_path):
    rows = make_rows()
    rows["center"][0] = 1000, 50
    rows["scale"][1] = np.nan
    records = open_rows(tmp_path, rows)
    kept = records[0]
    np.testing.assert_allclose(kept["keypoints_img"][0, SPIN24[0], :2], rows["part"][2, 0, :2])
    assert len(kept["box_img"]) == 1
    assert [one.reason for one in records.left_out] == ["somebody in an image: no box inside it"]
    with pytest.raises(Skipped, match="nobody in the image has a box"):
        records[1]
    assert records.left_out == []


@pytest.mark.parametrize("missing", ["part", "openpose", "S", "pose", "gender", "has_smpl"])
def test_a_missing_key_is_a_missing_label(tmp_path, missing):
    rows = make_rows()
    del rows[missing]
    shards, _ = convert(
        SpinNpz("rows.npz"), write_download(tmp_path / "in", rows), tmp_path / "out"
    )
    both = shards.read(0)
    num_seen = (both["keypoints_img"][..., 2] > 0).sum(axis=1)
    assert num_seen.tolist() == [{"part": 25, "openpose": 19}.get(missing, 44)] * 2
    assert (both["keypoints_world"][..., 3] > 0).any() == (missing != "S")
    has_body = {"pose": [False, False], "has_smpl": [True, True]}.get(missing, [True, False])
    assert both["has_pose"].tolist() == has_body
    assert both["gender"].tolist() == ([-1, -1] if missing == "gender" else [0, -1])


def test_rows_with_a_pose_count_without_has_smpl_only_if_told_so(tmp_path):
    rows = make_rows()
    del rows["has_smpl"]
    records = open_rows(tmp_path, rows, layout={"with_smpl": False})
    assert not records[0]["has_pose"].any()
    assert np.isnan(records[0]["betas"]).all()


def test_genders_and_units_are_what_the_source_says(tmp_path):
    rows = make_rows()
    rows["gender"] = np.array([b"male", b"female", b"neutral", b"male"])
    layout = {"genders": {"male": 0, "female": 1}, "units_per_metre": 1000.0}
    metres = rows["S"].copy()
    rows["S"][..., :3] *= 1000
    both = open_rows(tmp_path, rows, layout=layout)[0]
    assert both["gender"].tolist() == [0, -1]
    np.testing.assert_allclose(both["keypoints_world"][0, SPIN24[3]], metres[0, 3], rtol=1e-5)


def test_genders_that_are_no_words_are_refused(tmp_path):
    rows = make_rows() | {"gender": np.array([0, 1, 1, 0])}
    with pytest.raises(ValueError, match=r"rows.npz has genders '0', '1'"):
        open_rows(tmp_path, rows)
    known = open_rows(tmp_path, rows, layout={"genders": {0: 0, 1: 1}})
    assert known[0]["gender"].tolist() == [0, 1]


def test_images_outside_the_input_are_never_read(tmp_path):
    folder = write_download(tmp_path / "in", make_rows())
    write_photo(tmp_path / "secret.jpg", SIZE_HW)
    names = ["train/a.jpg", "../secret.jpg", str(tmp_path / "secret.jpg"), "train/../../secret.jpg"]
    records = open_rows(folder, make_rows() | {"imgname": np.array(names)})
    assert records[0]["key"] == "train-a"
    for index in (1, 2, 3):
        with pytest.raises(Skipped, match="image lies outside the input"):
            records[index]


def test_image_names_become_paths_as_the_source_says(tmp_path):
    rows = make_rows()
    rows["imgname"] = np.array([f"/data/old/{Path(name).name}" for name in NAMES])
    layout = {"images": "train", "rename": {"^.*/": ""}}
    assert open_rows(tmp_path, rows, layout=layout)[0]["key"] == "train-a"


def test_files_with_dots_in_their_names_have_keys_of_their_own(tmp_path):
    """Human3.6M's: S9_Directions_1.54138969_000001.jpg."""
    rows = make_rows()
    rows["imgname"] = np.array([f"S9_Directions_1.54138969_{i:06d}.jpg" for i in (1, 6, 11, 16)])
    for name in rows["imgname"]:
        write_photo(tmp_path / name, SIZE_HW)
    records = open_rows(tmp_path, rows)
    assert len({records[i]["key"] for i in range(4)}) == 4


@pytest.mark.parametrize("key", ["focal_length", "focal_l"])
def test_a_focal_length_makes_a_camera_that_looks_at_the_middle(tmp_path, key):
    rows = {**make_rows(), key: np.full(4, 200.0)}
    camera = open_rows(tmp_path, rows)[0]["intrinsics"]
    np.testing.assert_array_equal(camera, [[[200, 0, 80], [0, 200, 60], [0, 0, 1]]])


def test_people_who_disagree_on_the_focal_length_have_cameras_of_their_own(tmp_path):
    rows = {**make_rows(), "focal_length": np.array([200.0, np.nan, 210.0, 1.0])}
    folder = write_download(tmp_path / "in", rows)
    shards, _ = convert(SpinNpz("rows.npz"), folder, tmp_path / "out")
    cameras = shards.read(0)["intrinsics_of_view"]
    assert cameras[:, 0, 0].tolist() == [200.0, 210.0]
    assert np.isnan(shards.read(1)["intrinsics"]).all()


def test_cliffs_translation_is_that_of_the_body(tmp_path):
    rows = {**make_rows(), "global_t": np.arange(12.0).reshape(4, 3)}
    assert open_rows(tmp_path, rows)[0]["transl"].tolist() == [[0, 1, 2], [6, 7, 8]]


def test_evaluation_sources_carry_joints_under_the_names_that_are_scored(tmp_path):
    rows = make_rows()
    folder = write_download(tmp_path / "in", rows)
    converter = SpinNpz("rows.npz", layout={"with_h36m_names": True})
    shards, _ = convert(converter, folder, tmp_path / "out")
    assert shards.joint_set == "all"
    world = shards.read(0)["keypoints_world"][0]
    # upstream's J24_TO_J17 against H36M_TO_J17; the neck, 12, has no label here
    j24 = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 18, 14, 16, 17]
    h36m = [6, 5, 4, 1, 2, 3, 16, 15, 14, 11, 12, 13, 8, 10, 0, 7, 9]
    names = [joints.names("h36m17")[i] for i in h36m]
    found = world[joints.index(names, "all")]
    is_labelled = np.array(j24) != 12
    np.testing.assert_allclose(found[is_labelled], rows["S"][0, j24][is_labelled], rtol=1e-6)
    assert (found[~is_labelled, 3] == 0).all()
    assert (world[joints.index(joints.names("spin24"), "all"), 3] > 0).sum() == 23


def test_metahmrs_box_of_the_joints_does_not_depend_on_the_stored_one(tmp_path):
    rows = make_rows()
    crops = Crops([64, 64], box_joints="spin24")
    stored, tight = (
        convert(
            SpinNpz("rows.npz", layout={"box": box}),
            write_download(tmp_path / f"in_{box}", rows),
            tmp_path / box,
        )[0].read(1)
        for box in ("stored", "part")
    )
    assert not np.array_equal(stored["box_img"], tight["box_img"])
    np.testing.assert_array_equal(crops(stored)["input_image"], crops(tight)["input_image"])


# ------------------------------------------------------------------------------------------- fits


def write_fits(folder, name, num=4, seed=5):
    rng = np.random.default_rng(seed)
    pose, betas = rng.normal(0, 0.3, (num, 72)), np.clip(rng.normal(0, 1, (num, 10)), -2, 2)
    betas[2, 4] = -3.5
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".npy"):
        np.save(folder / name, np.hstack([pose, betas]))
    else:
        np.savez(folder / name, pose=pose, betas=betas, valid_fit=np.uint8([1, 0, 1, 1]))
    return pose, betas


@pytest.mark.parametrize("is_replacing", [False, True])
def test_fits_fill_rows_without_a_body_or_replace_all(tmp_path, is_replacing):
    rows = make_rows()
    pose, _ = write_fits(tmp_path, "fits/coco.npz")
    fits = StaticFits("fits/coco.npz", is_replacing=is_replacing)
    records = open_rows(tmp_path, rows, fits=fits)
    both, other = records[0], records[1]
    expected = pose if is_replacing else rows["pose"]
    np.testing.assert_allclose(both["pose"][0].ravel(), expected[0], rtol=1e-6)
    np.testing.assert_allclose(both["pose"][1].ravel(), pose[2], rtol=1e-6)  # had none
    assert both["has_pose"].all()
    assert other["has_pose"].tolist() == [not is_replacing]  # its fit is not valid


@pytest.mark.parametrize("name", ["fits/h36m.npy", "fits/coco.npz"])
def test_extreme_shapes_of_fits_become_the_mean_shape(tmp_path, name):
    rows = make_rows()
    del rows["pose"], rows["shape"], rows["has_smpl"]
    _, betas = write_fits(tmp_path, name)
    both = open_rows(tmp_path, rows, fits=StaticFits(name))[0]
    np.testing.assert_allclose(both["betas"][0], betas[0], rtol=1e-6)
    assert both["betas"][1].tolist() == [0] * 10
    kept = open_rows(tmp_path, rows, fits=StaticFits(name, max_beta=None))[0]
    np.testing.assert_allclose(kept["betas"][1], betas[2], rtol=1e-6)
    assert open_rows(tmp_path, rows, fits=StaticFits(name))[1]["has_pose"].all() == (
        name.endswith(".npy")  # without validity, all are valid
    )


def test_fits_of_another_file_are_refused(tmp_path):
    write_fits(tmp_path, "fits/coco.npz", num=3)
    with pytest.raises(ValueError, match=r"coco.npz has 3 fits, the annotations 4 rows"):
        open_rows(tmp_path, make_rows(), fits=StaticFits("fits/coco.npz"))


# --------------------------------------------------------------------------------------- OpenPose


def write_openpose(path, people):
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = [{"person_id": [-1], "pose_keypoints_2d": p.ravel().tolist()} for p in people]
    path.write_text(json.dumps({"version": 1.3, "people": entries}))


def detections_of(part, rng):
    """What OpenPose would find of labelled people (P, 24, 3): their limbs, a little off."""
    limbs = [f"{s}_{j}" for s in ("left", "right") for j in ("hip", "knee", "ankle", "shoulder")]
    found = np.zeros((len(part), 25, 3))
    for limb in limbs:
        there = joints.index(f"openpose_{limb}", "openpose25")
        xy = part[:, joints.index(f"spin_{limb}", "spin24"), :2]
        found[:, there] = np.hstack([xy + rng.normal(0, 1, xy.shape), np.full((len(part), 1), 0.8)])
    return found


def test_openpose_joints_go_to_the_people_they_were_found_on(tmp_path):
    rows, rng = make_rows(), np.random.default_rng(7)
    found = detections_of(rows["part"][[2, 0]], rng)  # in another order
    stranger = found[:1] + np.array([60, 0, 0])
    nothing = np.zeros((1, 25, 3))
    write_openpose(tmp_path / "op/a_keypoints.json", [*nothing, *stranger, *found])
    write_openpose(tmp_path / "op/b_keypoints.json", [])
    records = open_rows(tmp_path, rows, openpose=OpenPose("op"))
    joints_img = records[0]["keypoints_img"][:, OPENPOSE25]
    is_found = found[0, :, 2] > 0
    np.testing.assert_allclose(joints_img[0, is_found], found[1][is_found], rtol=1e-5)
    np.testing.assert_allclose(joints_img[1, is_found], found[0][is_found], rtol=1e-5)
    assert (joints_img[:, ~is_found, 2] == 0).all()
    assert (records[1]["keypoints_img"][:, OPENPOSE25, 2] == 0).all()  # nobody was found


def test_openpose_joints_of_people_without_labels_go_by_their_box(tmp_path):
    rows, rng = make_rows(), np.random.default_rng(7)
    found = detections_of(rows["part"][[1]], rng)
    corners = rows["center"][1] + 70 * rows["scale"][1] * np.array([[-1, -1], [1, 1]])
    found[0, :2] = np.column_stack([corners, [1, 1]])  # spreads over the box
    rows["part"][1, :, 2] = 0
    write_openpose(tmp_path / "op/train/b.json", found)
    write_openpose(tmp_path / "op/train/a.json", found)
    openpose = OpenPose("op", "{path}.json")
    joints_img = open_rows(tmp_path, rows, openpose=openpose)[1]["keypoints_img"][0, OPENPOSE25]
    assert ((joints_img[:, 2] > 0) == (found[0, :, 2] > 0)).all()
    far = OpenPose("op", "{path}.json", max_cost=0.01)
    assert not (open_rows(tmp_path, rows, openpose=far)[1]["keypoints_img"][0, OPENPOSE25, 2]).any()


def test_an_image_without_openpose_file_is_skipped_and_wrong_ones_are_refused(tmp_path):
    write_openpose(tmp_path / "op/b_keypoints.json", np.ones((1, 18, 3)))  # COCO's model
    records = open_rows(tmp_path, make_rows(), openpose=OpenPose("op"))
    with pytest.raises(Skipped, match="OpenPose file is missing"):
        records[0]
    with pytest.raises(ValueError, match=r"b_keypoints.json is not OpenPose's JSON.*BODY_25"):
        records[1]


# -------------------------------------------------------------------------------------------- EFT


def eft_entry(rows, row):
    matrices = Rotation.from_rotvec(rows["pose"][row].reshape(24, 3)).as_matrix()
    keypoints = np.vstack([np.zeros((25, 3)), rows["part"][row]])
    return {
        "parm_pose": matrices.tolist(),
        "parm_shape": rows["shape"][row].tolist(),
        "parm_cam": [0.9, 0.1, 0.2],
        "bbox_scale": float(rows["scale"][row]),
        "bbox_center": rows["center"][row].tolist(),
        "gt_keypoint_2d": keypoints.tolist(),
        "joint_validity_openpose18": [1.0] * 18,
        "smpltype": "smpl",
        "annotId": 17,
        "imageName": Path(NAMES[row]).name,
    }


def test_efts_json_gives_what_spins_layout_of_it_gives(tmp_path):
    rows = make_rows()
    del rows["openpose"], rows["S"], rows["gender"], rows["has_smpl"]
    folder = write_download(tmp_path / "in", rows)
    entries = [eft_entry(rows, row) for row in range(4)]
    (folder / "eft.json").write_text(json.dumps({"ver": 0.1, "data": entries, "meta": {}}))
    by_json = EftJson("eft.json", layout={"images": "train"}).open(folder)
    by_npz = SpinNpz("rows.npz").open(folder)
    assert len(by_json) == len(by_npz) == 3
    for index in range(2):
        theirs, ours = by_json[index], by_npz[index]
        for name in set(ours) - {"images"}:
            if name == "key":
                assert theirs[name] == ours[name]
            else:
                np.testing.assert_allclose(theirs[name], ours[name], atol=1e-5, err_msg=name)


def test_a_file_that_is_not_efts_is_refused(tmp_path):
    (tmp_path / "eft.json").write_text(json.dumps({"images": [], "annotations": []}))
    with pytest.raises(ValueError, match=r"eft.json is not EFT's JSON.*parm_pose"):
        EftJson("eft.json").open(tmp_path)


# -------------------------------------------------------------------------------------- bad input


def test_a_wrong_folder_is_answered_with_what_was_found_and_expected(tmp_path):
    (tmp_path / "val2014").mkdir()
    converter = instantiate(
        to_plain(load_config("prepare", ["source=coco_2014_spin", "input=x"]))["source"]["prepare"]
    )
    with pytest.raises(FileNotFoundError) as caught:
        converter.open(tmp_path)
    for part in ("holds val2014/", "expected coco_2014_train.npz", "dataset_extras"):
        assert part in str(caught.value)


def test_a_folder_without_the_images_is_refused_at_once(tmp_path):
    np.savez(tmp_path / "rows.npz", **make_rows())
    with pytest.raises(FileNotFoundError, match=r"holds rows.npz; expected train/a.jpg.*none"):
        SpinNpz("rows.npz").open(tmp_path)


def test_annotations_may_lie_elsewhere(tmp_path):
    write_download(tmp_path / "images", make_rows())
    np.savez(tmp_path / "elsewhere.npz", **make_rows())
    records = SpinNpz(str(tmp_path / "elsewhere.npz")).open(tmp_path / "images")
    assert len(records) == 3


def test_an_array_of_another_shape_is_named(tmp_path):
    rows = make_rows()
    rows["part"] = rows["part"][:, :14]
    with pytest.raises(ValueError, match=r"part is \(4, 14, 3\), expected \(4, 24, 3\)"):
        open_rows(tmp_path, rows)


def test_missing_images_are_skipped_and_reported(tmp_path, caplog):
    write_download(tmp_path / "in", make_rows())
    with caplog.at_level(logging.INFO):
        manifest = prepare(
            SpinNpz("rows.npz"), "made", tmp_path / "in", tmp_path / "out", workers=0
        )
    assert manifest["num_records"] == 2
    assert manifest["num_people"] == 3
    assert manifest["kind"] == "scenes"
    assert "image file is missing" in caplog.text


def test_a_converter_can_be_sent_to_other_processes(tmp_path):
    converter = SpinNpz("rows.npz", fits=StaticFits("f.npy"), openpose=OpenPose("op"))
    again = pickle.loads(pickle.dumps(converter))
    assert again.layout == converter.layout
    assert again.openpose.folder == "op"


# --------------------------------------------------------------------------------- configuration

# The tables of PyMAF's and Meta-HMR's data, CLIFF's and EFT's releases.
FILES = """
h36m_mosh_train.npz h36m_valid_protocol1_newpath.npz h36m_valid_protocol2_newpath.npz
h36m_mosh_valid_p2.npz mpi_inf_3dhp_train.npz mpi_inf_3dhp_test.npz lsp_dataset_original_train.npz
hr-lspet_train.npz hr-lspet_train_eft.npz mpii_train.npz mpii_train_eft.npz coco_2014_train.npz
coco-full_train_eft.npz 3dpw_test.npz coco_2014_val.npz lsp_dataset_test.npz
h36m_mosh_train_fixname.npz coco_2014_smpl_train.npz mpii_smpl_w3d_train.npz
mpi_inf_3dhp_train_name_revised.npz 3dpw_train_w2d_smpl3d_gender.npz
3dpw_test_w2d_smpl3d_gender_openpose.npz h36m_mosh_val_p2_fixname_openpose.npz
h36m_mosh_val_p1.npz mpi_inf_3dhp_valid_openpose.npz coco_2014_smpl_val_openpose.npz
coco2014part_cliffGT.npz mpii_cliffGT.npz
COCO2014-All-ver01.json COCO2014-Part-ver01.json MPII_ver01.json LSPet_ver01.json
"""
WITH_FITS = "coco mpii lsp lspet mpi_inf_3dhp h36m"  # SPIN's
TREE = Path(config_dir()) / "source"


def spin_nodes():
    """The sources of these converters, as they are written."""
    nodes = {path.stem: OmegaConf.load(path) for path in sorted(TREE.glob("*.yaml"))}
    ours = tuple(one.__module__ for one in (SpinNpz, EftJson))
    return {
        name: OmegaConf.to_container(node)
        for name, node in nodes.items()
        if OmegaConf.select(node, "prepare._target_", default="").startswith(ours)
    }


def test_every_official_file_has_a_source():
    nodes = spin_nodes().values()
    plain = [n["prepare"]["annotations"] for n in nodes if not n["prepare"].get("fits")]
    fitted = [n["prepare"]["fits"]["file"] for n in nodes if n["prepare"].get("fits")]
    assert sorted(plain) == sorted(FILES.split())
    assert sorted(Path(file).stem for file in fitted) == sorted(WITH_FITS.split())


def test_every_source_says_all_its_options():
    for name, node in spin_nodes().items():
        converter = instantiate(node["prepare"], _convert_="all")
        assert node["prepare"]["layout"].keys() == vars(converter.layout).keys(), name
        given = {key for key in node["prepare"] if not key.startswith("_")}
        assert given == vars(converter).keys() - {"joint_set"}, name


def test_sources_are_scored_on_joints_that_they_have_or_that_their_bodies_have():
    for name, node in spin_nodes().items():
        assert ("weight" in node) != name.endswith(("_test", "_val", "_p1", "_p2", "_p2_mosh"))
        if "protocol" not in node:
            continue
        composed = load_config("prepare", [f"source={name}", "input=download"])
        protocol = build_protocol(to_plain(composed)["source"]["protocol"])
        joint_set = instantiate(node["prepare"], _convert_="all").joint_set
        has_joints = set(joints.names(protocol.joint_set)) <= set(joints.names(joint_set))
        assert has_joints or name.startswith("3dpw"), name  # 3DPW is labelled with bodies
