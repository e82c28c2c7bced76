from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hmrkit.body import joints
from hmrkit.data.augment import (
    Augment,
    AugmentParams,
    augment_pixels,
    extreme_region,
    in_plane_matrix,
    keypoints_to_crop,
    mirror_matrix,
    mirror_pose,
    move_world,
)
from hmrkit.data.crops import Crops
from hmrkit.data.scenes import Scenes
from made_records import forward_kinematics, make_record, projected_crop

PARAMS = st.builds(
    AugmentParams,
    scale=st.floats(0.5, 2),
    rotation_deg=st.floats(-180, 180),
    is_flipped=st.booleans(),
    shift=st.tuples(st.floats(-0.2, 0.2), st.floats(-0.2, 0.2)),
)
FEW = settings(max_examples=40, deadline=None, derandomize=True)


@FEW
@given(params=PARAMS, seed=st.integers(0, 50))
def test_projecting_augmented_labels_gives_augmented_projections(params, seed):
    cut = Crops(input_size=(256, 192)).cut(make_record(seed), 0, params)
    np.testing.assert_allclose(projected_crop(cut, 0), cut["keypoints_crop"][0, :, :2], atol=2e-4)


@FEW
@given(params=PARAMS, seed=st.integers(0, 50))
def test_projecting_augmented_labels_of_a_scene_gives_augmented_projections(params, seed):
    cut = Scenes(long_side_px=200).cut(make_record(seed, num_persons=3), params)
    for view in range(3):
        np.testing.assert_allclose(
            projected_crop(cut, view), cut["keypoints_crop"][view, :, :2], atol=2e-4
        )


@FEW
@given(params=PARAMS, seed=st.integers(0, 50))
def test_an_augmented_crop_is_the_picture_of_a_pinhole_camera(params, seed):
    """Turning and mirroring about the crop's centre moves the principal point, nothing else."""
    cut = Crops(input_size=(200, 200)).cut(make_record(seed), 0, params)
    to_img = np.vstack([cut["crop_to_img"][0], [0, 0, 1]]).astype(np.float64)
    camera = np.linalg.inv(to_img) @ cut["intrinsics"][0] @ cut["world_to_camera"][0, :3, :3]
    np.testing.assert_allclose(camera[0, 1], 0, atol=1e-4)
    np.testing.assert_allclose(camera[1, 0], 0, atol=1e-4)
    np.testing.assert_allclose(camera[0, 0], camera[1, 1], rtol=1e-5)
    assert camera[0, 0] > 0


@FEW
@given(params=PARAMS, seed=st.integers(0, 50))
def test_augmented_pose_and_translation_pose_the_augmented_joints(params, seed):
    record = make_record(seed, num_persons=2)
    moved = move_world(record, in_plane_matrix(params))
    posed = forward_kinematics(moved["pose"], moved["transl"])
    np.testing.assert_allclose(posed, moved["keypoints_world"][..., :3], atol=1e-5)
    np.testing.assert_array_equal(moved["betas"], record["betas"])


@FEW
@given(seed=st.integers(0, 1000))
def test_flipping_twice_changes_nothing(seed):
    record = make_record(seed, num_persons=2)
    twice = move_world(move_world(record, mirror_matrix(True)), mirror_matrix(True))
    for name in ("keypoints_world", "pose", "transl", "world_to_camera"):
        np.testing.assert_allclose(twice[name], record[name], atol=1e-6)
    np.testing.assert_array_equal(mirror_pose(mirror_pose(record["pose"])), record["pose"])
    affine = np.array([[-1.0, 0, 0], [0, 1, 0]])
    keypoints = record["keypoints_img"]
    for _ in range(2):
        keypoints = keypoints_to_crop(keypoints, affine, "smpl24", is_flipped=True)
    np.testing.assert_array_equal(keypoints, record["keypoints_img"])


@pytest.mark.parametrize("joint_set", sorted(set(joints.JOINT_SETS) - {"smpl45"}))
def test_a_flip_exchanges_left_and_right_names(joint_set):
    names = joints.names(joint_set)
    keypoints = np.zeros((1, len(names), 3))
    keypoints[0, :, 0] = [1 if "left" in n else -1 if "right" in n else 0 for n in names]
    mirrored = keypoints_to_crop(
        keypoints, np.array([[-1.0, 0, 0], [0, 1, 0]]), joint_set, is_flipped=True
    )
    np.testing.assert_array_equal(mirrored[0, :, 0], keypoints[0, :, 0])


