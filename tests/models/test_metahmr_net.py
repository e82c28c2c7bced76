"""Meta-HMR: what a meta step and test-time optimisation do, around any plain network."""

import gzip
import json
from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from made_batches import labelled_crops, placed_in_images
from torch.utils.data import DataLoader

from hmrkit.adapt.adapt import Adapt
from hmrkit.adapt.loss import Evidence, InnerLoss
from hmrkit.body.free import free_body
from hmrkit.checkpoints import load_official
from hmrkit.configs import load_config
from hmrkit.layers.convnet import ConvNet
from hmrkit.layers.resnet import ResNet
from hmrkit.layers.transformer import QueryDecoder
from hmrkit.layers.vit import ViT
from hmrkit.models.hmr.cliff import CLIFF
from hmrkit.models.hmr.loss import HMRLoss
from hmrkit.models.hmr.model import HMR
from hmrkit.models.hmr2.model import HMR2
from hmrkit.models.metahmr import module as loop
from hmrkit.models.metahmr.model import MetaHMR
from hmrkit.models.metahmr.module import MetaHMRModule
from hmrkit.models.pymaf.model import PyMAF
from hmrkit.models.tokenhmr.model import TokenHMR
from hmrkit.models.tokenhmr.tokenizer import PoseTokenizer
from hmrkit.types import Body

SIZE = (64, 64)
STATES = Path(__file__).parents[1] / "parity" / "cases" / "metahmr"


@pytest.fixture(scope="module")
def body_model():
    return free_body()


def make_batch(body_model, num: int = 4) -> dict:
    return placed_in_images(labelled_crops(body_model, SIZE, num))


def doubled(batch: dict) -> dict:
    """The same in float64."""

    def double(value):
        return value.double() if torch.is_tensor(value) and value.is_floating_point() else value

    label = Body(*(value.double() for value in vars(batch["body"]).values()))
    return {name: double(value) for name, value in batch.items()} | {"body": label}


def backbone() -> ConvNet:
    return ConvNet(SIZE, width=8, num_channels=16, num_features=64)


def plain(body_model, kind: type = CLIFF):
    return kind(backbone(), body_model, SIZE, num_hidden=64, dropout=0.0)


def make_module(body_model, inner_loss: InnerLoss | None = None, **options) -> MetaHMRModule:
    torch.manual_seed(0)

    def make(body_model, num_iterations: int) -> CLIFF:
        return CLIFF(backbone(), body_model, SIZE, num_iterations, num_hidden=64, dropout=0.0)

    net = MetaHMR(partial(make, num_iterations=4), partial(make, num_iterations=3), body_model)
    return MetaHMRModule(
        net,
        HMRLoss(),
        body_model,
        partial(torch.optim.Adam, lr=1e-3),
        None,
        {},
        inner_loss or InnerLoss(Evidence()),
        **{"inner_lr": 1e-3, "auxiliary_optimizer": {"lr": 1e-4}, **options},
    )


def outer_total(module: MetaHMRModule, batch: dict) -> torch.Tensor:
    terms = module.loss(module(batch), batch, module.body)
    return torch.stack(list(terms.values())).sum()


# -------------------------------------------------------------------------------- the training step


@pytest.mark.parametrize("num_inner_steps", [1, 2])
@pytest.mark.parametrize("first_order", [True, False])
def test_one_shared_pass_of_the_backbone_changes_nothing(
    body_model, monkeypatch, first_order, num_inner_steps
):
    batch, results = make_batch(body_model), []
    for is_shared in (True, False):
        module = make_module(
            body_model, first_order=first_order, num_inner_steps=num_inner_steps
        ).train()
        if not is_shared:
            monkeypatch.setattr(loop, "takes_feature", lambda net: False)
        total = outer_total(module, batch)
        total.backward()
        grads = {n: p.grad for n, p in module.net.named_parameters() if p.grad is not None}
        results.append((total, grads, dict(module.net.named_buffers())))
    (total, grads, buffers), (total2, grads2, buffers2) = results
    assert total.item() == pytest.approx(total2.item(), rel=1e-6)
    assert grads.keys() == grads2.keys()
    for name, grad in grads.items():
        error = (grad - grads2[name]).norm()
        assert error < 1e-3 * grad.norm() + 1e-5, name
    for name, value in buffers.items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(value, buffers2[name], atol=1e-6, rtol=1e-5, msg=name)


