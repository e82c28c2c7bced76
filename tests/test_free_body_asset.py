"""The shipped free body: its file, topology, symmetry, joints, landmarks and skinning."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from hmrkit.body import free, joints, smpl
from hmrkit.types import Body

FILE = Path(free.__file__).with_name("free_body.npz")
LICENSE = FILE.with_suffix(".LICENSE")
MIRROR = np.array([-1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def packed():
    with np.load(FILE, allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def data():
    return free.free_body_data()


def edges_of(faces):
    return np.stack([faces, np.roll(faces, -1, axis=1)], axis=-1).reshape(-1, 2)


def litres(vertices, faces):
    a, b, c = np.moveaxis(vertices[faces], 1, 0)
    return 1000 * (a * np.cross(b, c)).sum() / 6


def assert_closed_genus_zero(faces, num_vertices):
    directed = edges_of(faces.astype(int))
    codes = directed[:, 0] * 10000 + directed[:, 1]
    reverse = directed[:, 1] * 10000 + directed[:, 0]
    assert len(np.unique(codes)) == len(codes)  # each edge once per direction: oriented manifold
    assert set(codes) == set(reverse)  # and with a neighbour: watertight
    assert num_vertices - len(codes) // 2 + len(faces) == 2
    assert len(np.unique(faces)) == num_vertices


def landmark(data, name):
    return data.v_template[joints.LANDMARKS[name]]


def joint_template(data):
    positions = data.J_regressor @ data.v_template
    return dict(zip(joints.names("smpl24"), positions, strict=True))


def test_file_is_below_one_megabyte_and_matches_the_hash_in_its_licence():
    content = FILE.read_bytes()
    assert len(content) < 1_000_000
    assert hashlib.sha256(content).hexdigest() in LICENSE.read_text()


def test_arrays_have_smpl_shapes(data):
    assert data.v_template.shape == (6890, 3)
    assert data.faces.shape == (13776, 3)
    assert data.shapedirs.shape == (6890, 3, 10)
    assert data.posedirs.shape == (6890, 3, 207)
    assert data.weights.shape == (6890, 24)
    assert data.J_regressor.shape == (24, 6890)


def test_mesh_is_watertight_with_euler_characteristic_two(data):
    assert_closed_genus_zero(data.faces, 6890)


def test_faces_look_outwards(data):
    assert 50 < litres(data.v_template, data.faces) < 80


def test_no_triangle_is_degenerate(data):
    a, b, c = np.moveaxis(data.v_template[data.faces], 1, 0)
    area_mm2 = 5e5 * np.linalg.norm(np.cross(b - a, c - a), axis=1)
    assert area_mm2.min() > 0.01


def test_coarse_levels_are_nested_and_closed(packed):
    fine, coarse, coarsest = np.arange(6890), packed["lv1"], packed["lv2"]
    assert (len(coarse), len(coarsest)) == (1723, 431)
    assert set(coarsest) < set(coarse) < set(fine)
    assert_closed_genus_zero(packed["f1"], 1723)
    assert_closed_genus_zero(packed["f2"], 431)
    assert set(np.unique(packed["f1"])) == set(coarse)
    assert set(np.unique(packed["f2"])) == set(coarsest)
    pair = packed["pair"]
    assert set(pair[coarse]) == set(coarse)
    assert set(pair[coarsest]) == set(coarsest)


def test_template_and_shapes_are_mirror_symmetric(data, packed):
    pair = packed["pair"].astype(int)
    assert (pair[pair] == np.arange(6890)).all()
    np.testing.assert_allclose(data.v_template[pair] * MIRROR, data.v_template, atol=1e-7)
    np.testing.assert_allclose(data.shapedirs[pair] * MIRROR[:, None], data.shapedirs, atol=1e-7)


def test_joint_regressor_rows_are_convex(data):
    assert data.J_regressor.min() >= 0
    np.testing.assert_allclose(data.J_regressor.sum(axis=1), 1, atol=1e-5)


def test_skinning_weights_are_convex_with_at_most_four_joints(data):
    assert data.weights.min() >= 0
    np.testing.assert_allclose(data.weights.sum(axis=1), 1, atol=1e-5)
    assert (data.weights > 0).sum(axis=1).max() <= 4


def test_kinematic_tree_is_smpl_and_limbs_point_the_right_way(data):
    assert tuple(data.parents) == (
        (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
    )
    where = joint_template(data)
    arm = [f"left_{name}" for name in ("collar", "shoulder", "elbow", "wrist", "hand")]
    assert (np.diff([where[name][0] for name in arm]) > 0.05).all()
    leg = ["pelvis", *(f"left_{name}" for name in ("hip", "knee", "ankle", "foot"))]
    assert (np.diff([where[name][1] for name in leg]) < 0).all()
    spine = ["pelvis", "spine1", "spine2", "spine3", "neck", "head"]
    assert (np.diff([where[name][1] for name in spine]) > 0.03).all()


def test_joints_lie_inside_the_body(data):
    low, high = data.v_template.min(axis=0), data.v_template.max(axis=0)
    where = np.array(list(joint_template(data).values()))
    assert ((where > low) & (where < high)).all()


def test_origin_is_off_the_pelvis(data):
    assert np.linalg.norm(joint_template(data)["pelvis"]) > 0.1


def test_nose_is_the_most_forward_point_of_the_head(data):
    head = data.v_template[:, 1] > landmark(data, "nose")[1] - 0.05
    assert landmark(data, "nose")[2] == data.v_template[head, 2].max()
    assert abs(landmark(data, "nose")[0]) < 1e-6


def test_left_landmarks_are_left_and_mirror_the_right_ones(data):
    names = [name for name in joints.LANDMARKS if name.startswith("left_")]
    assert len(names) == 10
    for name in names:
        left, right = landmark(data, name), landmark(data, name.replace("left", "right"))
        assert left[0] > 0.02, name
        np.testing.assert_allclose(left * MIRROR, right, atol=1e-6, err_msg=name)


def test_eyes_and_ears_sit_on_the_head(data):
    nose, eye, ear = (landmark(data, name) for name in ("nose", "left_eye", "left_ear"))
    head = np.flatnonzero(data.weights.argmax(axis=1) == joints.index("head", "smpl24"))
    assert nose[1] < eye[1] < nose[1] + 0.08
    assert eye[2] > ear[2] + 0.05
    assert ear[0] > data.v_template[head, 0].max() - 0.015


def test_heels_are_rearmost_and_low_and_toes_in_front(data):
    floor = data.v_template[:, 1].min()
    heel = landmark(data, "left_heel")
    foot = (data.v_template[:, 1] < floor + 0.03) & (data.v_template[:, 0] > 0)
    assert heel[2] == data.v_template[foot, 2].min()
    big, small = landmark(data, "left_big_toe"), landmark(data, "left_small_toe")
    assert max(big[1], small[1], heel[1]) < floor + 0.05
    assert min(big[2], small[2]) > heel[2] + 0.15
    assert big[0] < small[0]


def test_finger_tips_are_in_order_and_beyond_the_hand_joint(data):
    hand = joint_template(data)["left_hand"]
    tips = [
        landmark(data, f"left_{name}") for name in ("thumb", "index", "middle", "ring", "pinky")
    ]
    assert (np.diff([tip[2] for tip in tips]) < 0).all()  # thumb forward, little finger back
    assert all(tip[0] > hand[0] + 0.02 for tip in tips[1:])


def random_pose(seed):
    rotation_vector = torch.from_numpy(np.random.default_rng(seed).normal(0, 0.4, (24, 3)))
    return torch.linalg.matrix_exp(
        torch.stack([_skew(vector) for vector in rotation_vector])
    ).float()


def _skew(vector):
    x, y, z = vector.tolist()
    return torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)


def posed(model, rotations, betas):
    body = Body(
        global_orient=rotations[None, 0],
        body_pose=rotations[None, 1:],
        betas=betas[None],
        transl=torch.zeros(1, 3),
    )
    return model(body).vertices[0].numpy()


def test_mirrored_pose_gives_the_mirrored_mesh(data, packed):
    model = smpl.SMPL(data)
    flip = torch.diag(torch.tensor([-1.0, 1.0, 1.0]))
    for seed in range(4):
        rotations = random_pose(seed)
        betas = torch.from_numpy(np.random.default_rng(seed).normal(size=10)).float()
        mirrored = flip @ rotations[joints.flip_permutation("smpl24")] @ flip
        body, image = posed(model, rotations, betas), posed(model, mirrored, betas)
        gap_mm = 1000 * np.abs(body[packed["pair"]] * MIRROR - image).max()
        assert gap_mm < 0.5


def test_first_beta_is_stature_and_the_second_is_girth(data):
    def size(betas):
        body = data.v_template + data.shapedirs @ np.array([*betas, *[0] * (10 - len(betas))])
        return np.ptp(body[:, 1]), litres(body, data.faces)

    assert size([2])[0] > size([0])[0] + 0.1 > size([-2])[0] + 0.2
    assert size([0, 2])[1] > 1.15 * size([0, 0])[1]


def test_gendered_shapes_differ_in_stature(packed):
    assert packed["betas_male"][0] > 0.5 > -0.5 > packed["betas_female"][0]


def test_pose_correctives_are_present_but_vanish_in_the_template_pose(data):
    assert 0.02 < (data.posedirs != 0).mean() < 0.15
    assert 0.01 < np.abs(data.posedirs).max() < 0.1
    model = smpl.SMPL(data)
    rest = posed(model, torch.eye(3).repeat(24, 1, 1), torch.zeros(10))
    np.testing.assert_allclose(rest, data.v_template, atol=1e-5)


@pytest.mark.parametrize(
    ("joint", "axis_angle"),
    [("left_hip", (-1.57, 0, 0)), ("left_shoulder", (1.2, 0, 0)), ("left_shoulder", (0, -1.57, 0))],
    ids=["sitting", "twisted shoulder", "arm forward"],
)
def test_correctives_restore_volume_where_plain_skinning_loses_it(data, joint, axis_angle):
    # only hips and shoulders: creases of elbow and knee lose about 0.03 l more than plain skinning
    rotations = torch.eye(3).repeat(24, 1, 1)
    skew = _skew(torch.tensor(axis_angle))
    rotations[joints.index(joint, "smpl24")] = torch.linalg.matrix_exp(skew).float()

    def lost_litres(posedirs):
        model = smpl.SMPL(dataclasses.replace(data, posedirs=posedirs))
        body = posed(model, rotations, torch.zeros(10))
        return litres(data.v_template, data.faces) - litres(body, data.faces)

    plain = lost_litres(np.zeros_like(data.posedirs))
    assert plain > 0.4
    assert lost_litres(data.posedirs) < 0.7 * plain


def test_smplx_loads_it_unchanged_and_agrees(data, tmp_path):
    smplx = pytest.importorskip("smplx")
    path = tmp_path / "SMPL_NEUTRAL.pkl"
    free.write_smplx_pickle(path)
    theirs = smplx.SMPL(str(path))
    rotations = random_pose(7)
    betas = torch.linspace(-1, 1, 10)
    with torch.no_grad():
        expected = theirs(
            global_orient=rotations[None, :1],
            body_pose=rotations[None, 1:],
            betas=betas[None],
            pose2rot=False,
        ).vertices[0]
    ours = posed(smpl.SMPL(data), rotations, betas)
    assert np.abs(ours - expected.numpy()).max() < 1e-5
