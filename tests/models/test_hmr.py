from dataclasses import replace

import pytest
import torch

from hmrkit.body import joints
from hmrkit.body.free import free_body
from hmrkit.geometry.cameras import project
from hmrkit.geometry.rotations import axis_angle_to_rotmat
from hmrkit.layers.convnet import ConvNet
from hmrkit.layers.normed import Pointwise
from hmrkit.layers.resnet import ResNet
from hmrkit.models.hmr.loss import HMRLoss
from hmrkit.models.hmr.model import HMR
from hmrkit.types import Batch, Body

SIZE = (64, 48)
TERMS = {"keypoints2d", "keypoints3d", "vertices", "pose", "betas", "camera"}


@pytest.fixture(scope="module")
def body_model():
    return free_body()


def make_net(body_model, backbone: str = "convnet") -> HMR:
    torch.manual_seed(0)
    made = ConvNet(SIZE, width=8) if backbone == "convnet" else ResNet([1, 1, 1, 1])
    return HMR(made, body_model, SIZE, num_iterations=3)


def make_batch(body_model, num: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(1)
    rotmat = axis_angle_to_rotmat(0.3 * torch.randn(num, 24, 3, generator=generator))
    betas = torch.randn(num, 10, generator=generator)
    label = Body(rotmat[:, 0], rotmat[:, 1:], betas, torch.tensor([[0.0, 0.0, 4.0]] * num))
    points = body_model.joints(label, "all")
    intrinsics = torch.tensor([[3.0, 0, 0], [0, 3.0, 0], [0, 0, 1]]).expand(num, 3, 3)
    one = torch.ones_like(points[..., :1])
    return {
        "image": torch.randn(num, 3, *SIZE, generator=generator),
        "keypoints_crop": torch.cat([project(points, intrinsics), one], dim=-1),
        "keypoints_world": torch.cat([points, one], dim=-1),
        "body": label,
        "has_pose": torch.ones(num, dtype=torch.bool),
        "has_betas": torch.ones(num, dtype=torch.bool),
    }


def rows(batch: Batch, index: slice) -> Batch:
    return {"image": batch["image"][index]}


@pytest.mark.parametrize("backbone", ["convnet", "resnet"])
def test_gradients_reach_every_trainable_parameter(body_model, backbone):
    net, batch = make_net(body_model, backbone), make_batch(body_model)
    terms = HMRLoss()(net(batch, body_model), batch, body_model)
    torch.stack(list(terms.values())).sum().backward()
    silent = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


def test_an_untrained_net_predicts_about_the_mean_body_in_front_of_the_camera(body_model):
    net = make_net(body_model).eval()
    prediction = net(make_batch(body_model), body_model)
    expected = body_model.joints(body_model.mean_body(4))
    assert (body_model.joints(prediction.body) - expected).norm(dim=-1).max() < 0.2
    assert (prediction.transl_cam[:, 2] > 0).all()
    seen = project(
        body_model.joints(prediction.body) + prediction.transl_cam[:, None],
        prediction.intrinsics_crop,
    )
    assert seen.abs().max() < 1.5  # crop units
    head, foot = joints.index(["head", "left_foot"], "smpl24")
    assert (seen[:, head, 1] < seen[:, foot, 1]).all()


@pytest.mark.parametrize("backbone", ["convnet", "resnet"])
def test_rows_of_a_batch_are_independent_in_eval(body_model, backbone):
    net, batch = make_net(body_model, backbone).eval(), make_batch(body_model)
    together = net(batch, body_model)
    alone = net(rows(batch, slice(1, 2)), body_model)
    assert (together.extra["pose6d"][1:2] - alone.extra["pose6d"]).abs().max() < 1e-5
    assert (together.extra["cam"][1:2] - alone.extra["cam"]).abs().max() < 1e-5


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_pointwise_convolution_is_one_in_every_memory_layout(layout):
    torch.manual_seed(0)
    layer = Pointwise(6, 8, 1)
    image = torch.randn(2, 6, 5, 4).contiguous(memory_format=layout).requires_grad_()
    ours, theirs = layer(image), torch.nn.functional.conv2d(image, layer.weight, layer.bias)
    torch.testing.assert_close(ours, theirs)
    assert ours.is_contiguous(memory_format=layout)
    pairs = [torch.autograd.grad(y.square().sum(), [image, layer.weight]) for y in (ours, theirs)]
    for grad, expected in zip(*pairs, strict=True):
        torch.testing.assert_close(grad, expected, atol=1e-5, rtol=1e-5)


def test_a_training_step_edits_none_of_its_inputs(body_model):
    net, batch = make_net(body_model), make_batch(body_model)
    flat = {**batch, **vars(batch["body"])}
    before = {name: value.clone() for name, value in flat.items() if torch.is_tensor(value)}
    HMRLoss()(net(batch, body_model), batch, body_model)
    assert all(torch.equal(flat[name], value) for name, value in before.items())


def test_a_perfect_prediction_costs_nothing_but_the_scale_penalty(body_model):
    batch = make_batch(body_model)
    net = make_net(body_model).eval()
    prediction = replace(
        net(batch, body_model),
        body=replace(batch["body"], transl=torch.zeros(4, 3)),
        transl_cam=batch["body"].transl,
        intrinsics_crop=torch.tensor([[3.0, 0, 0], [0, 3.0, 0], [0, 0, 1]]).expand(4, 3, 3),
    )
    terms = HMRLoss(openpose_weight=1.0)(prediction, batch, body_model)
    assert terms.keys() == TERMS
    assert all(terms[name] < 1e-4 for name in TERMS - {"camera"})


@pytest.mark.parametrize("absent", sorted(TERMS))
def test_a_term_of_weight_zero_is_absent(body_model, absent):
    batch = make_batch(body_model)
    prediction = make_net(body_model)(batch, body_model)
    terms = HMRLoss(**{absent: 0.0})(prediction, batch, body_model)
    assert terms.keys() == TERMS - {absent}


def test_without_the_vertex_term_no_mesh_is_made(body_model, monkeypatch):
    batch = make_batch(body_model)
    prediction = make_net(body_model)(batch, body_model)
    monkeypatch.setattr(type(body_model), "forward", lambda *_: pytest.fail("made a mesh"))
    loss = HMRLoss(vertices=0.0, joint_set="smpl24", keypoint_norm="l1")
    assert all(value.isfinite() for value in loss(prediction, batch, body_model).values())


def test_joints_alone_and_joints_of_the_mesh_give_the_same_terms(body_model):
    batch = make_batch(body_model)
    prediction = make_net(body_model)(batch, body_model)
    with_mesh = HMRLoss()(prediction, batch, body_model)
    without = HMRLoss(vertices=0.0)(prediction, batch, body_model)
    for name, value in without.items():
        assert value.item() == pytest.approx(with_mesh[name].item(), rel=1e-4), name


def test_a_batch_without_labels_costs_only_the_scale_penalty_and_can_step(body_model):
    net, batch = make_net(body_model), make_batch(body_model)
    no = torch.zeros(4, dtype=torch.bool)
    keypoints = {n: batch[n] * 0 for n in ("keypoints_crop", "keypoints_world")}
    batch = {**batch, **keypoints, "has_pose": no, "has_betas": no}
    terms = HMRLoss()(net(batch, body_model), batch, body_model)
    assert all(terms[name] == 0 for name in TERMS - {"camera"})
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_samples_without_a_label_do_not_change_its_term(body_model):
    batch = make_batch(body_model)
    prediction = make_net(body_model).eval()(batch, body_model)
    masked = {**batch, "has_pose": torch.tensor([True, False, True, False])}
    garbage = batch["body"].body_pose.clone()
    garbage[1::2] = 100.0
    masked["body"] = replace(batch["body"], body_pose=garbage)
    value = HMRLoss()(prediction, masked, body_model)["pose"]
    expected = (prediction.body.body_pose - batch["body"].body_pose)[::2].square().sum()
    expected += (prediction.body.global_orient - batch["body"].global_orient)[::2].square().sum()
    assert value.item() == pytest.approx(60 * expected.item() / (2 * 24 * 9), rel=1e-5)


def test_bfloat16_autocast_stays_close(body_model):
    net, batch = make_net(body_model, "resnet").eval(), make_batch(body_model)
    exact = net(batch, body_model)
    exact_terms = HMRLoss()(exact, batch, body_model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = net(batch, body_model)
        terms = HMRLoss()(rough, batch, body_model)
    assert rough.body.body_pose.dtype == torch.float32
    assert (rough.body.body_pose - exact.body.body_pose).abs().max() < 0.02
    for name, value in terms.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(exact_terms[name].item(), rel=0.05, abs=1e-3), name


@pytest.mark.slow
def test_compiled_equals_eager(body_model):
    net, batch = make_net(body_model).eval(), make_batch(body_model)
    expected = net(batch, body_model)
    compiled = torch.compile(net, fullgraph=True)(batch, body_model)
    assert (compiled.extra["pose6d"] - expected.extra["pose6d"]).abs().max() < 1e-5
    assert (compiled.transl_cam - expected.transl_cam).abs().max() < 1e-2  # of 100 m


def test_a_crop_of_another_size_is_refused(body_model):
    with pytest.raises(ValueError, match="crops are 32x32 but this network takes 64x48"):
        make_net(body_model)({"image": torch.zeros(1, 3, 32, 32)}, body_model)


def test_the_small_backbone_refuses_a_size_it_cannot_halve_four_times():
    with pytest.raises(ValueError, match="100x96: both must be multiples of 16"):
        ConvNet((100, 96))


def test_a_joint_set_without_hips_is_refused():
    with pytest.raises(ValueError, match="openpose25"):
        HMRLoss(joint_set="openpose25")


def test_dropout_makes_training_passes_differ(body_model):
    net, batch = make_net(body_model), make_batch(body_model)
    first, second = net(batch, body_model), net(batch, body_model)
    assert not torch.equal(first.extra["pose6d"], second.extra["pose6d"])
