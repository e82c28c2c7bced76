"""What augmentation must never break, whatever is drawn: labels agree, and none touches another."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hmrkit.body import joints
from hmrkit.data.augment import AugmentParams
from hmrkit.data.collate import collate
from hmrkit.data.crops import Crops, halve
from hmrkit.data.motion import Motion
from hmrkit.data.multiview import MultiView
from hmrkit.data.record import complete_sample
from hmrkit.data.scenes import Scenes
from made_records import forward_kinematics, make_record, project

FEW = settings(max_examples=40, deadline=None, derandomize=True)
PARAMS = st.builds(
    AugmentParams,
    scale=st.floats(0.5, 2),
    rotation_deg=st.floats(-180, 180),
    is_flipped=st.booleans(),
    shift=st.tuples(st.floats(-0.2, 0.2), st.floats(-0.2, 0.2)),
)
SEEDS = st.integers(0, 10_000)


def cut_crops(record, params):
    return Crops((128, 96)).cut(record, 0, params)


def cut_half_resolution(record, params):
    return Crops((128, 96), half_resolution_sources=["made"]).cut(record, 0, params)


def cut_scenes(record, params):
    return Scenes(long_side_px=160).cut(record, params)


def cut_views(record, params):
    views = np.arange(len(record["image_of_view"]))
    draws = [params] * len(views)
    return MultiView(Crops((96, 96))).cut(record, views, draws, params.is_flipped)


CUTS = {  # cut, people and cameras of the records it is for
    "crops": (cut_crops, 1, 1),
    "crops of a rig": (cut_crops, 2, 3),
    "crops at half resolution": (cut_half_resolution, 1, 1),
    "scenes": (cut_scenes, 3, 1),
    "multiview": (cut_views, 2, 3),
}
ANY_CUT = pytest.mark.parametrize("name", CUTS)


def make(name, seed):
    cut, num_persons, num_cameras = CUTS[name]
    return cut, make_record(seed, num_persons, num_cameras, size_hw=(180, 240))


def projected(batch, points_world):
    """Points (P, K, 3) through every camera and map of a batch: (O, K, 2) in crop units."""
    units = []
    for view, (image, person) in enumerate(
        zip(batch["image_of_view"], batch["person_of_view"], strict=True)
    ):
        camera = batch["world_to_camera"][image].double().numpy()
        px = project(points_world[person], camera, batch["intrinsics"][image].double().numpy())
        to_img = batch["crop_to_img"][view].double().numpy()
        units.append((px - to_img[:, 2]) @ np.linalg.inv(to_img[:, :2]).T)
    return np.stack(units)


# One geometry


@ANY_CUT
@FEW
@given(params=PARAMS, seed=SEEDS)
def test_augmented_bodies_project_onto_augmented_joints(name, params, seed):
    """Pose, translation, cameras, intrinsics and the crop's map, all of them augmented."""
    cut, record = make(name, seed)
    sample = cut(record, params)
    batch = collate([sample])
    assert batch["has_transl"].all()
    posed = forward_kinematics(sample["pose"], sample["transl"])
    smpl24 = joints.index(joints.names("smpl24"), "all")
    np.testing.assert_allclose(posed, batch["keypoints_world"][:, smpl24, :3], atol=1e-4)
    wanted = batch["keypoints_crop"][:, smpl24, :2]
    np.testing.assert_allclose(projected(batch, posed), wanted, atol=2e-3)
    labelled = batch["keypoints_world"][:, smpl24, :3].double().numpy()
    np.testing.assert_allclose(projected(batch, labelled), wanted, atol=1e-3)


@ANY_CUT
@FEW
@given(params=PARAMS, seed=SEEDS)
def test_projections_move_like_pixels(name, params, seed):
    """Augment, then project, is project, then augment: the map of the crop does the second."""
    cut, record = make(name, seed)
    sample = cut(record, params)
    plain = cut(record, AugmentParams())
    flip = joints.flip_permutation("smpl24") if params.is_flipped else slice(None)
    for view, to_img in enumerate(sample["crop_to_img"].astype(np.float64)):
        back = sample["keypoints_crop"][view, :, :2] @ to_img[:, :2].T + to_img[:, 2]
        plain_to_img = plain["crop_to_img"][view].astype(np.float64)
        source = plain["keypoints_crop"][view, :, :2] @ plain_to_img[:, :2].T + plain_to_img[:, 2]
        np.testing.assert_allclose(back, source[flip], atol=0.02)  # px


