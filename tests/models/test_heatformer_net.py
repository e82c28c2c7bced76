"""HeatFormer with small parts: any number of views, what learns, what its savings must not do."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_heatformer import SIDE, network, rigs, views_of

from hmrkit.body import joints
from hmrkit.body.free import free_body
from hmrkit.geometry.cameras import transform
from hmrkit.geometry.rotations import axis_angle_to_rotmat, rotmat_to_axis_angle
from hmrkit.models.heatformer import convert
from hmrkit.models.heatformer.decoder import PositionEmbedding, encode_axis
from hmrkit.models.heatformer.estimate import view_bodies, world_bodies
from hmrkit.models.heatformer.fusion import fuse_heatmaps, soft_argmax, triangulate
from hmrkit.models.heatformer.heatmapper import JOINTS
from hmrkit.models.heatformer.heatmaps import HeatEncoder, Profiles
from hmrkit.models.heatformer.loss import (
    HeatFormerLoss,
    rotmat_to_long_axis_angle,
    view_labels,
)
from hmrkit.models.heatformer.model import PARTS, HeatFormer
from hmrkit.models.heatformer.views import read_rig, tabulate
from hmrkit.types import Batch, Body
from hmrkit.weight_files import read_checkpoint

IN_ALL = joints.index(JOINTS, "all")
# Attention of one token to itself needs no query and no key; an empty token no weight.
UNUSED = ("estimator.", "initial.decoder.to_token_embedding.weight", "heatmapper.final_layer")


@pytest.fixture(scope="module")
def body_model():
    return free_body()


def total(terms) -> torch.Tensor:
    return torch.stack(list(terms.values())).sum()


@pytest.mark.parametrize("counts", [(1,), (2,), (5, 5), (1, 4, 2)])
def test_any_number_of_views_and_of_people(body_model, counts):
    net = network(body_model).eval()
    prediction = net(rigs(body_model, counts), body_model)
    assert len(prediction.stages) == 2
    assert prediction.body.betas.shape == (len(counts), 10)
    assert view_bodies(prediction).body_pose.shape == (sum(counts), 23, 3, 3)
    for value in [*vars(prediction.body).values(), *prediction.extra.values()]:
        assert value.float().isfinite().all()


def test_people_do_not_depend_on_who_else_is_in_the_batch_or_how_often_that_one_is_seen(body_model):
    net = network(body_model).eval()
    batch = rigs(body_model, (2, 4, 1))
    together = net(batch, body_model)
    for person, views in enumerate(([0, 1], [2, 3, 4, 5], [6])):
        alone = net(views_of(batch, views, [person]), body_model)
        for name, value in vars(alone.body).items():
            expected = getattr(together.body, name)[person : person + 1]
            torch.testing.assert_close(value, expected, atol=2e-4, rtol=1e-3)
        torch.testing.assert_close(
            view_bodies(alone).betas, view_bodies(together).betas[views], atol=1e-4, rtol=1e-3
        )


def test_views_may_come_in_any_order(body_model):
    net = network(body_model).eval()
    batch = rigs(body_model, (2, 2))
    order = [2, 0, 3, 1]
    mixed = views_of(batch, order, [0, 1])
    straight, shuffled = net(batch, body_model), net(mixed, body_model)
    torch.testing.assert_close(
        shuffled.extra["betas"], straight.extra["betas"][order], atol=1e-4, rtol=1e-3
    )
    torch.testing.assert_close(shuffled.body.betas, straight.body.betas, atol=1e-4, rtol=1e-3)


def test_a_person_without_a_view_is_named(body_model):
    batch = rigs(body_model, (2, 2))
    batch["person_of_view"] = torch.tensor([0, 0, 2, 2])
    with pytest.raises(ValueError, match="person 1 of the batch has no view"):
        network(body_model)(batch, body_model)


def test_the_pelvis_stands_at_its_label_or_where_the_views_see_it(body_model):
    batch = rigs(body_model)
    pelvis = joints.index("h36m_pelvis", "all")
    for anchor, mode in (("labels", False), ("triangulated", False), ("labels", True)):
        net = network(body_model, anchor=anchor if not mode else "triangulated")
        prediction = net.train(mode)(batch, body_model)
        world = body_model.joints(prediction.body, "all")[:, pelvis]
        found = prediction.extra["anchor_world"]
        in_cameras = body_model.joints(view_bodies(prediction), "all")[:, pelvis]
        shown = transform(found[batch["person_of_view"]][:, None], batch["world_to_camera"])[:, 0]
        torch.testing.assert_close(in_cameras, shown, atol=1e-4, rtol=1e-4)
        label = batch["keypoints_world"][:, pelvis, :3]
        is_label = (found - label).norm(dim=-1) < 1e-5
        assert is_label.all() if anchor == "labels" else not is_label.any()
        assert (world - found).norm(dim=-1).max() < 0.1  # the mean of views that differ


def test_the_anchor_without_a_label_is_triangulated(body_model):
    batch = rigs(body_model)
    batch["keypoints_world"] = batch["keypoints_world"] * 0
    by_label = network(body_model, anchor="labels").eval()(batch, body_model)
    by_views = network(body_model).eval()(batch, body_model)
    assert torch.equal(by_label.extra["anchor_world"], by_views.extra["anchor_world"])


def test_a_single_view_takes_the_distance_from_its_weak_camera(body_model):
    net = network(body_model).eval()
    batch = rigs(body_model, (1,))
    batch["world_to_camera"] = torch.eye(4)[None]
    near, far = (
        set_scale(net, scale)(batch, body_model).extra["anchor_world"][0] for scale in (0.9, 0.45)
    )
    # 110 px per crop unit, 0.9 units per metre, focal length 300 px
    assert near[2].item() == pytest.approx(300 / (110 * 0.9), rel=1e-4)
    assert far[2].item() == pytest.approx(2 * near[2].item(), rel=1e-4)


def set_scale(net: HeatFormer, scale: float) -> HeatFormer:
    torch.nn.init.zeros_(net.initial.deccam.weight)
    torch.nn.init.zeros_(net.initial.deccam.bias)
    net.initial.init_cam = torch.tensor([[scale, 0.0, 0.0]])
    return net


def test_views_that_agree_give_their_own_body_in_the_world(body_model):
    batch = rigs(body_model, (3, 2))
    table, rig = tabulate(batch["person_of_view"]), read_rig(batch, (SIDE, SIDE), (16, 16))
    body, person = batch["body"], batch["person_of_view"]
    vertices = transform(body_model(body).vertices[person], batch["world_to_camera"])
    views = Body(
        rig.rotation @ body.global_orient[person], body.body_pose[person], body.betas[person], None
    )
    free = body_model(replace(views, transl=torch.zeros(5, 3))).vertices
    views.transl = (vertices - free)[:, 0]
    assert (body_model(views).vertices - vertices).abs().max() < 1e-4
    for name, value in vars(world_bodies(views, table, rig, body_model)).items():
        torch.testing.assert_close(value, getattr(body, name), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("trainable", [(), ("heat_encoder",), PARTS])
def test_gradients_reach_what_learns_and_nothing_else(body_model, trainable):
    net = network(body_model, trainable=trainable, training_anchor="labels")
    loss = HeatFormerLoss(detection=1.0 if "heatmapper" in trainable else 0.0)
    batch = rigs(body_model)
    total(loss(net.train()(batch, body_model), batch, body_model)).backward()
    for name, parameter in [*net.named_parameters(), *loss.named_parameters()]:
        part = name.split(".")[0]
        if part in PARTS and part not in trainable:
            assert not parameter.requires_grad
            assert parameter.grad is None
        elif not any(word in name for word in UNUSED):
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name


def test_frozen_parts_keep_still_in_training_unless_asked_to_be_noisy(body_model):
    batch = rigs(body_model)
    for with_noise in (False, True):
        net = network(body_model, with_noise_in_frozen=with_noise).train()
        before = net.heatmapper.bn1.running_mean.clone()
        net(batch, body_model)
        assert torch.equal(net.heatmapper.bn1.running_mean, before) is not with_noise
        assert net.decoder.training
        assert net.backbone.training is with_noise


def test_the_heatmaps_pull_on_the_pose_only_if_asked_to(body_model):
    batch = rigs(body_model)
    for is_on in (False, True):
        net = network(body_model, with_gradient_of_heatmaps=is_on)
        error = net.train()(batch, body_model).extra["heatmap_error"]
        assert error.requires_grad is is_on
        if is_on:
            error.sum().backward()
            assert net.decpose.weight.grad.any()


def test_a_training_step_edits_none_of_its_inputs(body_model):
    net, loss = network(body_model), HeatFormerLoss()
    batch = rigs(body_model)
    flat = {**batch, **vars(batch["body"])}
    before = {name: value.clone() for name, value in flat.items() if torch.is_tensor(value)}
    loss(net(batch, body_model), batch, body_model)
    assert all(torch.equal(flat[name], value) for name, value in before.items())


def test_a_batch_without_labels_can_step(body_model):
    net, loss = network(body_model), HeatFormerLoss(detection=1.0)
    batch = rigs(body_model)
    no = torch.zeros(2, dtype=torch.bool)
    bare = {name: batch[name] * 0 for name in ("keypoints_crop", "keypoints_world")}
    batch = {**batch, **bare, "has_pose": no, "has_betas": no}
    terms = loss(net(batch, body_model), batch, body_model)
    assert all(value.isfinite() for value in terms.values())
    unlabelled = {"heatmap", "adversarial", "discriminator"}
    assert all(terms[name] == 0 for name in terms.keys() - unlabelled)
    total(terms).backward()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


def test_a_perfect_prediction_costs_nothing_but_its_weak_camera(body_model):
    net = network(body_model, num_iterations=1)
    loss = HeatFormerLoss(with_short_angles=True).eval()
    batch = rigs(body_model)
    labels = view_labels(batch, body_model, with_vertices=False)
    prediction = net.eval()(batch, body_model)
    rotmat = axis_angle_to_rotmat(labels.axis_angle)
    prediction.extra |= {"rotmat": rotmat, "betas": labels.betas}
    terms = loss(prediction, batch, body_model)
    exact = ("keypoints3d", "global_orient", "body_pose", "betas", "vertices")
    assert all(terms[name] < 1e-3 for name in exact), terms


def test_missing_iterations_weights_are_named(body_model):
    net, loss = network(body_model, num_iterations=3), HeatFormerLoss(heatmap=[0.1])
    batch = rigs(body_model)
    with pytest.raises(ValueError, match=r"3 iterations but 1 weights in model\.loss\.heatmap"):
        loss(net(batch, body_model), batch, body_model)


def test_rotations_come_back_from_the_long_way_round():
    turns = torch.tensor([[3.0, 0, 0], [0, 0, 0], [0, -0.5, 2.9], [1e-4, 0, 0]])
    rotmat = axis_angle_to_rotmat(turns)
    for angles in (rotmat_to_long_axis_angle(rotmat), rotmat_to_axis_angle(rotmat)):
        torch.testing.assert_close(axis_angle_to_rotmat(angles), rotmat, atol=1e-5, rtol=0)
    rotmat = torch.eye(3).requires_grad_()
    rotmat_to_long_axis_angle(rotmat).sum().backward()
    assert rotmat.grad.isfinite().all()


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_patches_without_joints_and_tokens_without_use_change_nothing(depth):
    torch.manual_seed(0)
    net = HeatEncoder(num_joints=3, patch_size=4, dim=16, depth=depth, num_heads=2, head_dim=8)
    rows, columns = torch.zeros(2, 3, 16), torch.zeros(2, 3, 12)
    rows[0, 1, 3:6], columns[0, 1, 5:7] = 0.5, 1.0
    rows[1, 0, 10:], columns[1, 0, :3] = 0.3, 0.7
    maps = Profiles(rows, columns).maps()  # (2, 3, 16, 12)
    patches = maps.unflatten(3, (3, 4)).unflatten(2, (4, 4)).permute(0, 2, 4, 1, 3, 5)
    tokens = torch.cat([patches.flatten(4), torch.zeros(2, 4, 3, 1, 16)], dim=3).flatten(0, 2)
    tokens = net.to_token_embedding(tokens) + net.pos_embedding
    for layer in net.layers:
        tokens = layer(tokens, tokens)
    expected = tokens[:, -1].unflatten(0, (2, 12))
    torch.testing.assert_close(net(Profiles(rows, columns)), expected, atol=1e-6, rtol=1e-5)
    empty = net(Profiles(torch.zeros(1, 3, 16), columns[:1]))
    assert torch.equal(empty, empty[:, :1].expand_as(empty))


def test_positions_are_those_of_the_whole_encoding():
    torch.manual_seed(0)
    net = PositionEmbedding(12)
    view, row, column = (encode_axis(n, 6) for n in (3, 4, 2))
    shape = (3, 4, 2, 6)
    encoding = [view[:, None, None].expand(shape), row[None, :, None].expand(shape)]
    encoding = torch.cat([*encoding, column.expand(shape)], dim=-1)
    expected = net.linear2(net.linear1(encoding).relu())
    torch.testing.assert_close(net(3, (4, 2)), expected, atol=1e-6, rtol=1e-5)


def heatmaps_of(batch: Batch, rig) -> torch.Tensor:
    """What a keypoint network that makes no mistake would see, (O, 17, 16, 16)."""
    points = batch["keypoints_crop"][:, IN_ALL, :2]
    pixel = torch.arange(16.0)
    x, y = ((points[..., i, None] + 1) * 8 - pixel for i in range(2))
    return torch.exp(-(y[..., :, None].square() + x[..., None, :].square()) / 2)


def test_several_views_find_a_joint_that_one_does_not_see(body_model):
    batch = rigs(body_model, (4,))
    table, rig = tabulate(batch["person_of_view"]), read_rig(batch, (SIDE, SIDE), (16, 16))
    maps = heatmaps_of(batch, rig)
    clean, _ = soft_argmax(maps)
    wrist = JOINTS.index("h36m_left_wrist")
    maps[0, wrist] = 0.02 * torch.rand(16, 16, generator=torch.Generator().manual_seed(0))
    alone, _ = soft_argmax(maps)
    fused, _ = soft_argmax(fuse_heatmaps(maps, table.pairs, rig))
    error = [(points - clean)[0, wrist].norm().item() for points in (alone, fused)]
    assert error[1] < 1.5 < error[0]
    assert (fused - clean)[1:].norm(dim=-1).max() < 1.5


def test_exact_views_triangulate_to_the_joints(body_model):
    batch = rigs(body_model, (2, 4))
    table, rig = tabulate(batch["person_of_view"]), read_rig(batch, (SIDE, SIDE), (16, 16))
    points = batch["keypoints_crop"][:, IN_ALL, :2] * 110 + 100
    world = batch["keypoints_world"][:, IN_ALL, :3]
    for unit in (1.0, 1000.0):
        found = triangulate(points, table, rig, unit_per_metre=unit)
        assert (found - world).abs().max() < 1e-4
    spoilt = points.clone()
    spoilt[2] += 40  # a view of the second person, who has three others
    weight = torch.ones(6, 17)
    weight[2] = 0
    assert (triangulate(spoilt, table, rig) - world).norm(dim=-1)[1].max() > 0.02
    assert (triangulate(spoilt, table, rig, weight) - world).abs().max() < 1e-4


def test_joints_labelled_outside_the_keypoint_crop_are_not_drawn(body_model):
    batch = rigs(body_model)
    wrist = joints.index("h36m_left_wrist", "all")
    batch["keypoints_crop"][0, wrist, :2] = 3.0
    drawn = [
        network(body_model, with_label_visibility=is_on).eval()(batch, body_model)
        for is_on in (True, False)
    ]
    column = JOINTS.index("h36m_left_wrist")
    is_observed = [prediction.extra["is_observed"][0, column].item() for prediction in drawn]
    assert is_observed == [False, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_iterations": 0}, "num_iterations=0"),
        ({"anchor": "ground_truth"}, "no 'ground_truth'; there are labels, triangulated"),
        ({"trainable": ["fuser"]}, "no 'fuser'; there are heatmapper, backbone, initial"),
    ],
)
def test_wrong_options_are_named(body_model, options, message):
    with pytest.raises(ValueError, match=message):
        network(body_model, **options)


def test_batches_cut_for_other_networks_are_refused(body_model):
    net, batch = network(body_model), rigs(body_model)
    with pytest.raises(ValueError, match="use data=heatformer"):
        net({k: v for k, v in batch.items() if k != "keypoint_image"}, body_model)
    with pytest.raises(ValueError, match=r"keypoint_crops are 32x32 .* takes 64x64"):
        net({**batch, "keypoint_image": batch["keypoint_image"][..., ::2, ::2]}, body_model)


def test_bfloat16_autocast_stays_close(body_model):
    net, batch = network(body_model).eval(), rigs(body_model, (2, 3))
    exact = net(batch, body_model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = net(batch, body_model)
    assert rough.body.body_pose.dtype == torch.float32
    assert (rough.body.body_pose - exact.body.body_pose).abs().max() < 0.06
    assert torch.equal(rough.intrinsics_crop, exact.intrinsics_crop)


@pytest.mark.slow
def test_compiled_equals_eager(body_model):
    net = network(body_model, num_iterations=1).eval()
    batch = rigs(body_model, (2, 2))
    expected = net(batch, body_model)
    compiled = torch.compile(net, backend="aot_eager")(batch, body_model)
    torch.testing.assert_close(
        compiled.body.body_pose, expected.body.body_pose, atol=1e-4, rtol=1e-3
    )


def official_part(part: str, net: HeatFormer) -> dict[str, torch.Tensor]:
    """A file of one part by the authors' names."""
    state = getattr(net, part).state_dict()
    if part in ("heatmapper", "backbone"):
        return dict(state)
    encoder = {"norm1": "0.norm", "norm2": "1.norm", "mlp.0": "1.f.layer.0", "mlp.2": "1.f.layer.3"}
    encoder |= {f"attention.to_{x}": f"0.f.x_to_{x}" for x in "qkv"}
    encoder["attention.to_out"] = "0.f.out_layer"
    estimator = {"norm1": "0.norm", "norm2": "1.norm", "norm3": "2.norm", "mlp.0": "2.fn.net.0"}
    estimator |= {"mlp.2": "2.fn.net.3", "self_attention.to_qkv": "0.fn.to_qkv"}
    estimator |= {"self_attention.to_out": "0.fn.to_out.0", "cross_attention.to_q": "1.fn.to_q"}
    estimator |= {"cross_attention.to_kv": "1.fn.to_kv", "cross_attention.to_out": "1.fn.to_out.0"}
    names = {}
    for name, value in state.items():
        if name.startswith("init_"):
            continue
        table = encoder if part == "heat_encoder" else estimator
        for ours, theirs in table.items():
            name = name.replace(f".{ours}.", f".{theirs}.")
        prefix = "Encoder.Transformer." if part == "heat_encoder" else "decoder.transformer."
        name = name.removeprefix("decoder.") if part == "initial" else name
        if name.startswith("layers."):
            name = prefix + name
        elif name.startswith(("to_token", "pos_")):
            name = prefix.split(".")[0] + "." + name
        if name.startswith("decroot."):
            name, value = name.replace("decroot", "decpose"), torch.cat([value] * 24)
        names[name] = value
    if part == "initial":
        names |= {"decshape.weight": torch.zeros(10, 32), "decshape.bias": torch.zeros(10)}
    return names


