import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import roma
import smplx
import torch

from hmrkit.body import joints
from hmrkit.body.files import body_data
from hmrkit.body.free import free_body_data, relaxed_pose
from hmrkit.body.smpl import SMPL, BodyData
from hmrkit.types import Body
from parity import fill

CASES = Path(__file__).parent / "parity" / "cases" / "metahmr"


def nonsense_data(salt: str = "", with_regressors: bool = True) -> BodyData:
    """A random body in SMPL's layout, made by the names of its arrays."""
    given = fill.smpl(salt)
    if not with_regressors:
        return body_data("nonsense", given)
    extra = fill.joint_regressor("J_regressor_extra", 9)
    h36m = fill.joint_regressor("J_regressor_h36m", 17)
    return body_data("nonsense", given, J_regressor_extra=extra, J_regressor_h36m=h36m)


def tiny_data(num_vertices: int = 7, num_joints: int = 4) -> BodyData:
    rng = np.random.default_rng(0)

    def shares(*shape: int) -> np.ndarray:
        values = rng.random(shape)
        return values / values.sum(axis=1, keepdims=True)

    return BodyData(
        name="tiny",
        v_template=rng.normal(size=(num_vertices, 3)),
        shapedirs=rng.normal(size=(num_vertices, 3, 10)),
        posedirs=rng.normal(size=(num_vertices, 3, 9 * (num_joints - 1))),
        weights=shares(num_vertices, num_joints),
        J_regressor=shares(num_joints, num_vertices),
        faces=np.zeros((1, 3), np.int64),
        parents=np.array([-1, 0, 1, 0]),
        mean_pose=np.tile(np.eye(3), (num_joints, 1, 1)),
        mean_betas=np.zeros(10),
    )


def random_body(num: int, num_joints: int = 24, dtype: torch.dtype = torch.float32) -> Body:
    generator = torch.Generator().manual_seed(num)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    pose = roma.rotvec_to_rotmat(0.5 * normal(num, num_joints, 3))
    return Body(pose[:, 0], pose[:, 1:], normal(num, 10), normal(num, 3))


def leaves(body: Body) -> tuple[torch.Tensor, ...]:
    parts = (body.global_orient, body.body_pose, body.betas, body.transl)
    return tuple(part.clone().requires_grad_() for part in parts)


@pytest.fixture(scope="module", params=["free", "nonsense"])
def data(request: pytest.FixtureRequest) -> BodyData:
    return free_body_data() if request.param == "free" else nonsense_data()


@pytest.fixture(scope="module")
def model(data: BodyData) -> SMPL:
    return SMPL(data)


@pytest.fixture(scope="module")
def reference(data: BodyData, tmp_path_factory: pytest.TempPathFactory) -> smplx.SMPL:
    """The same body in smplx."""
    path = tmp_path_factory.mktemp("smplx") / "SMPL_NEUTRAL.pkl"
    parents = np.array([2**32 - 1, *data.parents[1:]], dtype=np.uint32)
    keys = ("v_template", "shapedirs", "posedirs", "weights", "J_regressor")
    content = {key: getattr(data, key) for key in keys}
    content |= {"f": data.faces, "kintree_table": np.stack([parents, np.arange(24)])}
    path.write_bytes(pickle.dumps(content))
    return smplx.SMPL(str(path), batch_size=1)


def posed_by_smplx(reference: smplx.SMPL, body: Body):
    parts = {"body_pose": body.body_pose, "betas": body.betas, "transl": body.transl}
    return reference(global_orient=body.global_orient[:, None], pose2rot=False, **parts)


def test_vertices_joints_and_gradients_are_smplxs(model: SMPL, reference: smplx.SMPL):
    ours, theirs = (Body(*leaves(random_body(6))) for _ in range(2))
    mesh, expected = model(ours), posed_by_smplx(reference, theirs)
    torch.testing.assert_close(mesh.vertices, expected.vertices, atol=1e-5, rtol=0)
    torch.testing.assert_close(mesh.joints, expected.joints[:, :24], atol=1e-5, rtol=0)
    pull = torch.randn(mesh.vertices.shape, generator=torch.Generator().manual_seed(1))
    ((mesh.vertices * pull).mean() + mesh.joints.square().mean()).backward()
    ((expected.vertices * pull).mean() + expected.joints[:, :24].square().mean()).backward()
    for name in ("global_orient", "body_pose", "betas", "transl"):
        gradient, wanted = getattr(ours, name).grad, getattr(theirs, name).grad
        torch.testing.assert_close(gradient, wanted, atol=1e-5, rtol=1e-4)