def test_the_backbone_runs_once_in_a_training_step(body_model, monkeypatch):
    module = make_module(body_model, num_inner_steps=2).train()
    calls = []
    for name in ("main", "auxiliary"):
        backbone = getattr(module.net, name).backbone
        backbone.register_forward_hook(lambda *_, name=name: calls.append(name))
    outer_total(module, make_batch(body_model))
    assert calls == ["main", "auxiliary"]


def test_inner_steps_go_down_the_inner_loss_and_change_the_adapted_weights_only(body_model):
    module = make_module(body_model, num_inner_steps=3).train()
    before = {name: value.clone() for name, value in module.net.main.state_dict().items()}
    batch = make_batch(body_model)
    steps, _ = module.inner_loop(batch)
    totals = [torch.stack(list(step.terms.values())).sum().item() for step in steps]
    assert totals[0] > totals[1] > totals[2]
    assert set(steps[0].parameters) == {
        f"head.{layer}.{kind}"
        for layer in ("fc1", "fc2", "decpose", "decshape", "deccam")
        for kind in ("weight", "bias")
    }
    for name, parameter in module.net.main.named_parameters():  # the module's own stay
        assert torch.equal(parameter, before[name])


def test_which_weights_adapt_is_an_option(body_model):
    module = make_module(body_model, inner_parameters=[r"^head\.dec", r"^backbone\.linear"]).train()
    steps, feature = module.inner_loop(make_batch(body_model))
    assert feature is None  # a backbone that adapts is run again
    assert any(name.startswith("backbone.linear.") for name in steps[0].parameters)
    assert not any(name.startswith("head.fc1") for name in steps[0].parameters)
    with pytest.raises(ValueError, match=r"named like '\^neck'; they begin with backbone, head"):
        make_module(body_model, inner_parameters=["^neck"])


def test_the_auxiliary_network_learns_in_second_order_only(body_model):
    batch = make_batch(body_model)
    for first_order in (True, False):
        module = make_module(body_model, first_order=first_order).train()
        outer_total(module, batch).backward()
        grads = [p.grad for p in module.net.auxiliary.parameters()]
        assert all((grad is None) == first_order for grad in grads)
        groups = module.configure_optimizers().param_groups
        assert [group["lr"] for group in groups] == ([1e-3] if first_order else [1e-3, 1e-4])


def test_second_order_gradients_are_those_of_finite_differences(body_model):
    smooth = InnerLoss(Evidence(), vertices=0.0)  # L1 has kinks
    module = make_module(body_model, first_order=False, inner_loss=smooth).double().train()
    batch = doubled(make_batch(body_model))
    weight = module.net.auxiliary.head.decpose.bias
    outer_total(module, batch).backward()
    row = int(weight.grad.abs().argmax())
    values = []
    for step in (1e-3, -1e-3):
        with torch.no_grad():
            weight[row] += step
        values.append(outer_total(module, batch).item())
        with torch.no_grad():
            weight[row] -= step
    assert weight.grad[row].item() == pytest.approx((values[0] - values[1]) / 2e-3, rel=1e-4)


def test_without_inner_steps_it_is_plain_training(body_model):
    module, batch = make_module(body_model, num_inner_steps=0).train(), make_batch(body_model)
    buffers = {n: b.clone() for n, b in module.net.auxiliary.named_buffers()}
    total = outer_total(module, batch)
    terms = module.loss(module.net.main(batch, body_model), batch, body_model)
    assert total.item() == pytest.approx(torch.stack(list(terms.values())).sum().item(), rel=1e-5)
    assert all(torch.equal(b, buffers[n]) for n, b in module.net.auxiliary.named_buffers())


def test_a_fixed_auxiliary_network_stays_in_eval_mode(body_model):
    module = make_module(body_model, is_auxiliary_fixed=True).train()
    before = module.net.auxiliary.backbone.blocks[0][1].running_mean.clone()
    outer_total(module, make_batch(body_model))
    assert torch.equal(module.net.auxiliary.backbone.blocks[0][1].running_mean, before)
    assert not module.net.auxiliary.training
    assert module.net.main.training


