"""Synthetic people: labels are true, records are reproducible, shards survive interruption."""

import dataclasses
import signal
import time

import numpy as np
import pytest
import torch

import made_programs
from hmrkit.body import joints
from hmrkit.body.free import free_body_data
from hmrkit.body.smpl import SMPL
from hmrkit.configs import load_config, to_plain
from hmrkit.data.shards import ShardSet
from hmrkit.data.synth import poses
from hmrkit.data.synth.cast import Studio, draw_cast, moved
from hmrkit.data.synth.generate import draw_record
from hmrkit.data.synth.people import FastBody
from hmrkit.data.synth.recipe import Recipe, to_recipe
from hmrkit.data.synth.shards import make_shards
from hmrkit.data.synth.view import draw_place, take
from hmrkit.geometry.rotations import axis_angle_to_rotmat
from hmrkit.types import Body

PLAIN = Recipe(
    occluder_probability=0.0,
    ground_probability=0.0,
    max_shapes=0,
    max_noise=0.0,
    max_gain=0.0,
    truncation_probability=0.0,
)
SIZES = {"crops": (128, 128), "scenes": (120, 200), "rigs": (96, 128), "motion": (64, 64)}


@pytest.fixture(scope="module")
def studio():
    return Studio(FastBody(free_body_data()))


@pytest.fixture(scope="module")
def smpl():
    return SMPL(free_body_data())


def draw(studio, kind, index=0, seed=0, **options):
    return draw_record(kind, studio, to_recipe(options), SIZES[kind], seed, index)


def one_person_cam(studio, seed=0):
    """Someone 4 m before a level camera at belly height, and (4, 4) level world to camera."""
    cast = draw_cast(np.random.default_rng(seed), studio, PLAIN, np.array([20.0]))
    level_to_camera = np.eye(4)
    level_to_camera[:3, :3] = poses.FACING_CAMERA
    level_to_camera[:3, 3] = [0, 0.9, 4.0]
    return moved(cast, level_to_camera), level_to_camera


def photo_of(studio, cast, matrix, intrinsics, size_hw=(160, 160), recipe=PLAIN):
    rng = np.random.default_rng(5)
    place = draw_place(rng, recipe, recipe.ground_probability)
    return take(rng, studio, cast, place, matrix, intrinsics, size_hw, recipe)


CAMERA = np.array([[250.0, 0, 79.5], [0, 250.0, 79.5], [0, 0, 1]])


def test_sampled_angles_respect_the_joint_limits():
    angles = poses.sample_angles(np.random.default_rng(0), 2000, noise_scale=2.0)
    lower, upper = poses.joint_limits_deg()
    assert (angles >= lower).all()
    assert (angles <= upper).all()
    knee = angles[:, joints.index("left_knee", "smpl24"), 0]
    assert knee.min() == 0
    assert knee.max() > 120


def test_angles_and_rotations_convert_both_ways():
    rotmat = poses.angles_to_rotmat(poses.sample_angles(np.random.default_rng(0), 50))
    assert np.allclose(poses.angles_to_rotmat(poses.joint_angles_deg(rotmat)), rotmat, atol=1e-9)


def test_mirrored_pose_gives_mirrored_joints(studio):
    angles = poses.sample_angles(np.random.default_rng(1), 20)
    zeros = np.zeros((20, 10)), np.zeros((20, 3))
    posed = studio.body.pose(poses.angles_to_rotmat(angles), *zeros).keypoints
    mirrored = studio.body.pose(poses.angles_to_rotmat(poses.mirror_angles(angles)), *zeros)
    expected = posed[:, joints.flip_permutation("all")] * [-1, 1, 1]
    assert np.allclose(mirrored.keypoints, expected, atol=1e-3)
    both = poses.mirror_rotmat(poses.angles_to_rotmat(angles))
    assert np.allclose(both, poses.angles_to_rotmat(poses.mirror_angles(angles)))


def test_mean_pose_is_upright_symmetric_rotations():
    mean = poses.mean_pose(num=4000)
    assert np.allclose(np.linalg.det(mean), 1)
    assert np.allclose(poses.mirror_rotmat(mean), mean, atol=1e-6)
    assert mean[0, 1, 1] < -0.98  # the body's up is the image's up


@pytest.mark.parametrize("kind", ["crops", "scenes", "rigs", "motion"])
def test_labels_are_the_forward_pass_of_smpl(studio, smpl, kind):
    sample = draw(studio, kind, index=3)
    rotmat = axis_angle_to_rotmat(torch.from_numpy(sample["pose"]))
    betas, transl = torch.from_numpy(sample["betas"]), torch.from_numpy(sample["transl"])
    mesh = smpl(Body(rotmat[:, 0], rotmat[:, 1:], betas, transl))
    expected = smpl.joints_from_mesh(mesh, "all").numpy()
    assert np.abs(sample["keypoints_world"][..., :3] - expected).max() < 1e-4
    assert (sample["keypoints_world"][..., 3] == 1).all()


