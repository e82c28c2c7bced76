import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from hmrkit import metrics


def people(num: int = 4, num_joints: int = 14, seed: int = 0) -> torch.Tensor:
    return torch.randn(num, num_joints, 3, generator=torch.Generator().manual_seed(seed))


def labelled(points: torch.Tensor) -> torch.Tensor:
    return torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)


def test_mpjpe_is_the_mean_distance_in_millimetres():
    points = people()
    pred = points + torch.tensor([0.003, 0.004, 0.0])
    value = metrics.mpjpe_mm(pred, labelled(points), None)
    assert value.tolist() == pytest.approx([5.0] * 4, rel=1e-4)
    assert metrics.mpjpe_mm(pred, labelled(points), [0, 1]).max() < 1e-3


def test_mpjpe_equals_numpy_with_root_and_chosen_joints():
    pred, target = people(), people(seed=1)
    ours = metrics.mpjpe_mm(pred, labelled(target), [2, 3], joints=[5, 6, 7])
    a, b = pred.double().numpy(), target.double().numpy()
    a, b = a - a[:, [2, 3]].mean(1, keepdims=True), b - b[:, [2, 3]].mean(1, keepdims=True)
    expected = 1000 * np.linalg.norm(a - b, axis=2)[:, [5, 6, 7]].mean(1)
    assert ours.numpy() == pytest.approx(expected, rel=1e-5)


def test_unlabelled_joints_do_not_count_and_a_missing_root_gives_nan():
    pred, target = people(), labelled(people(seed=1))
    target[0, 5] = torch.tensor([1e6, 0.0, 0.0, 0.0])
    target[1, 2, 3] = 0
    target[2, :, 3] = 0
    target[3, 6, 0] = torch.nan
    value = metrics.mpjpe_mm(pred, target, [2, 3])
    assert value[0] < 1e4
    assert value[1:3].isnan().all()
    assert value[3].isfinite()


def test_pa_mpjpe_ignores_scale_rotation_and_translation():
    target = people()
    turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert metrics.pa_mpjpe_mm(0.3 * target @ turn + 5.0, labelled(target)).max() < 0.05
    assert metrics.pa_mpjpe_mm(people(seed=1), labelled(target)).min() > 100


def failures() -> dict[str, torch.Tensor]:
    with_nan = people()[0]
    with_nan[3] = torch.nan
    return {
        "collapsed": torch.zeros(14, 3),
        "nan": with_nan,
        "inf": torch.full((14, 3), torch.inf),
    }


@pytest.mark.parametrize("name", failures())
def test_a_failed_prediction_scores_infinity_and_never_well(name):
    pred, target = people(), labelled(people(seed=1))
    pred[1] = failures()[name]
    value = metrics.pa_mpjpe_mm(pred, target)
    assert value[1] == torch.inf
    assert value[[0, 2, 3]].isfinite().all()
    if name != "collapsed":
        assert metrics.mpjpe_mm(pred, target, [0])[1] == torch.inf
        assert metrics.pve_mm(pred, target[..., :3])[1] == torch.inf
        assert metrics.pck(pred, target, 0.15, [0])[1] < 1


def test_three_labelled_joints_are_too_few_for_pa_mpjpe():
    pred, target = people(), labelled(people(seed=1))
    target[0, 3:, 3] = 0
    target[1, 4:, 3] = 0
    target[2, :, :3] = 0.5  # all labels in one place
    value = metrics.pa_mpjpe_mm(pred, target)
    assert value.isnan().tolist() == [True, False, True, False]


def test_pve_compares_vertices_as_given():
    target = people(2, 100)
    assert metrics.pve_mm(
        target + torch.tensor([0.0, 0.01, 0.0]), target
    ).tolist() == pytest.approx([10.0, 10.0], rel=1e-3)


def test_pck_and_auc_in_two_and_three_dimensions():
    target = torch.zeros(1, 4, 3)
    pred = torch.tensor([[[0.0, 0, 0], [0.1, 0, 0], [0.2, 0, 0], [0.0, 0, 0.149]]])
    assert metrics.pck(pred, labelled(target), 0.15, None).item() == 0.75
    assert metrics.pck(pred[..., :2], labelled(target[..., :2]), 0.05, None).item() == 0.5
    by_hand = np.mean(
        [np.mean(t >= np.array([0, 0.1, 0.2, 0.149])) for t in np.linspace(0, 0.15, 31)]
    )
    assert metrics.auc(pred, labelled(target), None).item() == pytest.approx(by_hand, abs=0.01)


def test_means_leave_missing_labels_out_and_show_failures():
    means = metrics.MetricMeans()
    means.update({"a": torch.tensor([1.0, torch.nan]), "b": torch.tensor([torch.nan, torch.nan])})
    means.update({"a": torch.tensor([3.0, 5.0]), "b": torch.tensor([torch.nan, torch.nan])})
    assert means.compute()["a"].item() == 3.0
    assert means.compute()["b"].isnan()
    means.update({"a": torch.tensor([torch.inf]), "b": torch.tensor([2.0])})
    assert means.compute()["a"] == torch.inf
    means.reset()
    means.update({"a": torch.tensor([4.0]), "b": torch.tensor([2.0])})
    assert means.compute() == {"a": 4.0, "b": 2.0}