def test_a_batch_without_labels_can_step(body_model):
    module, batch = make_module(body_model).train(), make_batch(body_model)
    no = torch.zeros(4, dtype=torch.bool)
    bare = {name: batch[name] * 0 for name in ("keypoints_crop", "keypoints_world")}
    batch = {**batch, **bare, "has_pose": no, "has_betas": no}
    steps, _ = module.inner_loop(batch)
    assert all(value == 0 for name, value in steps[0].terms.items() if name != "camera")
    outer_total(module, batch).backward()
    assert all(p.grad.isfinite().all() for p in module.net.main.parameters())


def test_pseudo_labels_count_where_there_is_a_label_unless_told_otherwise(body_model):
    batch = make_batch(body_model)
    module = make_module(body_model).eval()
    with torch.no_grad():
        prediction = module.net.main(batch, body_model)
        pseudo = module.net.auxiliary(batch, body_model)
    batch["has_pose"] = torch.tensor([True, False, False, True])
    for with_unlabelled, rows in ((False, [0, 3]), (True, [0, 1, 2, 3])):
        loss = InnerLoss(Evidence(), with_unlabelled=with_unlabelled)
        value = loss(prediction, pseudo, batch, body_model)["pose"]
        first, second = (
            torch.cat([p.body.global_orient[:, None], p.body.body_pose], 1)[rows]
            for p in (prediction, pseudo)
        )
        assert value.item() == pytest.approx((first - second).square().mean().item(), rel=1e-5)


def test_the_inner_loss_of_a_prediction_against_itself_is_the_evidence_alone(body_model):
    batch = make_batch(body_model)
    prediction = make_module(body_model).eval().net.main(batch, body_model)
    terms = InnerLoss(Evidence(), camera=0.0)(prediction, prediction, batch, body_model)
    assert all(value == 0 for name, value in terms.items() if name != "keypoints2d")
    alone = Evidence()(prediction, batch, body_model)
    assert terms["keypoints2d"].item() == pytest.approx(5 * alone.mean().item(), rel=1e-4)
    with pytest.raises(ValueError, match="openpose25"):
        InnerLoss(Evidence("openpose25"))