def test_the_45_joints_are_smplxs(model: SMPL, reference: smplx.SMPL):
    body = random_body(4)
    expected = posed_by_smplx(reference, body).joints
    torch.testing.assert_close(model.joints(body, "smpl45"), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("joint_set", sorted(joints.JOINT_SETS))
def test_joints_are_those_of_the_mesh(model: SMPL, data: BodyData, joint_set: str):
    body = random_body(3)
    mesh = model(body)
    direct, read = model.joints(body, joint_set), model.joints_from_mesh(mesh, joint_set)
    torch.testing.assert_close(direct, read, atol=3e-6, rtol=0)
    tables = {"extra": data.J_regressor_extra, "h36m": data.J_regressor_h36m}
    for column, name in enumerate(joints.names(joint_set)):
        kind, row = joints.SOURCES[name]
        if kind == "smpl":
            expected = mesh.joints[:, row]
        elif kind == "vertex":
            expected = mesh.vertices[:, row]
        else:
            expected = torch.from_numpy(tables[kind][row]) @ mesh.vertices
        torch.testing.assert_close(read[:, column], expected, atol=3e-6, rtol=0)


def test_joint_gradients_are_those_through_the_mesh(model: SMPL):
    direct, through_mesh = (Body(*leaves(random_body(2))) for _ in range(2))
    model.joints(direct, "all").square().mean().backward()
    model.joints_from_mesh(model(through_mesh), "all").square().mean().backward()
    for name in ("global_orient", "body_pose", "betas", "transl"):
        gradient, expected = getattr(direct, name).grad, getattr(through_mesh, name).grad
        torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-4)


def test_a_subset_of_vertices_is_that_of_the_mesh(model: SMPL):
    body, index = random_body(3), torch.tensor([6889, 0, 42, 42, 3511])
    expected = model(body).vertices[:, index]
    torch.testing.assert_close(model.vertices(body, index), expected, atol=2e-6, rtol=0)


def test_translation_is_exact_where_weights_do_not_sum_to_one():
    data = free_body_data()
    model = SMPL(replace(data, weights=data.weights * np.float32(0.9)))
    body = random_body(1)
    moved = Body(body.global_orient, body.body_pose, body.betas, body.transl + 10)
    shift = model(moved).vertices - model(body).vertices
    torch.testing.assert_close(shift, torch.full_like(shift, 10.0), atol=1e-5, rtol=0)
    shift = model.joints(moved, "all") - model.joints(body, "all")
    torch.testing.assert_close(shift, torch.full_like(shift, 10.0), atol=1e-5, rtol=0)


def test_no_people_is_no_error(model: SMPL):
    body = Body(*leaves(random_body(0)))
    mesh = model(body)
    assert mesh.vertices.shape == (0, 6890, 3)
    assert mesh.joints.shape == (0, 24, 3)
    assert model.joints(body, "all").shape == (0, len(joints.names("all")), 3)
    assert model.joints_from_mesh(mesh, "all").shape == (0, len(joints.names("all")), 3)
    assert model.vertices(body, torch.tensor([1, 2])).shape == (0, 2, 3)
    mesh.vertices.sum().backward()
    assert body.betas.grad.shape == (0, 10)


def test_autocast_changes_nothing(model: SMPL):
    body, quiet = (Body(*leaves(random_body(2))) for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16):
        mesh, some = model(body), model.joints(body, "all")
    (mesh.vertices.mean() + some.mean()).backward()
    expected = model(quiet)
    (expected.vertices.mean() + model.joints(quiet, "all").mean()).backward()
    assert mesh.vertices.dtype == torch.float32
    assert torch.equal(mesh.vertices, expected.vertices)
    assert torch.equal(body.body_pose.grad, quiet.body_pose.grad)


def test_half_precision_parameters_are_posed_in_float32(model: SMPL):
    body = random_body(2)
    half = Body(*(part.bfloat16() for part in leaves(body)))
    exact = Body(*(part.detach().float() for part in leaves(half)))
    assert torch.equal(model(half).vertices, model(exact).vertices)


def test_a_network_in_bfloat16_leaves_the_body_in_float32():
    model = SMPL(tiny_data())
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    torch.nn.Sequential(torch.nn.Linear(2, 2), model).bfloat16()
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_nothing_of_the_body_enters_a_checkpoint(model: SMPL):
    assert model.state_dict() == {}
    assert list(model.parameters()) == []
    assert model.faces.shape == (13776, 3)


def test_first_and_second_derivatives_are_right():
    model = SMPL(tiny_data()).double()
    inputs = leaves(random_body(2, num_joints=4, dtype=torch.float64))

    def posed(*parts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mesh = model(Body(*parts))
        assert mesh.vertices.dtype == torch.float64
        return mesh.vertices, mesh.joints

    assert torch.autograd.gradcheck(posed, inputs)
    assert torch.autograd.gradgradcheck(posed, inputs)


def test_the_fast_backward_is_the_differentiable_one(model: SMPL):
    fast, plain = (Body(*leaves(random_body(5))) for _ in range(2))
    found, expected = (
        torch.autograd.grad(
            model(body).vertices.square().mean(),
            [body.global_orient, body.body_pose, body.betas, body.transl],
            create_graph=body is plain,
        )
        for body in (fast, plain)
    )
    for gradient, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, wanted.detach(), atol=1e-5, rtol=1e-4)


