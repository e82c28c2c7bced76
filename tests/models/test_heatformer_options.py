"""HeatFormer's mended forms, its small networks, its schedule, and what its recipe begins with."""

import numpy as np
import pytest
import torch
from made_heatformer import network, rigs

from hmrkit.body.free import free_body
from hmrkit.configs import load_config, to_plain
from hmrkit.data.crops import Crops
from hmrkit.data.multiview import MultiView
from hmrkit.initial_weights import set_initial_weights
from hmrkit.layers.convnet import ConvTokens
from hmrkit.models.heatformer import convert
from hmrkit.models.heatformer.decoder import ViewDecoder
from hmrkit.models.heatformer.fusion import TEMPERATURE
from hmrkit.models.heatformer.heatmaps import HeatEncoder, Profiles
from hmrkit.models.heatformer.loss import HeatFormerLoss, detection_entropy, labelled_maps
from hmrkit.models.heatformer.model import PARTS
from hmrkit.models.heatformer.schedule import EpochMultiStepLR
from hmrkit.models.heatformer.small import ConvHeatmapper
from hmrkit.module import HMRModule
from made_records import make_record


@pytest.fixture(scope="module")
def body_model():
    return free_body()


def test_the_root_is_refined_only_if_asked_to(body_model):
    batch = rigs(body_model)
    for is_on in (False, True):
        net = network(body_model, with_root_refinement=is_on).eval()
        assert ("decroot.weight" in net.state_dict()) is is_on
        if is_on:
            torch.nn.init.normal_(net.decroot.weight, std=0.02)
        prediction = net(batch, body_model)
        first, last = (s.extra["rotmat"][:, 0] for s in (prediction.stages[0], prediction))
        assert torch.equal(first, last) is not is_on


def test_a_refined_root_learns_from_its_matrices(body_model):
    net = network(body_model, with_root_refinement=True)
    batch = rigs(body_model)
    weights = {"keypoints3d": 0, "keypoints2d": 0, "global_orient": 0, "body_pose": 0, "betas": 0}
    loss = HeatFormerLoss(**weights, vertices=0, adversarial=0, orientation=1.0)
    terms = loss(net.train()(batch, body_model), batch, body_model)
    assert terms.keys() == {"heatmap", "orientation"}
    terms["orientation"].backward()
    assert net.decroot.weight.grad.any()
    assert not net.decpose.weight.grad.any()  # the root alone is compared


def test_the_root_of_the_torso_is_that_of_the_person_unless_one_view_sees_it(body_model):
    batch = rigs(body_model, (3, 1))
    net = network(body_model, with_root_of_torso=True, anchor="labels").eval()
    found = net(batch, body_model).extra["rotmat"][:, 0]
    person, turn = batch["person_of_view"], batch["world_to_camera"][:, :3, :3]
    label = turn @ batch["body"].global_orient[person]
    cosine = ((found.mT @ label).diagonal(dim1=1, dim2=2).sum(dim=1) - 1) / 2
    assert cosine[:3].min() > 0.94  # bent torsos: within 20 degrees of the labelled root
    plain = network(body_model, anchor="labels").eval()(batch, body_model).extra["rotmat"][:, 0]
    torch.testing.assert_close(found[3], plain[3], atol=1e-4, rtol=1e-4)
    assert (found[:3] - plain[:3]).abs().max() > 0.1
    learns = network(body_model, with_root_of_torso=True, trainable=["initial"])
    learns(batch, body_model).extra["rotmat"][3, 0].sum().backward()
    assert learns.initial.decroot.weight.grad.any()  # the estimate that is kept still learns


def test_earlier_iterations_share_in_the_terms_of_the_last(body_model):
    net, batch = network(body_model, num_iterations=2).eval(), rigs(body_model)
    prediction = net(batch, body_model)
    alone = {}
    for name, said in (("last", prediction), ("first", prediction.stages[0])):
        said.extra.setdefault("is_observed", prediction.extra["is_observed"])
        said.stages, kept = [], said.stages
        alone[name] = HeatFormerLoss().eval()(said, batch, body_model)["keypoints3d"]
        said.stages = kept
    both = HeatFormerLoss(earlier=0.5).eval()(prediction, batch, body_model)["keypoints3d"]
    torch.testing.assert_close(both, alone["last"] + 0.5 * alone["first"])


def test_a_fresh_network_begins_at_the_mean(body_model):
    from hmrkit.models.heatformer.estimate import view_bodies

    batch = rigs(body_model, (2,))
    net = network(body_model, is_fresh=True).eval()
    bodies = view_bodies(net(batch, body_model))
    mean = body_model.mean_body(2)
    assert (bodies.body_pose - mean.body_pose).abs().max() < 0.2
    assert (bodies.betas - mean.betas).abs().max() < 0.2


def test_a_matched_decoder_begins_by_looking_at_its_own_place():
    places = torch.randn(1, 12, 32)
    for gain, is_matched in ((3.0, True), (0.0, False)):
        decoder = ViewDecoder(32, depth=1, num_heads=2, head_dim=16, mlp_dim=8, matched_gain=gain)
        attention = decoder.layers[0].cross_attention
        tokens = decoder.layers[0].norm2(decoder.to_token_embedding(places))
        queries = attention.to_q(tokens).unflatten(-1, (2, 16)).transpose(1, 2)
        (keys, _) = decoder.keys_values(places)[0]
        share = (queries @ keys.mT / 4).softmax(dim=-1).diagonal(dim1=-2, dim2=-1)
        assert (share.mean() > 0.8) == is_matched