def test_translation_is_unknown_after_a_turn_without_a_labelled_pelvis():
    record = make_record(num_persons=2)
    record["keypoints_world"][1, joints.index("pelvis", "smpl24")] = [np.nan, np.nan, np.nan, 0]
    turned = move_world(record, in_plane_matrix(AugmentParams(rotation_deg=20)))
    assert np.isfinite(turned["transl"][0]).all()
    assert np.isnan(turned["transl"][1]).all()
    shift = np.eye(4)
    shift[:3, 3] = [1, 2, 3]
    np.testing.assert_allclose(
        move_world(record, shift)["transl"], record["transl"] + [1, 2, 3], rtol=1e-6
    )


def test_absent_labels_stay_absent():
    record = make_record(num_persons=2)
    record["has_pose"][1], record["pose"][1] = False, np.nan
    record["keypoints_world"][0, 5] = [np.nan, np.nan, np.nan, 0]
    moved = move_world(record, in_plane_matrix(AugmentParams(rotation_deg=20, is_flipped=True)))
    assert np.isnan(moved["pose"][1]).all()
    assert np.isfinite(moved["pose"][0]).all()
    left = joints.flip_permutation("smpl24")[5]
    np.testing.assert_array_equal(
        np.isnan(moved["keypoints_world"][0, :, 0]), np.arange(24) == left
    )
    assert moved["keypoints_world"][0, left, 3] == 0