def test_two_steps_of_the_trainer_train_and_log_both_losses(body_model, tmp_path):
    class Data(pl.LightningDataModule):
        def train_dataloader(self):
            batch = make_batch(body_model)
            return DataLoader([batch, batch], batch_size=None)

    module = make_module(body_model)
    before = module.net.main.head.fc1.weight.clone()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = pl.Trainer(
        max_steps=2, accelerator="cpu", default_root_dir=tmp_path, log_every_n_steps=1, **quiet,
        enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(module, Data())
    assert not torch.equal(module.net.main.head.fc1.weight, before)
    assert {"train/loss", "train/vertices", "train/inner_pose"} <= trainer.logged_metrics.keys()


# --------------------------------------------------------------------------- test-time optimisation


def make_any(method: str, body_model) -> torch.nn.Module:
    """A small network of a method."""
    torch.manual_seed(0)
    vit = ViT((64, 48), dim=32, depth=1, num_heads=2)
    decoder = QueryDecoder(32, dim=32, depth=1, num_heads=2, head_dim=16, mlp_dim=32)
    if method in ("hmr", "cliff"):
        return plain(body_model, {"hmr": HMR, "cliff": CLIFF}[method]).eval()
    if method == "hmr2":
        return HMR2(vit, decoder, body_model, SIZE).eval()
    if method == "tokenhmr":
        tokenizer = PoseTokenizer(num_codes=16, code_dim=8, width=16)
        tokenizer.quantizer.codebook.normal_()
        return TokenHMR(vit, decoder, tokenizer, body_model, SIZE, token_dim=8).eval()
    return PyMAF(ResNet([1, 1, 1, 1]), body_model, SIZE, num_channels=32, num_hidden=64).eval()


METHODS = ["hmr", "cliff", "hmr2", "tokenhmr", "pymaf"]


def make_adapt(**options) -> Adapt:
    loss = InnerLoss(Evidence(), with_unlabelled=True)
    return Adapt(loss, **{"num_steps": 4, "lr": 1e-4, "inner_lr": 1e-4, "chunk_size": 4, **options})


def row(batch: dict, index: int) -> dict:
    one = {n: v[index : index + 1] for n, v in batch.items() if torch.is_tensor(v)}
    zero = torch.zeros(1, dtype=torch.int64)
    return {**one, "image_of_view": zero, "person_of_view": zero}


@pytest.mark.parametrize("per", ["sample", "batch"])
@pytest.mark.parametrize("method", METHODS)
def test_any_network_of_crops_comes_nearer_to_the_evidence(body_model, method, per):
    net, batch = make_any(method, body_model), make_batch(body_model)
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    prediction = make_adapt(per=per)(net, batch, body_model)
    curve = prediction.extra["adapt_keypoints2d"]
    assert curve.shape == (4, 5)
    assert curve[:, -1].mean() < curve[:, 0].mean()
    assert per == "batch" or (curve[:, -1] < curve[:, 0]).all()
    before = net(batch, body_model)
    torch.testing.assert_close(
        prediction.stages[0].body.body_pose, before.body.body_pose, atol=1e-5, rtol=1e-4
    )
    assert (prediction.body.body_pose - before.body.body_pose).abs().max() > 1e-4
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_each_person_alone_is_a_batch_of_one_whatever_the_order(body_model):
    net, batch = make_any("cliff", body_model), make_batch(body_model)
    auxiliary = plain(body_model).eval()
    adapt = make_adapt(chunk_size=3)  # chunks of three and of one
    together = adapt(net, batch, body_model, auxiliary)
    for index in (0, 3):
        alone = make_adapt(per="batch")(net, row(batch, index), body_model, auxiliary)
        for name in ("global_orient", "body_pose", "betas"):
            pair = getattr(together.body, name)[index], getattr(alone.body, name)[0]
            torch.testing.assert_close(*pair, atol=2e-5, rtol=1e-3)
        torch.testing.assert_close(
            together.transl_cam[index], alone.transl_cam[0], rtol=1e-3, atol=1e-3
        )
        torch.testing.assert_close(
            together.extra["adapt_keypoints2d"][index],
            alone.extra["adapt_keypoints2d"][0],
            atol=1e-5,
            rtol=1e-3,
        )
    order = [2, 0, 3, 1]
    shuffled = adapt(
        net, {n: v[order] for n, v in batch.items() if torch.is_tensor(v)}, body_model, auxiliary
    )
    torch.testing.assert_close(
        shuffled.body.body_pose, together.body.body_pose[order], atol=2e-5, rtol=1e-3
    )
    whole = make_adapt(per="batch")(net, batch, body_model, auxiliary)
    assert (whole.body.body_pose - together.body.body_pose).abs().max() > 1e-4


@pytest.mark.parametrize("per", ["sample", "batch"])
def test_it_works_inside_inference_mode_as_in_lightnings_test_loop(body_model, per):
    net, adapt = make_any("cliff", body_model), make_adapt(per=per, num_steps=2)
    expected = adapt(net, make_batch(body_model), body_model)
    with torch.inference_mode():
        batch = make_batch(body_model)
        assert batch["image"].is_inference()
        found = adapt(net, batch, body_model)
    torch.testing.assert_close(found.body.body_pose, expected.body.body_pose, atol=1e-5, rtol=1e-4)


def test_the_first_step_uses_the_auxiliary_network_and_changes_the_head_alone(body_model):
    net, batch = make_any("cliff", body_model), make_batch(body_model)
    auxiliary = plain(body_model).eval()
    adapt = make_adapt(per="batch", num_steps=1)
    copies = adapt.copies(net, batch, body_model, auxiliary)
    (step,) = adapt.steps(copies, auxiliary)
    assert {"pose", "betas", "vertices", "keypoints3d"} <= step.terms.keys()
    moved = {n for n, leaf in copies.leaves.items() if not torch.equal(leaf, net.get_parameter(n))}
    assert moved
    assert all(name.startswith("head.") for name in moved)
    without = make_adapt(per="batch", num_steps=1, with_inner_step=False)
    copies = without.copies(net, batch, body_model, auxiliary)
    (step,) = without.steps(copies, auxiliary)
    assert not step.terms
    moved = {n for n, leaf in copies.leaves.items() if not torch.equal(leaf, net.get_parameter(n))}
    assert any(name.startswith("backbone.") for name in moved)


@pytest.mark.parametrize(
    ("options", "num_calls"),
    [
        ({}, 5),  # after the dual-network step the feature is still good
        ({"with_inner_step": False}, 6),
        ({"with_adam": False}, 1),
        ({"adam_parameters": [r"^head\."]}, 1),
    ],
)
def test_the_backbone_runs_only_after_its_weights_have_changed(body_model, options, num_calls):
    net, batch, calls = make_any("cliff", body_model), make_batch(body_model), []
    net.backbone.register_forward_hook(lambda *_: calls.append(1))
    adapt = make_adapt(per="batch", num_steps=5, **options)
    adapt(net, batch, body_model, plain(body_model).eval())
    assert len(calls) == num_calls


def test_early_stop_keeps_the_step_that_triggered_it(body_model):
    net, batch = make_any("cliff", body_model), make_batch(body_model)
    stopped = make_adapt(per="batch", num_steps=6, tolerance=1e3)(net, batch, body_model)
    curve = stopped.extra["adapt_keypoints2d"]
    assert curve.isfinite().tolist() == [[True, True, False, False, False, False, True]] * 4
    two = make_adapt(per="batch", num_steps=2)(net, batch, body_model)
    torch.testing.assert_close(stopped.body.body_pose, two.body.body_pose)


def test_people_stop_one_by_one(body_model):
    net, batch = make_any("cliff", body_model), make_batch(body_model)
    free = make_adapt(num_steps=6, lr=1e-3)(net, batch, body_model)
    change = free.extra["adapt_keypoints2d"].diff(dim=1).abs()[:, :5]  # of steps 1 to 5
    tolerance = change[:, 0].median().item() * 1.001  # half of the people stop after step 1
    stopped = make_adapt(num_steps=6, lr=1e-3, tolerance=tolerance)(net, batch, body_model)
    expected = [
        int((row < tolerance).nonzero()[0]) + 2 if (row < tolerance).any() else 6 for row in change
    ]
    assert len(set(expected)) > 1
    for index, num_steps in enumerate(expected):
        alone = make_adapt(num_steps=num_steps, lr=1e-3)(net, row(batch, index), body_model)
        torch.testing.assert_close(
            stopped.body.body_pose[index], alone.body.body_pose[0], atol=1e-4, rtol=1e-3
        )


def test_a_batch_that_is_not_of_crops_is_refused(body_model):
    batch = make_batch(body_model)
    batch["keypoints_crop"] = batch["keypoints_crop"].repeat(2, 1, 1)
    with pytest.raises(ValueError, match="4 images, 8 views and 4 people"):
        make_adapt()(make_any("cliff", body_model), batch, body_model)


def test_impossible_options_are_refused(body_model):
    with pytest.raises(ValueError, match="'image': choose sample or batch"):
        make_adapt(per="image")
    with pytest.raises(ValueError, match="num_steps=0"):
        make_adapt(num_steps=0)


def test_the_module_adapts_where_it_predicts_and_not_while_it_is_fit(body_model):
    batch = make_batch(body_model)
    module = make_module(body_model, adapt=make_adapt()).eval()
    prediction = module.predict(batch)
    assert "adapt_keypoints2d" in prediction.extra
    assert prediction.mesh is not None
    assert len(prediction.stages) == 1

    class Fitting:
        class state:
            fn = "fit"

    module._trainer = Fitting()
    assert "adapt_keypoints2d" not in module.predict(batch).extra


def test_a_test_run_scores_people_before_and_after_adaptation(body_model, tmp_path):
    class Data(pl.LightningDataModule):
        test_names = ("made",)

        def test_dataloader(self):
            named = {"key": ["a", "b", "c", "d"], "index": torch.arange(4)}
            named["box_img"] = torch.tensor([[0.0, 0, 50, 100]]).expand(4, 4)
            return DataLoader([make_batch(body_model) | named], batch_size=None)

        def protocol(self, source: str) -> dict:
            return {"name": "joints", "joint_set": "smpl24", "root": ["pelvis"]}

    module = make_module(body_model, adapt=make_adapt(num_steps=2))
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = pl.Trainer(accelerator="cpu", default_root_dir=tmp_path, **quiet)
    trainer.test(module, Data(), verbose=False)
    (rows,) = module.rows["made"]
    assert {"mpjpe", "stage0_mpjpe", "baseline_mpjpe"} <= rows.keys()
    assert (rows["mpjpe"] != rows["stage0_mpjpe"]).all()


# ------------------------------------------------------------------------------------- checkpoints


def official(variant: str) -> dict:
    """A file of Meta-HMR's: right names and shapes, small numbers."""
    with gzip.open(STATES / f"state_{variant}.json.gz", "rt") as lines:
        table = json.load(lines)
    generator = torch.Generator().manual_seed(0)
    content = {
        entry: {
            name: (0.02 * torch.rand(shape, generator=generator)).to(getattr(torch, dtype))
            for name, (shape, dtype) in table[entry].items()
        }
        for entry in ("model", "model_aux")
    }
    return {**content, "epoch": 3, "optimizer": {}}


@pytest.mark.parametrize(
    ("variant", "kind"), [("hmr_resnet_1111", HMR), ("cliff_resnet_1111", CLIFF)]
)
def test_both_networks_of_the_official_file_arrive_whole(tmp_path, variant, kind):
    content = official(variant)
    torch.save(content, tmp_path / "official.pt")
    net = load_official("metahmr", tmp_path / "official.pt").net
    for ours, entry in (("main", "model"), ("auxiliary", "model_aux")):
        network = getattr(net, ours)
        assert type(network) is kind
        found = {n.partition(".")[2]: v for n, v in network.state_dict().items()}
        assert found.keys() == content[entry].keys()
        assert all(torch.equal(v, content[entry][n]) for n, v in found.items())
    assert (net.main.head.num_iterations, net.auxiliary.head.num_iterations) == (10, 3)


@pytest.mark.parametrize("overrides", [["mix=metahmr_3dpw"], ["eval=3dpw_metahmr"]])
def test_3dpw_is_halved_wherever_a_mix_or_preset_of_the_authors_names_it(tmp_path, overrides):
    torch.save(official("cliff_resnet_1111"), tmp_path / "official.pt")
    module = load_official("metahmr", tmp_path / "official.pt")
    halved = {
        *load_config("train", ["experiment=metahmr"]).data.cut.half_resolution_sources,
    } & {*module.config["data"]["cut"]["half_resolution_sources"]}
    program = "eval" if overrides[0].startswith("eval=") else "train"
    own = ["checkpoint=x", "run_dir=x"] if program == "eval" else ["experiment=metahmr"]
    mix = load_config(program, [*own, *overrides]).mix
    names = {name for split in ("train", "test") for name in mix.get(split) or {}}
    named_3dpw = {name for name in names if name.startswith("pw3d")}
    assert named_3dpw
    assert named_3dpw <= halved


def test_what_is_no_file_of_meta_hmr_is_named(tmp_path):
    content = official("hmr_resnet_1111")

    def error(changed: dict) -> str:
        torch.save(changed, tmp_path / "official.pt")
        with pytest.raises(ValueError, match=r".") as caught:
            load_official("metahmr", tmp_path / "official.pt")
        return str(caught.value)

    assert "no entry 'model_aux'" in error({"model": content["model"]})
    assert "unknown entry 'tokenizer'" in error({**content, "tokenizer": {}})
    extra = {**content["model"], "neck.weight": torch.zeros(1)}
    assert "'neck.weight'" in error({**content, "model": extra})
    less = {name: v for name, v in content["model_aux"].items() if name != "layer1.0.bn1.bias"}
    assert "auxiliary.backbone.layer1.0.bn1.bias" in error({**content, "model_aux": less})
    wide = {**content["model"], "fc1.weight": torch.zeros(1024, 2206)}
    assert "fc1 has 2206 inputs" in error({**content, "model": wide})