@pytest.mark.parametrize("part", PARTS)
def test_the_files_of_single_parts_fill_exactly_their_part(body_model, part):
    net = network(body_model)
    own = getattr(net, part).state_dict()
    official = official_part(part, net)
    state = convert.convert_part(part, official)
    own = {name: value for name, value in own.items() if not name.startswith("init_")}
    assert state.keys() == own.keys()
    assert all(torch.equal(state[name], value) for name, value in own.items())
    if part == "heatmapper":  # AdaFuse's file holds it too, beside what is never run
        adafuse = {f"resnet.{name}": value for name, value in official.items()}
        adafuse["view_weight_net.conf_out.0.bias"] = torch.zeros(1)
        assert convert.convert_part(part, adafuse).keys() == own.keys()
    with pytest.raises(ValueError, match="weight 'stranger' has no place"):
        convert.convert_part(part, {**official, "stranger": torch.zeros(1)})


def test_the_validation_error_in_the_authors_files_is_a_number_not_code(tmp_path):
    content = {"model": {}, "epoch": 1, "performance": np.float32(42.5)}
    torch.save(content, tmp_path / "model_best.pth.tar")
    read = read_checkpoint(tmp_path / "model_best.pth.tar", convert.INERT)
    assert read.keys() == content.keys()
    with pytest.raises(ValueError, match="which is code and not data"):
        read_checkpoint(tmp_path / "model_best.pth.tar")


def test_a_file_of_another_method_is_refused():
    with pytest.raises(ValueError, match="not a HeatFormer checkpoint: unknown entry 'state_dict'"):
        convert.convert({"state_dict": {}})
    with pytest.raises(ValueError, match=r"'head\.fc1\.weight' has no place here"):
        convert.convert({"model": {"head.fc1.weight": torch.zeros(1)}})