def test_colours_are_scaled_clipped_and_truncated():
    image = np.random.default_rng(0).integers(0, 256, (32, 24, 3), dtype=np.uint8)
    gain = (0.6, 1.0, 1.4)
    wanted = np.clip(image * np.array(gain), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(augment_pixels(image, AugmentParams(color_gain=gain)), wanted)
    np.testing.assert_array_equal(augment_pixels(image, AugmentParams()), image)


def test_draws_follow_the_recipe():
    augment = Augment(
        shift_std=0.02, shift_max=0.02, extreme_crop_probability=0.1, extreme_crop_level=0
    )
    rng = np.random.default_rng(0)
    draws = [augment.draw(rng) for _ in range(4000)]
    turned = np.array([d.rotation_deg for d in draws if d.rotation_deg != 0])
    assert abs(np.mean([d.is_flipped for d in draws]) - 0.5) < 0.03
    assert abs(len(turned) / 4000 - 0.4) < 0.03
    assert np.abs(turned).max() <= 60
    assert abs(np.std(turned) - 28.4) < 2  # a normal of 30 degrees clipped at 60
    scale = np.array([d.scale for d in draws])
    assert scale.min() == 0.75
    assert scale.max() == 1.25
    gains = np.array([d.color_gain for d in draws])
    assert gains.min() > 0.6
    assert gains.max() < 1.4
    assert abs(np.corrcoef(gains.T)[0, 1]) < 0.05  # per channel
    assert np.abs([d.shift for d in draws]).max() == 0.02
    assert abs(np.mean([d.extreme_crop is not None for d in draws]) - 0.1) < 0.02
    assert {d.extreme_crop_level for d in draws} == {0}


def test_equal_generators_draw_equally():
    augment = Augment()
    first, second = (augment.draw(np.random.default_rng(5)) for _ in range(2))
    assert first == second != augment.draw(np.random.default_rng(6))


@pytest.mark.parametrize(
    ("draw", "level", "inside", "outside"),
    [
        (0.01, 1, "right_wrist", "left_ankle"),  # to the hips
        (0.25, 1, "right_shoulder", "left_elbow"),  # to the shoulders
        (0.35, 1, "head", "left_shoulder"),  # head
        (0.45, 1, "left_hip", "left_wrist"),  # torso
        (0.55, 1, "right_hand", "left_shoulder"),  # right arm
        (0.65, 1, "left_hand", "right_shoulder"),  # left arm
        (0.75, 1, "right_foot", "left_shoulder"),  # legs
        (0.85, 1, "right_foot", "head"),  # right leg
        (0.95, 1, "left_foot", "head"),  # left leg
        (0.65, 0, "right_wrist", "left_ankle"),  # to the hips
        (0.85, 0, "right_shoulder", "left_elbow"),  # to the shoulders
        (0.95, 0, "head", "left_shoulder"),  # head
    ],
)
def test_an_extreme_crop_shows_one_region(draw, level, inside, outside):
    names = joints.names("smpl24")
    keypoints = _standing_person()
    center, side = extreme_region(keypoints, "smpl24", draw, level)
    offset = np.abs(keypoints[:, :2] - center).max(axis=1)
    assert offset[names.index(inside)] < side / 2
    assert offset[names.index(outside)] > side / 2


@pytest.mark.parametrize("level", [0, 1])
def test_an_extreme_crop_of_a_person_without_legs_stays_above_the_hips(level):
    keypoints = _standing_person()
    low = [i for i, n in enumerate(joints.names("smpl24")) if n.split("_")[-1] in ("knee", "ankle")]
    keypoints[low, 2] = 0
    hip = keypoints[joints.index("left_hip", "smpl24"), 1]
    for draw in np.linspace(0, 0.999, 15):
        center, _ = extreme_region(keypoints, "smpl24", float(draw), level)
        assert center[1] < hip


def test_an_extreme_crop_is_left_out_where_too_little_is_labelled():
    no_ankle, faint, tiny, unlabelled = (_standing_person() for _ in range(4))
    no_ankle[joints.index("left_ankle", "smpl24"), 2] = 0
    faint[:, 2] = 0.01
    tiny[:, :2] = 200 + (tiny[:, :2] - 200) / 1000
    unlabelled[:, 2] = 0
    for keypoints in (no_ankle, faint, tiny, unlabelled):
        for draw in (0.01, 0.35, 0.95):
            assert extreme_region(keypoints, "smpl24", draw) is None


def test_a_limb_is_seen_if_either_annotation_has_it():
    keypoints = np.random.default_rng(0).uniform(1, 200, (44, 3)).astype(np.float32)
    keypoints[joints.index("openpose_left_wrist", "spin44"), 2] = 0
    assert extreme_region(keypoints, "spin44", 0.5) is not None
    keypoints[joints.index("spin_left_wrist", "spin44"), 2] = 0
    assert extreme_region(keypoints, "spin44", 0.5) is None


def test_an_unknown_level_of_extreme_crops_is_refused():
    with pytest.raises(ValueError, match="extreme_crop_level=2: choose 0 or 1"):
        Augment(extreme_crop_level=2)


def test_an_extreme_crop_reaches_the_input():
    record = make_record(3)
    crops = Crops(input_size=(128, 128))
    whole, region = (
        crops.cut(record, 0, replace(AugmentParams(), extreme_crop=u)) for u in (None, 0.35)
    )
    head = joints.index("head", "smpl24")
    assert np.linalg.norm(region["crop_to_img"][0, :, :2]) < np.linalg.norm(
        whole["crop_to_img"][0, :, :2]
    )
    assert np.abs(region["keypoints_crop"][0, head, :2]).max() < 1
    np.testing.assert_allclose(
        projected_crop(region, 0), region["keypoints_crop"][0, :, :2], atol=5e-4
    )


def _standing_person() -> np.ndarray:
    """(24, 3) px, arms and legs apart."""
    places = {
        "pelvis": (0, 0), "hip": (12, 5), "spine1": (0, -15), "knee": (25, 50), "spine2": (0, -25),
        "ankle": (35, 95), "spine3": (0, -35), "foot": (40, 105), "neck": (0, -55),
        "collar": (6, -50), "head": (0, -70), "shoulder": (18, -50), "elbow": (45, -45),
        "wrist": (70, -45), "hand": (78, -45),
    }  # fmt: skip
    rows = []
    for name in joints.names("smpl24"):
        x, y = places[name.removeprefix("left_").removeprefix("right_")]
        rows.append((200 - x if "right" in name else 200 + x, 200 + y, 1))
    return np.array(rows, np.float32)