def test_torch_func_differentiates_twice_through_the_body():
    model = SMPL(tiny_data()).double()
    body = random_body(2, num_joints=4, dtype=torch.float64)

    def energy(betas: torch.Tensor) -> torch.Tensor:
        moved = Body(body.global_orient, body.body_pose, betas, body.transl)
        return model(moved).vertices.pow(3).sum()

    def inner_step(betas: torch.Tensor) -> torch.Tensor:
        return energy(betas - 1e-3 * torch.func.grad(energy)(betas))

    gradient = torch.func.grad(inner_step)(body.betas)
    betas = body.betas.clone().requires_grad_()
    (first,) = torch.autograd.grad(energy(betas), betas, create_graph=True)
    (expected,) = torch.autograd.grad(energy(betas - 1e-3 * first), betas)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.slow
def test_compiling_changes_nothing():
    model = SMPL(tiny_data())
    ours, compiled = (Body(*leaves(random_body(5, num_joints=4))) for _ in range(2))
    mesh, fused = model(ours), torch.compile(model)(compiled)
    torch.testing.assert_close(fused.vertices, mesh.vertices, atol=2e-6, rtol=1e-5)
    mesh.vertices.square().mean().backward()
    fused.vertices.square().mean().backward()
    torch.testing.assert_close(compiled.betas.grad, ours.betas.grad, atol=1e-5, rtol=1e-4)


def test_the_mean_body_is_the_files(model: SMPL, data: BodyData):
    body = model.mean_body(2)
    pose = torch.cat([body.global_orient[:, None], body.body_pose], dim=1)
    torch.testing.assert_close(pose[1], torch.from_numpy(data.mean_pose))
    assert body.transl.abs().max() == 0
    assert len(model.mean_body(0).betas) == 0


def test_a_body_without_regressors_poses_but_names_what_is_missing():
    model = SMPL(nonsense_data(with_regressors=False))
    body = random_body(1)
    assert model.joints(body, "smpl45").shape == (1, 45, 3)
    for joint_set, file in (
        ("spin24", "J_regressor_extra.npy"),
        ("h36m14", "J_regressor_h36m.npy"),
    ):
        with pytest.raises(ValueError, match=rf"{joint_set}.*{file}.*SPIN.*body=free"):
            model.joints(body, joint_set)
        with pytest.raises(ValueError, match=file):
            model.joints_from_mesh(model(body), joint_set)
    with pytest.raises(ValueError, match="no joint set 'nope'"):
        model.joints(body, "nope")
    with pytest.raises(ValueError, match="6890 vertices"):
        SMPL(tiny_data()).joints(random_body(1, num_joints=4), "smpl45")


def test_inputs_are_left_alone(model: SMPL):
    body = random_body(2)
    copy = Body(*(part.clone() for part in leaves(body)))
    model(body)
    model.joints(body, "all")
    for part, before in zip(leaves(body), leaves(copy), strict=True):
        assert torch.equal(part, before)


def test_the_mean_pose_of_the_free_body_stands_upright_in_a_camera_frame():
    model = SMPL(free_body_data())
    for pose in (torch.from_numpy(relaxed_pose()), model.mean_pose):
        body = Body(pose[None, 0], pose[None, 1:], torch.zeros(1, 10), torch.zeros(1, 3))
        place = dict(zip(joints.names("smpl45"), model.joints(body, "smpl45")[0], strict=True))
        assert place["head"][1] < place["pelvis"][1] < place["left_ankle"][1]  # y points down
        assert place["left_wrist"][1] > place["left_shoulder"][1] + 0.1  # arms hang
        assert place["left_shoulder"][0] > place["right_shoulder"][0]  # faces the camera
        assert place["nose"][2] < place["head"][2]


@pytest.mark.parametrize("gender", ["neutral", "male", "female"])
def test_meta_hmrs_49_joints_and_vertices(gender: str):
    """Numbers that Meta-HMR's own SMPL wrapper made (commit d7df13a)."""
    spec = json.loads((CASES / "pieces.json").read_text())
    with np.load(CASES / "pieces.npz") as arrays:
        model = SMPL(nonsense_data(spec["salt"] + gender * (gender != "neutral")))
        pose = roma.rotvec_to_rotmat(torch.from_numpy(arrays["smpl.pose"]).view(2, 24, 3))
        betas = torch.from_numpy(arrays["smpl.betas"])
        body = Body(pose[:, 0], pose[:, 1:], betas, torch.zeros(2, 3))
        mesh = model(body)
        for found in (model.joints(body, "spin49"), model.joints_from_mesh(mesh, "spin49")):
            np.testing.assert_allclose(found, arrays[f"smpl.{gender}.joints49"], rtol=0, atol=2e-6)
        vertices = mesh.vertices.numpy()
        expected = arrays[f"smpl.{gender}.vertices@every81"]
        np.testing.assert_allclose(vertices.ravel()[::81], expected, rtol=0, atol=2e-6)
        wide = vertices.astype(np.float64)
        stats = [wide.mean(), wide.std(), wide.min(), wide.max()]
        np.testing.assert_allclose(stats, arrays[f"smpl.{gender}.vertices@stats"], atol=2e-6)
