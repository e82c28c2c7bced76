import numpy as np
import pytest
import roma
import torch

from hmrkit.infer.smoothing import Gaussian, OneEuro, acceleration, fill_gaps, stretches

FPS = 30.0
FILTERS = [Gaussian(), OneEuro()]
EACH = pytest.mark.parametrize("smooth", FILTERS, ids=["gaussian", "one_euro"])


def swing(num=120, hz=0.5, amplitude=1.0):
    """Angles of a pendulum, rad."""
    time = torch.arange(num, dtype=torch.float64) / FPS
    return amplitude * torch.sin(2 * np.pi * hz * time)


def about_x(angle):
    return roma.rotvec_to_rotmat(angle[:, None] * torch.tensor([1.0, 0.0, 0.0]).double())


def angle_of(rotations):
    return roma.rotmat_to_rotvec(rotations)[:, 0]


@EACH
def test_noise_becomes_less_and_motion_stays(smooth):
    torch.manual_seed(0)
    clean = swing()
    noisy = clean + 0.05 * torch.randn(120, dtype=torch.float64)
    smoothed = angle_of(smooth.rotations(about_x(noisy), FPS))
    assert (smoothed - clean).std() < 0.6 * (noisy - clean).std()
    points = torch.stack([noisy, noisy, noisy], dim=1)
    error = smooth.points(points, FPS)[:, 0] - clean
    assert error.std() < 0.6 * (noisy - clean).std()
    before = acceleration(points[:, None], np.ones(120, bool), FPS)
    after = acceleration(smooth.points(points, FPS)[:, None], np.ones(120, bool), FPS)
    assert after < 0.5 * before


@EACH
def test_nothing_lags(smooth):
    """The delay at which the result fits the motion best is below a third of a frame."""
    clean = swing(hz=1.0)
    for result in (
        angle_of(smooth.rotations(about_x(clean), FPS)),
        smooth.points(clean[:, None].repeat(1, 3), FPS)[:, 0],
    ):
        time = torch.arange(120) / FPS
        wave = torch.exp(-2j * np.pi * time)
        inside = slice(30, 90)  # two whole periods
        phase = torch.angle((result[inside] * wave[inside]).sum() / (clean * wave)[inside].sum())
        assert abs(float(phase)) / (2 * np.pi) * FPS < 0.33


@EACH
def test_rotations_stay_rotations_also_across_half_a_turn(smooth):
    angles = torch.linspace(2.6, 3.7, 30, dtype=torch.float64)  # through pi, where numbers jump
    result = smooth.rotations(about_x(angles), FPS)
    eye = torch.eye(3, dtype=torch.float64).expand(30, 3, 3)
    torch.testing.assert_close(result @ result.transpose(1, 2), eye, atol=1e-9, rtol=0)
    assert (torch.linalg.det(result) > 0).all()
    inner = slice(8, -8)
    turned = roma.rotmat_geodesic_distance(result, about_x(angles))[inner]
    assert float(turned.max()) < 0.05


@EACH
def test_what_rests_stays(smooth):
    still = torch.tensor([[0.1, 0.2, 5.0]]).double().repeat(20, 1)
    torch.testing.assert_close(smooth.points(still, FPS), still)
    turned = about_x(torch.full((20,), 0.7, dtype=torch.float64))
    torch.testing.assert_close(smooth.rotations(turned, FPS), turned)


def test_gaps_are_filled_on_the_shortest_way():
    angles = torch.tensor([3.0, 0, 0, 0, 3.4]).double()  # 3.4 is -2.88: the short way is through pi
    seen = np.array([True, False, False, False, True])
    filled, is_there = fill_gaps(about_x(angles)[:, None], seen, max_gap=3)
    expected = about_x(torch.linspace(3.0, 3.4, 5).double())
    torch.testing.assert_close(filled[:, 0], expected, atol=1e-6, rtol=0)
    assert is_there.all()
    points = torch.tensor([[0.0, 0], [9, 9], [9, 9], [9, 9], [4, 8]])
    straight, _ = fill_gaps(points, seen, max_gap=3)
    torch.testing.assert_close(straight[2], torch.tensor([2.0, 4.0]))


def test_long_gaps_and_the_time_before_and_after_stay_empty():
    seen = np.array([False, True, False, False, True, True, False])
    _, is_there = fill_gaps(torch.zeros(7, 2), seen, max_gap=1)
    assert np.array_equal(is_there, seen)
    assert stretches(seen) == [slice(1, 2), slice(4, 6)]
    assert np.isnan(acceleration(torch.zeros(7, 1, 3), seen, FPS))


def test_acceleration_is_in_metres_per_second_squared():
    time = torch.arange(30, dtype=torch.float64) / FPS
    falling = torch.stack([0 * time, 4.905 * time**2, 0 * time], dim=1)[:, None]
    assert acceleration(falling, np.ones(30, bool), FPS) == pytest.approx(9.81)