@FEW
@given(seed=SEEDS)
def test_halved_intrinsics_project_halved_labels(seed):
    record = make_record(seed, num_persons=2, num_cameras=2, size_hw=(181, 240))
    half = halve(record)
    for view, (image, person) in enumerate(
        zip(half["image_of_view"], half["person_of_view"], strict=True)
    ):
        px = project(
            half["keypoints_world"][person, :, :3].astype(np.float64),
            half["world_to_camera"][image].astype(np.float64),
            half["intrinsics"][image].astype(np.float64),
        )
        np.testing.assert_allclose(px, half["keypoints_img"][view, :, :2], atol=1e-3)


# Flips


def as_record(sample):
    """A crop as the record of a photo: its pixels, its camera, and its labels in px of it."""
    image = sample["input_image"][0]
    height, width = image.shape[:2]
    img_to_px = np.linalg.inv(np.vstack([sample["crop_to_img"][0], [0, 0, 1]]).astype(np.float64))
    img_to_px = np.array([[width / 2, 0, width / 2], [0, height / 2, height / 2], [0, 0, 1]]) @ (
        img_to_px
    )
    keypoints = sample["keypoints_crop"].copy()
    keypoints[..., :2] = (keypoints[..., :2] + 1) / 2 * [width, height]
    # A mirrored camera is a camera again once its mirror is in the world, where the labels are.
    camera = img_to_px @ sample["intrinsics"][0] @ sample["world_to_camera"][0, :3, :3]
    names = ("key", "source", "pose", "betas", "transl", "has_pose", "has_betas", "keypoints_world")
    partial = {name: sample[name] for name in names}
    partial |= {
        "images": [image],
        "image_of_view": np.zeros(1, np.int64),
        "person_of_view": np.zeros(1, np.int64),
        "box_img": np.float32([[0, 0, width, height]]),
        "keypoints_img": keypoints.astype(np.float32),
        "intrinsics": camera[None].astype(np.float32),
    }
    return complete_sample(partial, sample["joint_set"])


@FEW
@given(seed=SEEDS)
def test_the_flip_of_a_flipped_crop_is_the_crop(seed):
    record = make_record(seed, size_hw=(180, 240))
    flipped, same = AugmentParams(is_flipped=True), AugmentParams()
    whole = Crops((96, 96), box_scale=1.0)
    once = Crops((96, 96)).cut(record, 0, same)
    twice = whole.cut(as_record(Crops((96, 96)).cut(record, 0, flipped)), 0, flipped)
    for name in ("keypoints_crop", "keypoints_world"):
        np.testing.assert_allclose(twice[name], once[name], atol=1e-4)
    for name in ("pose", "betas", "transl"):
        np.testing.assert_allclose(twice[name], once[name], atol=1e-6)
    # Mirrored about W / 2, column x goes to W - x: the first column comes from outside.
    difference = np.abs(twice["input_image"][0].astype(int) - once["input_image"][0])[:, 2:-2]
    assert difference.mean() < 1.5
    batches = collate([once]), collate([twice])
    for batch in batches:
        all_joints = batch["keypoints_world"][..., :3].double().numpy()
        is_labelled = batch["keypoints_crop"][..., 2] > 0
        np.testing.assert_allclose(
            projected(batch, all_joints)[is_labelled],
            batch["keypoints_crop"][..., :2][is_labelled],
            atol=1e-3,
        )


@FEW
@given(seed=SEEDS, num_frames=st.integers(1, 4))
def test_the_flip_of_a_flipped_clip_is_the_clip(seed, num_frames):
    rng = np.random.default_rng(seed)
    clip = complete_sample(
        {
            "key": "clip",
            "pose": rng.normal(0, 0.5, (num_frames, 24, 3)).astype(np.float32),
            "transl": rng.normal(0, 1, (num_frames, 3)).astype(np.float32),
            "has_pose": np.ones(num_frames, bool),
        },
        "smpl24",
    )
    always = Motion(flip_probability=1.0)
    once = always(clip, None, np.random.default_rng(0))
    twice = always(once, None, np.random.default_rng(0))
    assert not np.array_equal(once["pose"], clip["pose"])
    np.testing.assert_allclose(twice["pose"], clip["pose"], atol=1e-6)
    np.testing.assert_array_equal(twice["transl"], clip["transl"])


# Joint sets