@pytest.mark.parametrize("kind", ["crops", "scenes", "rigs"])
def test_world_goes_through_each_camera_to_the_labelled_pixels(studio, kind):
    for index in range(3):
        sample = draw(studio, kind, index)
        view_camera = sample["world_to_camera"][sample["image_of_view"]]
        world = sample["keypoints_world"][sample["person_of_view"], :, :3]
        cam = world @ view_camera[:, :3, :3].swapaxes(1, 2) + view_camera[:, None, :3, 3]
        ray = cam @ sample["intrinsics"][sample["image_of_view"]].swapaxes(1, 2)
        pixels = ray[..., :2] / ray[..., 2:]
        assert np.abs(pixels - sample["keypoints_img"][..., :2]).max() < 0.02
        height, width = SIZES[kind]
        is_inside = ((pixels > -0.5) & (pixels < [width - 0.5, height - 0.5])).all(-1)
        assert (is_inside == sample["keypoints_img"][..., 2]).mean() > 0.995
        assert (cam[..., 2] > 0.5).all()


def test_rig_cameras_differ_and_are_rigid(studio):
    sample = draw(studio, "rigs", num_cameras=5, num_people_rig=[2, 2])
    assert len(sample["images"]) == 5
    assert len(sample["box_img"]) == 10
    rotation = sample["world_to_camera"][:, :3, :3]
    assert np.allclose(rotation @ rotation.swapaxes(1, 2), np.eye(3), atol=1e-5)
    assert np.allclose(np.linalg.det(rotation), 1, atol=1e-5)
    position = -np.einsum("iba,ib->ia", rotation, sample["world_to_camera"][:, :3, 3])
    assert (position[:, 1] > 0.3).all()  # above the floor
    gaps = np.linalg.norm(position[:, None] - position, axis=-1) + 10 * np.eye(5)
    assert gaps.min() > 0.5
    assert sample["keypoints_world"][..., 1].min() > -0.02  # nobody is below the floor


def test_box_and_keypoints_fit_the_drawn_silhouette(studio):
    for seed in range(4):
        cast, matrix = one_person_cam(studio, seed)
        away = dataclasses.replace(cast, vertices=cast.vertices + np.float32([50, 0, 0]))
        photo = photo_of(studio, cast, matrix, CAMERA)
        empty = photo_of(studio, away, matrix, CAMERA)
        changed = np.abs(photo.image.astype(int) - empty.image).max(-1) > 3
        rows, columns = np.nonzero(changed)
        drawn = [columns.min(), rows.min(), columns.max(), rows.max()]
        assert np.abs(photo.box_img[0] - drawn).max() < 2.5
        name = ["nose", "left_eye", "right_eye", "left_heel", "right_big_toe", "pelvis", "head"]
        points = cast.keypoints[0][
            joints.index([n if n in ("pelvis", "head") else f"openpose_{n}" for n in name], "all")
        ]
        pixel = points @ CAMERA.T
        column, row = np.rint(pixel[:, :2] / pixel[:, 2:]).astype(int).T
        near = np.pad(changed, 1)
        assert all(near[r : r + 3, c : c + 3].any() for r, c in zip(row, column, strict=True))


def test_face_points_at_the_camera_when_the_root_does(studio):
    sample = draw(studio, "crops", 1, yaw_deg=0.0, pose_noise=0.0)
    nose, head = joints.index(["openpose_nose", "head"], "all")
    depth = sample["keypoints_world"][0, :, 2]
    assert depth[nose] < depth[head]
    left, right = joints.index(["left_shoulder", "right_shoulder"], "all")
    x = sample["keypoints_img"][0, :, 0]
    assert x[left] > x[right]


def test_people_of_scenes_turn_away_no_farther_than_the_recipe_says(studio):
    sample = draw(studio, "scenes", 2, yaw_deg=0.0, pose_noise=0.0, num_people=[4, 4])
    left, right = joints.index(["left_hip", "right_hip"], "all")
    across = sample["keypoints_world"][:, left, 0] - sample["keypoints_world"][:, right, 0]
    assert len(across) > 1
    assert (across > 0).all()  # everybody faces the camera


