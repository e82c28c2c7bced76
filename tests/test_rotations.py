import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from hmrkit.geometry import rotations

SIX_D = {
    "interleaved": (
        rotations.rot6d_interleaved_to_rotmat,
        rotations.rotmat_to_rot6d_interleaved,
    ),
    "stacked": (rotations.rot6d_stacked_to_rotmat, rotations.rotmat_to_rot6d_stacked),
}


def random_axis_angle(num: int) -> torch.Tensor:
    return torch.randn(num, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2


def test_axis_angle_to_rotmat_equals_scipy_at_every_angle():
    axis_angle = random_axis_angle(64)
    special = [[0, 0, 0], [np.pi, 0, 0], [0, -np.pi, 0], [1e-9, 0, 0], [0, 2 * np.pi, 0], [7, 3, 1]]
    axis_angle = torch.cat([axis_angle, torch.tensor(special, dtype=torch.float64)])
    expected = Rotation.from_rotvec(axis_angle.numpy()).as_matrix()
    assert np.abs(rotations.axis_angle_to_rotmat(axis_angle).numpy() - expected).max() < 1e-8


def test_axis_angle_survives_the_round_trip_up_to_half_a_turn():
    axis_angle = random_axis_angle(64)
    axis_angle = axis_angle / axis_angle.norm(dim=1, keepdim=True)
    axis_angle = axis_angle * torch.linspace(0, np.pi - 1e-3, 64, dtype=torch.float64)[:, None]
    back = rotations.rotmat_to_axis_angle(rotations.axis_angle_to_rotmat(axis_angle))
    assert (back - axis_angle).abs().max() < 1e-8


def test_axis_angle_has_a_finite_gradient_at_zero():
    axis_angle = torch.zeros(2, 3, requires_grad=True)
    rotations.axis_angle_to_rotmat(axis_angle).square().sum().backward()
    assert axis_angle.grad.isfinite().all()


@pytest.mark.parametrize("layout", SIX_D)
def test_6d_survives_the_round_trip_with_any_batch_dimensions(layout):
    to_rotmat, to_6d = SIX_D[layout]
    rotmat = rotations.axis_angle_to_rotmat(random_axis_angle(12).reshape(2, 2, 3, 3))
    assert rotmat.shape == (2, 2, 3, 3, 3)
    assert to_6d(rotmat).shape == (2, 2, 3, 6)
    assert (to_rotmat(to_6d(rotmat)) - rotmat).abs().max() < 1e-12


@pytest.mark.parametrize("layout", SIX_D)
def test_6d_of_any_size_gives_a_rotation(layout):
    rot6d = torch.randn(100, 6, generator=torch.Generator().manual_seed(1)) * 10
    rotmat = SIX_D[layout][0](rot6d)
    assert (rotmat @ rotmat.transpose(1, 2) - torch.eye(3)).abs().max() < 1e-5
    assert (torch.linalg.det(rotmat) - 1).abs().max() < 1e-5


def test_the_two_6d_layouts_differ_by_the_order_of_their_entries():
    rot6d = torch.randn(5, 6, generator=torch.Generator().manual_seed(2))
    interleaved = rotations.rot6d_interleaved_to_rotmat(rot6d[:, [0, 3, 1, 4, 2, 5]])
    assert torch.equal(interleaved, rotations.rot6d_stacked_to_rotmat(rot6d))
    assert (rotations.rot6d_interleaved_to_rotmat(rot6d) - interleaved).abs().max() > 0.1


@pytest.mark.parametrize("layout", SIX_D)
def test_degenerate_6d_is_finite_and_so_is_its_gradient(layout):
    rot6d = torch.stack([torch.zeros(6), torch.ones(6)]).requires_grad_()
    rotmat = SIX_D[layout][0](rot6d)
    rotmat.sum().backward()
    assert rotmat.isfinite().all()
    assert rot6d.grad.isfinite().all()
