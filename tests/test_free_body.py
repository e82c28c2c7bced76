import copy
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import roma
import smplx
import torch
import trimesh

from hmrkit.body import joints
from hmrkit.body.free import free_body, free_body_data, write_smplx_pickle
from hmrkit.body.smpl import BodyData
from hmrkit.types import Body

MIRROR = torch.tensor([-1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def data() -> BodyData:
    return free_body_data()


def test_the_layout_is_smpls(data: BodyData):
    assert data.v_template.shape == (6890, 3)
    assert data.faces.shape == (13776, 3)
    assert data.shapedirs.shape == (6890, 3, 10)
    assert data.posedirs.shape == (6890, 3, 207)
    assert data.weights.shape == (6890, 24)
    assert data.J_regressor.shape == (24, 6890)
    assert tuple(data.parents) == joints.SMPL_PARENTS
    np.testing.assert_allclose(data.weights.sum(1), 1, atol=2e-5)
    assert ((data.weights > 0).sum(1) <= 4).all()
    np.testing.assert_allclose(data.J_regressor.sum(1), 1, atol=1e-5)


def test_it_loads_in_under_three_tenths_of_a_second():
    spent = []
    for _ in range(3):
        start = time.process_time()
        free_body()
        spent.append(time.process_time() - start)
    assert min(spent) < 0.3


def test_the_surface_is_closed_and_the_size_of_a_person(data: BodyData):
    mesh = trimesh.Trimesh(data.v_template, data.faces, process=False)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.euler_number == 2
    assert 0.05 < mesh.volume < 0.08
    assert 1.55 < np.ptp(data.v_template[:, 1]) < 1.8


def test_the_mirrored_pose_is_the_mirrored_mesh(data: BodyData):
    model = free_body()
    generator = torch.Generator().manual_seed(0)
    vectors = 0.4 * torch.randn(2, 24, 3, generator=generator)
    flip = torch.from_numpy(joints.flip_permutation("smpl24"))
    mirrored = vectors[:, flip] * torch.tensor([1.0, -1.0, -1.0])
    betas, transl = torch.randn(2, 10, generator=generator), torch.ones(2, 3)
    meshes = []
    for pose, shift in ((vectors, transl), (mirrored, transl * MIRROR)):
        rotmat = roma.rotvec_to_rotmat(pose)
        meshes.append(model(Body(rotmat[:, 0], rotmat[:, 1:], betas, shift)))
    pair = torch.from_numpy(data.extras["pair"])
    expected = meshes[0].vertices[:, pair] * MIRROR
    assert (meshes[1].vertices - expected).norm(dim=-1).max() < 5e-4
    for joint_set in joints.JOINT_SETS:
        original, turned = (model.joints_from_mesh(mesh, joint_set) for mesh in meshes)
        expected = original[:, joints.flip_permutation(joint_set)] * MIRROR
        assert (turned - expected).norm(dim=-1).max() < 5e-4, joint_set


@pytest.mark.parametrize("table", ["J_regressor_extra", "J_regressor_h36m"])
def test_joint_regressors_are_convex_and_sparse(data: BodyData, table: str):
    rows = getattr(data, table)
    assert rows.shape == ({"J_regressor_extra": 9, "J_regressor_h36m": 17}[table], 6890)
    assert (rows >= 0).all()
    np.testing.assert_allclose(rows.sum(1), 1, atol=1e-5)
    assert ((rows > 0).sum(1) < 1500).all()


def test_annotated_joints_lie_where_anatomy_has_them(data: BodyData):
    model = free_body()
    rest = Body(torch.eye(3)[None], torch.eye(3).expand(1, 23, 3, 3), *zeros())
    place = dict(zip(joints.names("all"), model.joints(rest, "all")[0], strict=True))
    assert place["spin_head_top"][1] == pytest.approx(data.v_template[:, 1].max(), abs=1e-3)
    assert place["spin_head_top"][1] > place["spin_neck"][1] > place["spin_thorax"][1]
    assert place["spin_thorax"][1] > place["spin_spine"][1] > place["spin_pelvis"][1]
    assert place["spin_left_hip"][0] > place["left_hip"][0] > 0  # left is +x, annotators go wider
    assert 0.1 < place["h36m_left_hip"][0] < 0.15
    assert place["openpose_nose"][2] > place["head"][2]  # the rest pose looks along +z
    for name in ("wrist", "elbow", "knee", "ankle"):
        for side in ("left", "right"):
            assert torch.dist(place[f"h36m_{side}_{name}"], place[f"{side}_{name}"]) < 1e-5


def zeros() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(1, 10), torch.zeros(1, 3)


def test_extras_are_listed_at_once_and_made_on_demand(data: BodyData):
    keys = {"pair", "part_of_face", "uv_of_corner"}
    keys |= {
        f"level{i}_{what}" for i in (1, 2) for what in ("vertices", "faces", "corners", "shares")
    }
    assert keys <= set(data.extras)
    assert len(data.extras) == len(set(data.extras))
    assert np.array_equal(data.extras["pair"][data.extras["pair"]], np.arange(6890))
    with pytest.raises(KeyError):
        data.extras["nothing"]


def test_the_body_can_be_copied_and_sent_to_a_process():
    model = free_body()
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        body = copied.mean_body(1)
        assert torch.equal(copied(body).vertices, model(body).vertices)
        assert np.array_equal(copied.extras["part_of_face"], model.extras["part_of_face"])


def test_parts_cover_the_body_symmetrically(data: BodyData):
    parts, uv = data.extras["part_of_face"], data.extras["uv_of_corner"]
    counts = np.bincount(parts, minlength=25)
    assert counts[0] == 0
    assert (counts[1:] > 100).all()
    for one, other in ((3, 4), (5, 6), (7, 8), (9, 10), (15, 16), (21, 22), (23, 24)):
        assert abs(int(counts[one]) - int(counts[other])) <= 4  # left and right
    centre = data.v_template[data.faces].mean(axis=1)
    assert (centre[parts == 4, 0] > 0.5).all()  # left hand
    assert (centre[parts == 3, 0] < -0.5).all()
    assert centre[parts == 2, 2].mean() > centre[parts == 1, 2].mean()  # chest before back
    assert uv.min() >= 0
    assert uv.max() <= 1


@pytest.mark.parametrize(("level", "num", "mean_mm"), [(1, 1723, 2.5), (2, 431, 6.0)])
def test_coarse_levels_are_closed_and_give_the_fine_mesh_back(
    data: BodyData, level: int, num: int, mean_mm: float
):
    extras = data.extras
    vertices, shares = extras[f"level{level}_vertices"], extras[f"level{level}_shares"]
    coarse = data.v_template[vertices]
    mesh = trimesh.Trimesh(coarse, extras[f"level{level}_faces"], process=False)
    assert len(vertices) == num
    assert mesh.is_watertight
    assert mesh.euler_number == 2
    fine = (coarse[extras[f"level{level}_corners"]] * shares[..., None]).sum(axis=1)
    np.testing.assert_allclose(fine[vertices], coarse, atol=1e-7)  # down after up is nothing
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-6)
    assert 1e3 * np.linalg.norm(fine - data.v_template, axis=1).mean() < mean_mm


def test_smplx_loads_the_written_file_unchanged(tmp_path: Path, data: BodyData):
    path = tmp_path / "smpl" / "SMPL_NEUTRAL.pkl"
    path.parent.mkdir()
    write_smplx_pickle(path)
    reference = smplx.create(str(tmp_path), model_type="smpl", batch_size=2)
    generator = torch.Generator().manual_seed(0)
    pose = 0.4 * torch.randn(2, 24, 3, generator=generator)
    betas = torch.randn(2, 10, generator=generator)
    expected = reference(
        global_orient=pose[:, 0], body_pose=pose[:, 1:].flatten(1), betas=betas, transl=betas[:, :3]
    )
    rotmat = roma.rotvec_to_rotmat(pose)
    body = Body(rotmat[:, 0], rotmat[:, 1:], betas, betas[:, :3])
    model = free_body()
    torch.testing.assert_close(model(body).vertices, expected.vertices, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.joints(body, "smpl45"), expected.joints, atol=1e-5, rtol=0)
    assert np.array_equal(reference.faces, data.faces)