def test_visible_fraction_is_1_when_nothing_hides_and_half_at_the_border(studio):
    cast, matrix = one_person_cam(studio)
    photo = photo_of(studio, cast, matrix, CAMERA)
    assert photo.visible_fraction[0] == 1
    middle = photo.box_img[0, 1::2].mean()
    lower_half_outside = np.add(CAMERA, [[0, 0, 0], [0, 0, 160 - middle], [0, 0, 0]])
    fraction = photo_of(studio, cast, matrix, lower_half_outside).visible_fraction[0]
    assert 0.4 < fraction < 0.75  # trunk, head and arms are more than the legs
    outside = np.add(CAMERA, [[0, 0, 500], [0, 0, 0], [0, 0, 0]])
    assert photo_of(studio, cast, matrix, outside).visible_fraction[0] == 0


def test_visible_fraction_is_0_behind_somebody_and_falls_behind_things(studio):
    cast, matrix = one_person_cam(studio)
    behind = 2 * cast.vertices  # the same outline, twice as far
    pair = dataclasses.replace(
        cast,
        vertices=np.concatenate([behind, cast.vertices]),
        normals=np.concatenate([cast.normals] * 2),
        looks=cast.looks * 2,
    )
    assert photo_of(studio, pair, matrix, CAMERA).visible_fraction.tolist() == [0, 1]
    occluders = dataclasses.replace(PLAIN, occluder_probability=1.0, max_occluders=3)
    assert photo_of(studio, cast, matrix, CAMERA, recipe=occluders).visible_fraction[0] < 0.97


def test_hand_inside_the_trunk_is_flagged_and_a_standing_person_is_not(studio):
    rest = np.zeros((3, 24, 3))
    arm, elbow = joints.index(["left_shoulder", "left_elbow"], "smpl24")
    rest[0, [arm, elbow]] = [[0, -60, -60], [0, -130, 0]]
    rest[1] = poses.prototype("standing")
    flags = studio.intersects(poses.angles_to_rotmat(rest), np.zeros((3, 10)))
    assert flags.tolist() == [True, False, False]


def test_more_tries_leave_fewer_intersecting_people(studio):
    crossed = [
        np.mean([draw_cast(np.random.default_rng(i), studio, Recipe(max_pose_tries=n), np.zeros(4))
                 .is_self_intersecting.mean() for i in range(12)])
        for n in (1, 6)
    ]  # fmt: skip
    assert crossed[0] > 0.03
    assert crossed[1] <= crossed[0] / 3


def test_motion_is_smooth_and_stands_on_the_floor(studio):
    lower, upper = poses.joint_limits_deg()
    for index in range(6):
        sample = draw(studio, "motion", index, num_frames=90)
        assert sample["pose"].shape == (90, 24, 3)
        assert len(set(sample["person_id"].tolist())) == 1
        step = np.linalg.norm(np.diff(sample["keypoints_world"][..., :3], axis=0), axis=-1)
        assert step.max() * 30 < 12  # m/s
        assert np.percentile(step, 50) * 30 > 0.02
        toe = sample["keypoints_world"][:, joints.index("openpose_left_big_toe", "all"), 1]
        heel = sample["keypoints_world"][:, joints.index("openpose_right_heel", "all"), 1]
        assert min(toe.min(), heel.min()) > -0.05
        rotmat = axis_angle_to_rotmat(torch.from_numpy(sample["pose"][:, 1:]).double()).numpy()
        angles = poses.joint_angles_deg(rotmat)
        spine = [joints.index(n, "smpl24") - 1 for n in ("spine1", "neck", "left_hip")]
        assert (angles[:, spine] > lower[1:][spine] - 0.1).all()
        assert (angles[:, spine] < upper[1:][spine] + 0.1).all()


def test_scene_people_keep_apart_and_share_one_camera(studio):
    sample = draw(studio, "scenes", 2, num_people=[4, 4])
    assert len(sample["images"]) == 1
    assert sample["image_of_view"].tolist() == [0] * len(sample["betas"])
    assert np.allclose(sample["world_to_camera"], np.eye(4))
    pelvis = sample["keypoints_world"][:, joints.index("pelvis", "all"), :3]
    gaps = np.linalg.norm(pelvis[:, None] - pelvis, axis=-1) + 10 * np.eye(len(pelvis))
    assert gaps.min() > 0.4


def test_people_of_scenes_are_as_large_as_the_recipe_says(studio):
    for distance in (1.2, 2.4):
        options = {"distance": [distance, distance], "num_people": [3, 3], "pitch_sd_deg": 0.0}
        sample = draw(studio, "scenes", 3, **options)
        depth = sample["keypoints_world"][:, joints.index("pelvis", "all"), 2]
        height = sample["intrinsics"][0, 1, 1] * 1.7 / depth / SIZES["scenes"][0]  # of 1.7 m
        assert np.allclose(height, 1 / (0.8 * distance), rtol=0.2)