@FEW
@given(joint_set=st.sampled_from(sorted(joints.JOINT_SETS)), seed=SEEDS)
def test_the_superset_and_back_is_the_identity_on_the_joints_of_a_set(joint_set, seed):
    rng = np.random.default_rng(seed)
    num = len(joints.names(joint_set))
    keypoints = rng.normal(size=(1, num, 3)).astype(np.float32)
    keypoints[..., 2] = rng.random((1, num)) < 0.7
    world = rng.normal(size=(1, num, 4)).astype(np.float32)
    world[..., 3] = rng.random((1, num)) < 0.7
    sample = {
        **make_record(seed % 7, size_hw=(40, 60)),
        "joint_set": joint_set,
        "keypoints_img": keypoints,
        "keypoints_world": world,
    }
    cut = Crops((32, 32)).cut(sample, 0, AugmentParams())
    batch = collate([cut])
    back = joints.mapping("all", joint_set)
    for name in ("keypoints_crop", "keypoints_world"):
        wanted = cut[name] * (cut[name][..., -1:] > 0)  # absent ones have no numbers in a batch
        np.testing.assert_array_equal(batch[name][:, back], wanted)
        others = np.setdiff1d(np.arange(len(joints.names("all"))), back)
        assert not batch[name][:, others].any()


# Validity

LABELS = ("pose", "betas", "transl", "keypoints_img", "keypoints_world", "intrinsics", "gender")


def without(record, label, row):
    """The record without one label of one person, view or image."""
    changed = {**record, label: record[label].copy()}
    changed[label][row] = -1 if label == "gender" else np.nan
    if label.startswith("keypoints"):
        changed[label][row][..., -1] = 0
    if label in ("pose", "betas"):
        changed[f"has_{label}"] = record[f"has_{label}"].copy()
        changed[f"has_{label}"][row] = False
    return changed


def flat(batch):
    """Every tensor of a batch, by name."""
    body = {f"body.{k}": v for k, v in vars(batch["body"]).items()}
    return {k: v for k, v in ({**batch, **body}).items() if isinstance(v, torch.Tensor)}


# What of a batch is made of a label; the translation of a turned person follows the pelvis.
MADE_OF = {
    "pose": {"body.global_orient", "body.body_pose", "has_pose"},
    "betas": {"body.betas", "has_betas"},
    "transl": {"body.transl", "has_transl"},
    "keypoints_img": {"keypoints_crop"},
    "keypoints_world": {"keypoints_world", "body.transl", "has_transl"},
    "intrinsics": {"intrinsics", "intrinsics_of_view"},
    "gender": {"gender"},
}


@ANY_CUT
@FEW
@given(params=PARAMS, seed=SEEDS, label=st.sampled_from(LABELS))
def test_an_absent_label_is_absent_and_changes_no_other(name, params, seed, label):
    cut, record = make(name, seed)
    record["gender"][:] = 1
    whole = flat(collate([cut(record, params)]))
    lacking = flat(collate([cut(without(record, label, 0), params)]))
    assert whole.keys() == lacking.keys()
    changed = {
        k for k in whole if not torch.equal(whole[k].nan_to_num(9), lacking[k].nan_to_num(9))
    }
    assert changed <= MADE_OF[label]
    present = {
        "pose": lambda b: b["has_pose"],
        "betas": lambda b: b["has_betas"],
        "transl": lambda b: b["has_transl"],
        "keypoints_img": lambda b: b["keypoints_crop"][..., 2].any(1),
        "keypoints_world": lambda b: b["keypoints_world"][..., 3].any(1),
        "intrinsics": lambda b: b["intrinsics"].isfinite().all(2).all(1),
        "gender": lambda b: b["gender"] >= 0,
    }[label]
    assert present(whole).all()
    assert not present(lacking)[0]
    for key, value in lacking.items():  # nothing but unknown cameras is without a number
        assert torch.isfinite(value).all() or "intrinsics" in key, key


@ANY_CUT
@FEW
@given(params=PARAMS, seed=SEEDS, joint=st.integers(0, 23))
def test_an_absent_joint_is_absent_under_its_mirrored_name(name, params, seed, joint):
    cut, record = make(name, seed)
    for label in ("keypoints_img", "keypoints_world"):
        record[label][:, joint] = np.nan
        record[label][:, joint, -1] = 0
    batch = collate([cut(record, params)])
    smpl24 = joints.index(joints.names("smpl24"), "all")
    gone = joints.flip_permutation("smpl24")[joint] if params.is_flipped else joint
    for label in ("keypoints_crop", "keypoints_world"):
        confidence = batch[label][:, smpl24, -1]
        assert (confidence == 0).nonzero()[:, 1].unique().tolist() == [gone]