def test_heatmaps_can_begin_as_loud_as_image_tokens():
    profiles = Profiles(torch.rand(4, 17, 32), torch.rand(4, 17, 16))
    sizes = {"patch_size": 16, "dim": 32, "depth": 1, "num_heads": 4, "head_dim": 8, "mlp_dim": 64}
    spread = [
        HeatEncoder(17, **sizes, **options)(profiles).std(dim=0).mean()
        for options in ({}, {"pos_std": 0.1, "gain": 2.0})
    ]
    assert spread[1] > 10 * spread[0]


def test_frozen_parts_are_in_evaluation_mode_from_the_start(body_model):
    net = network(body_model, trainable=["initial"])
    modes = {name: getattr(net, name).training for name in PARTS}
    assert modes == {"heatmapper": False, "backbone": False, "initial": True, "heat_encoder": False}


def test_heatmaps_learn_from_labelled_joints_in_the_map_alone():
    keypoints = torch.tensor([[[0.0, 0.5, 1.0], [0.0, 0.0, 0.0], [9.0, 0.0, 1.0]]])
    target = labelled_maps(keypoints, (16, 16), 1.0)
    assert target[0, 0].argmax() == 12 * 16 + 8
    flat, sharp = torch.zeros(1, 3, 16, 16), TEMPERATURE * (target + 1e-9).log()
    sharp[0, 1:] = 5 * torch.rand(2, 16, 16)  # what is not labelled in the map does not count
    values = [detection_entropy(maps, keypoints, 1.0) for maps in (flat, sharp)]
    assert values[0].item() == pytest.approx(np.log(256), rel=1e-5)
    assert values[1] < values[0]
    none = detection_entropy(flat.requires_grad_(), keypoints * 0, 1.0)
    assert none == 0
    none.backward()


def test_the_small_networks_have_the_shapes_of_the_large_ones():
    image = torch.randn(2, 3, 64, 32)
    backbone = ConvTokens((64, 32), patch_size=16, width=4, dim=8)
    assert backbone(image).shape == (2, 8, 8)
    lit = image.clone()
    lit[..., 48:, 16:] += 5  # the last patch's pixels
    changed = (backbone.eval()(lit) - backbone(image)).abs().amax(dim=(0, 2))
    assert not changed[:2].any()  # the first row of patches is far away
    assert changed[6:].all()
    assert ConvHeatmapper(4).joint_maps(image).shape == (2, 17, 16, 8)
    for options in ({"patch_size": 12}, {"patch_size": 64}):
        with pytest.raises(ValueError, match="a power of 2 that divides"):
            ConvTokens((64, 32), **options)


def test_the_learning_rate_drops_after_epochs_not_steps(body_model):
    config = to_plain(load_config("train", ["experiment=heatformer", "run_dir=run"]))
    assert config["trainer"]["max_epochs"] == 50
    node = config["model"]["scheduler"]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-5)
    scheduler = EpochMultiStepLR(optimizer, node["milestones"], node["gamma"])
    rates = []
    for _ in range(50):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[:31] == [1e-5] * 31
    assert rates[31:41] == pytest.approx([2e-6] * 10)
    assert rates[41:] == pytest.approx([4e-7] * 9)
    net = torch.nn.Linear(1, 1)
    module = HMRModule(
        net,
        torch.nn.Identity(),
        body_model,
        lambda parameters: torch.optim.SGD(parameters, lr=1e-5),
        lambda optimizer: EpochMultiStepLR(optimizer, [1]),
        {},
    )
    assert module.configure_optimizers()["lr_scheduler"]["interval"] == "epoch"


@pytest.mark.parametrize(("name", "iterations"), [("heatformer", 3), ("heatformer_iter4", 4)])
def test_the_recipes_say_how_often_they_refine(name, iterations):
    config = to_plain(load_config("train", [f"experiment={name}", "run_dir=run"]))
    assert config["model"]["net"]["num_iterations"] == iterations
    assert len(config["model"]["loss"]["heatmap"]) == iterations
    assert config["model"]["net"]["trainable"] == []


def test_the_recipe_reads_its_frozen_parts_from_the_authors_files(body_model, tmp_path):
    given, net = network(body_model), network(body_model)
    torch.save(dict(given.backbone.state_dict()), tmp_path / "img_vit.pth.tar")
    node = {
        "_target_": "hmrkit.models.heatformer.convert.read_part",
        "part": "backbone",
        "path": str(tmp_path / "img_vit.pth.tar"),
    }
    torch.nn.init.zeros_(net.backbone.pos_embed)
    set_initial_weights(net, {"backbone": node})
    for name, value in given.backbone.state_dict().items():
        assert torch.equal(net.backbone.state_dict()[name], value)
    (tmp_path / "broken.pth.tar").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="damaged"):
        convert.read_part("backbone", tmp_path / "broken.pth.tar")
    with pytest.raises(FileNotFoundError):
        convert.read_part("backbone", tmp_path / "none.pth.tar")


def test_training_meets_all_numbers_of_views_and_sources_may_show_fewer():
    rig = make_record(3, num_cameras=4)
    cut = MultiView(Crops((64, 64)), min_views=2, num_views_of_source={"few": 1})
    counts = {
        len(cut(rig, None, np.random.default_rng(seed))["image_of_view"]) for seed in range(30)
    }
    assert counts == {2, 3, 4}
    assert len(cut(rig)["image_of_view"]) == 4  # evaluation shows what there is
    assert len(cut({**rig, "source": "few"})["image_of_view"]) == 1
    for options in ({"min_views": 0}, {"min_views": 3, "num_views": 2}):
        with pytest.raises(ValueError, match="min_views="):
            MultiView(Crops((64, 64)), **options)
    with pytest.raises(ValueError, match=r"num_views_of_source\.few=0"):
        MultiView(Crops((64, 64)), num_views_of_source={"few": 0})