def test_truncated_crop_shows_only_the_upper_body_in_its_box(studio):
    options = {"truncation_probability": 1.0, "occluder_probability": 0.0}
    sample = draw(studio, "crops", pose_noise=0.0, **options)
    ankle, head = joints.index(["left_ankle", "head"], "all")
    assert sample["keypoints_img"][0, ankle, 1] > sample["box_img"][0, 3]
    assert sample["keypoints_img"][0, head, 2] == 1
    assert sample["visible_fraction"][0] < 0.98


def test_record_depends_on_seed_and_index_only(studio):
    first, again = draw(studio, "crops", 4), draw(studio, "crops", 4)
    other, reseeded = draw(studio, "crops", 5), draw(studio, "crops", 4, seed=1)
    assert (first["images"][0] == again["images"][0]).all()
    assert (first["pose"] == again["pose"]).all()
    for different in (other, reseeded):
        assert np.abs(first["pose"] - different["pose"]).max() > 0.01
        assert first["key"] != different["key"]


def shard_bytes(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if ".tar" in p.name}


def test_shards_have_the_same_bytes_for_any_number_of_workers(tmp_path):
    options = {"num": 7, "seed": 3, "image_size": 48, "records_per_shard": 2}
    alone = make_shards(tmp_path / "alone", workers=0, **options)
    both = make_shards(tmp_path / "both", workers=2, **options)
    assert shard_bytes(tmp_path / "alone") == shard_bytes(tmp_path / "both")
    assert alone["shards"] == both["shards"]
    assert (alone["num_records"], len(alone["shards"])) == (7, 4)
    first = ShardSet(tmp_path / "both", "synth").read(0)
    assert first["images"][0].shape == (48, 48, 3)
    assert first["key"] == "crops-3-0000000"


def test_kill_9_loses_no_shard_and_resuming_changes_no_byte(tmp_path):
    output = tmp_path / "killed"
    command = ["synth", f"output={output}", "num=60", "image_size=48"]
    command += ["records_per_shard=6", "workers=2", "num_pictures=6", "recipe=easy"]
    process = made_programs.start(*command, cwd=tmp_path)
    deadline = time.monotonic() + 60
    while len(list(output.glob("*.index"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    finished = [path.with_suffix("") for path in output.glob("*.tar.index")]
    done = {path: path.stat().st_mtime_ns for path in finished}
    assert len(done) >= 2
    assert not (output / "hmrkit.json").exists()
    with pytest.raises(ValueError, match=r"num=60, now num=61"):
        make_shards(output, 61, image_size=48, records_per_shard=6, recipe=easy())
    run = made_programs.run(*command, "workers=1", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert all(path.stat().st_mtime_ns == then for path, then in done.items())
    make_shards(
        tmp_path / "whole", 60, image_size=48, records_per_shard=6, recipe=easy(), workers=0
    )
    assert shard_bytes(output) == shard_bytes(tmp_path / "whole")
    assert (output / "contact_sheet.png").stat().st_size > 1000
    assert not list(output.glob(".*.tmp"))


def easy():
    return to_plain(load_config("synth", ["recipe=easy", "output=x", "num=1"]))["recipe"]


def test_finished_folder_is_left_alone_and_other_options_are_refused(tmp_path):
    options = {"num": 2, "kind": "motion", "workers": 0, "recipe": {"num_frames": 4}}
    manifest = make_shards(tmp_path / "m", **options)
    assert manifest["num_people"] == 8
    assert make_shards(tmp_path / "m", **options) == manifest
    with pytest.raises(ValueError, match=r"recipe.pose_noise=1.0, now recipe.pose_noise=0.5"):
        make_shards(tmp_path / "m", **{**options, "recipe": {"num_frames": 4, "pose_noise": 0.5}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "crop"}, "no kind 'crop'"),
        ({"num": 0}, "num=0"),
        ({"image_size": [64, 80]}, "square"),
        ({"recipe": {"yaw": 60}}, "did you mean 'yaw_deg'"),
        ({"recipe": {"focal": 2.0}}, r"focal=2.0: expected \[lowest, highest\]"),
        ({"recipe": {"occluder_probability": 1.5}}, "above 1"),
    ],
)
def test_wrong_options_are_named_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        make_shards(tmp_path / "x", **{"num": 1, **options})
    assert not (tmp_path / "x").exists()


def test_yaml_recipes_hold_every_option_and_full_is_the_default():
    full = to_plain(load_config("synth", ["output=x", "num=1"]))["recipe"]
    assert full == Recipe().plain()
    assert set(easy()) == set(full)
    assert easy() != full