def _one_process(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    means = metrics.MetricMeans()
    for value in ([1.0, 2.0], [3.0]) if rank == 0 else ([10.0],):
        means.update({"a": torch.tensor(value)})
    torch.save(means.compute(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_means_weigh_people_and_not_processes(tmp_path):
    mp.spawn(_one_process, (str(tmp_path),), nprocs=2)
    values = [torch.load(tmp_path / f"{rank}.pt")["a"].item() for rank in (0, 1)]
    assert values == [4.0, 4.0]


def test_vertex_errors_agree_with_numpy_and_have_gradients_at_no_error():
    generator = torch.Generator().manual_seed(0)
    pred, target = torch.randn(2, 7, 50, 3, generator=generator)
    expected = 1000 * np.linalg.norm(pred.numpy() - target.numpy(), axis=-1).mean(axis=1)
    np.testing.assert_allclose(metrics.pve_mm(pred, target), expected, rtol=1e-6)
    same = target.clone().requires_grad_()
    error = metrics.pve_mm(same, target)
    assert (error < 1e-9).all()
    error.sum().backward()
    assert same.grad.isfinite().all()
    target[2, 3] = torch.nan  # a vertex without a label
    pred[4] = torch.nan  # a failed prediction
    mixed = metrics.pve_mm(pred, target)
    assert mixed.isinf().tolist() == [i == 4 for i in range(7)]
    kept = [i for i in range(50) if i != 3]
    expected = 1000 * np.linalg.norm((pred - target)[2, kept].numpy(), axis=-1).mean()
    assert mixed[2].item() == pytest.approx(expected, rel=1e-5)
    assert metrics.pve_mm(pred[:0], target[:0]).shape == (0,)


def test_vertex_errors_do_not_depend_on_gradients_precision_or_who_is_shifted():
    generator = torch.Generator().manual_seed(0)
    pred, target = torch.randn(2, 5, 70, 3, generator=generator)
    shift = torch.randn(5, 1, 3, generator=generator)
    plain = metrics.pve_mm(pred, target, shift)
    torch.testing.assert_close(metrics.pve_mm(pred - shift, target), plain)
    torch.testing.assert_close(metrics.pve_mm(pred.requires_grad_(), target, shift), plain)
    exact = metrics.pve_mm(pred.detach().double(), target.double(), shift.double())
    torch.testing.assert_close(exact.float(), plain)
    everybody = metrics.pve_mm(pred[:1].detach(), target)
    torch.testing.assert_close(everybody, metrics.pve_mm(pred[:1].expand(5, -1, -1), target))


def test_autocast_does_not_round_an_alignment():
    target = labelled(people())
    pred = people() + 0.05 * people(seed=1)
    plain = metrics.pa_mpjpe_mm(pred, target)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(metrics.pa_mpjpe_mm(pred, target), plain, rtol=1e-6, atol=0)


def test_a_joint_that_is_not_labelled_may_be_predicted_anywhere():
    target, pred = labelled(people()), people(seed=1)
    target[:, 5, 3] = 0
    plain = metrics.pa_mpjpe_mm(pred, target)
    pred[1, 5] = torch.nan
    value = metrics.pa_mpjpe_mm(pred, target)
    assert torch.equal(value[[0, 2, 3]], plain[[0, 2, 3]])
    assert not value[1] < plain[1]


@pytest.mark.parametrize("broken", ["collapsed", "nan", "infinite", "mirrored"])
def test_a_degenerate_prediction_never_scores_well(broken):
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(3, 14, 3, generator=generator)
    target = torch.cat([points, torch.ones(3, 14, 1)], dim=-1)
    pred = {
        "collapsed": torch.zeros_like(points),
        "nan": torch.full_like(points, torch.nan),
        "infinite": torch.full_like(points, torch.inf),
        "mirrored": points * torch.tensor([-1.0, 1.0, 1.0]),
    }[broken]
    for error in (
        metrics.mpjpe_mm(pred, target, [0]),
        metrics.pa_mpjpe_mm(pred, target),
        metrics.pve_mm(pred, points),
    ):
        assert (error > 300).all()
    for share in (metrics.pck(pred, target, 0.15, [0]), metrics.auc(pred, target, [0])):
        assert (share.isinf() | (share < 0.2)).all()
    joint = metrics.joint_errors_mm(pred, target, None)
    assert not joint.isnan().any()
    one = target.clone()
    one[:, 1:, 3] = 0  # a single labelled joint aligns with anything
    assert metrics.pa_mpjpe_mm(points, one).isnan().all()
