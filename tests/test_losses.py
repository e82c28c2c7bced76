import pytest
import torch

from hmrkit import losses


def test_masked_mean_averages_the_selected_rows_only():
    values = torch.tensor([[1.0, 3.0], [100.0, 100.0], [5.0, 7.0]])
    mean = losses.masked_mean(values, torch.tensor([True, False, True]))
    assert mean.item() == 4.0


def test_without_a_valid_row_a_term_is_zero_and_has_a_gradient():
    values = torch.randn(3, 2, requires_grad=True)
    mean = losses.masked_mean(values.square(), torch.zeros(3, dtype=torch.bool))
    mean.backward()
    assert mean.item() == 0.0
    assert torch.equal(values.grad, torch.zeros(3, 2))


def test_keypoints2d_weighs_by_confidence_and_counts_every_joint():
    pred = torch.zeros(1, 4, 2)
    target = torch.tensor([[[1.0, 1.0, 1.0], [2.0, 0.0, 0.5], [9.0, 9.0, 0.0], [3.0, 0.0, 1.0]]])
    weight = torch.tensor([1.0, 1.0, 1.0, 0.0])
    assert losses.keypoints2d_loss(pred, target, weight).item() == pytest.approx((2 + 2) / 8)
    assert losses.keypoints2d_loss(pred, target, weight, "l1").item() == pytest.approx(3 / 8)


def test_keypoints3d_does_not_see_a_common_shift():
    generator = torch.Generator().manual_seed(0)
    pred = torch.randn(2, 5, 3, generator=generator)
    target = torch.cat([pred + 7.0, torch.ones(2, 5, 1)], dim=-1)
    valid = torch.ones(2, dtype=torch.bool)
    loss = losses.keypoints3d_loss(pred, target, valid, torch.tensor([1, 2]))
    assert loss.item() < 1e-10
    target[:, 4, 0] += 1.0
    loss = losses.keypoints3d_loss(pred, target, valid, torch.tensor([1, 2]))
    assert loss.item() == pytest.approx(1 / 15)


def test_an_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="huber"):
        losses.residual(torch.zeros(1), "huber")


def test_the_scale_penalty_is_small_for_bodies_in_front_and_grows_behind():
    assert losses.scale_penalty(torch.tensor([0.9])).item() < 1e-6
    assert losses.scale_penalty(torch.tensor([-0.1])).item() > 1
