import pytest
import torch
from scipy.spatial.transform import Rotation

from hmrkit.geometry.alignment import procrustes_align


def cloud(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, 3, generator=torch.Generator().manual_seed(seed))


def test_a_moved_turned_and_scaled_copy_is_brought_back():
    target = cloud(8, 14)
    turn = torch.from_numpy(Rotation.random(8, random_state=0).as_matrix()).float()
    source = 3.5 * target @ turn.transpose(1, 2) + cloud(8, 1, seed=1)
    assert (procrustes_align(source, target) - target).abs().max() < 1e-5


def test_no_other_similarity_transform_fits_better():
    source, target = cloud(1, 14, seed=2), cloud(1, 14, seed=3)
    best = (procrustes_align(source, target) - target).square().sum()
    generator = torch.Generator().manual_seed(4)
    aligned = procrustes_align(source, target)
    for _ in range(50):
        wiggle = torch.randn(3, generator=generator) * 0.05
        turn = torch.from_numpy(Rotation.from_rotvec(wiggle.numpy()).as_matrix()).float()
        scale = 1 + 0.05 * torch.randn((), generator=generator)
        other = scale * aligned @ turn.T + 0.05 * torch.randn(3, generator=generator)
        assert (other - target).square().sum() > best


def test_a_mirror_image_is_not_aligned_by_reflection():
    target = cloud(1, 14)
    source = target * torch.tensor([-1.0, 1.0, 1.0])
    assert (procrustes_align(source, target) - target).norm(dim=-1).mean() > 0.1


def degenerate() -> dict[str, torch.Tensor]:
    with_nan, with_inf = cloud(14), cloud(14)
    with_nan[3, 1], with_inf[5, 0] = torch.nan, torch.inf
    return {
        "collapsed": torch.full((14, 3), 0.7),
        "rounding noise": torch.full((14, 3), 5.0) + 1e-6 * cloud(14),
        "zero": torch.zeros(14, 3),
        "nan": with_nan,
        "inf": with_inf,
    }


@pytest.mark.parametrize("name", degenerate())
@pytest.mark.parametrize("side", ["source", "target"])
def test_a_degenerate_set_gives_nan_and_leaves_the_other_rows_alone(name, side):
    source, target = cloud(3, 14), cloud(3, 14, seed=1)
    expected = procrustes_align(source, target)
    (source if side == "source" else target)[1] = degenerate()[name]
    aligned = procrustes_align(source, target)
    assert aligned[1].isnan().all()
    assert torch.equal(aligned[[0, 2]], expected[[0, 2]])


def test_points_of_weight_zero_do_not_count():
    target, weight = cloud(2, 14), torch.ones(2, 14)
    source = target * 2 + 1
    source[:, 4] = 1000.0
    weight[:, 4] = 0
    aligned = procrustes_align(source, target, weight)
    error = (aligned - target).norm(dim=-1)
    assert error[:, 4].min() > 1
    assert error[:, weight[0] > 0].max() < 1e-4


def test_any_batch_dimensions_and_inputs_left_as_they_were():
    source, target = cloud(2, 3, 14), cloud(2, 3, 14, seed=1)
    before = source.clone(), target.clone()
    aligned = procrustes_align(source, target)
    assert (aligned[1, 2] - procrustes_align(source[1, 2], target[1, 2])).abs().max() < 1e-6
    assert torch.equal(source, before[0])
    assert torch.equal(target, before[1])
