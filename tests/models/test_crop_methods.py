"""What every method that maps one crop to one body must do, whatever is inside."""

from dataclasses import replace

import pytest
import torch
from made_batches import labelled_crops

from hmrkit.body.free import free_body
from hmrkit.layers.resnet import ResNet
from hmrkit.layers.transformer import QueryDecoder
from hmrkit.layers.vit import ViT
from hmrkit.models.hmr2.loss import HMR2Loss
from hmrkit.models.hmr2.model import HMR2
from hmrkit.models.pymaf.loss import PyMAFLoss
from hmrkit.models.pymaf.model import PyMAF
from hmrkit.models.tokenhmr.loss import TokenHMRLoss
from hmrkit.models.tokenhmr.model import TokenHMR
from hmrkit.models.tokenhmr.tokenizer import PoseTokenizer

SIZE = (64, 64)
# Attention of one token to itself needs no query and no key; a stack of empty tokens no weight.
UNUSED = ("to_token_embedding.weight", "tokenizer.", "quantizer.")


def vit(**options) -> ViT:
    return ViT((64, 48), dim=32, depth=2, num_heads=2, **options)


def make(method: str, body_model):
    """A small network of a method and its loss."""
    torch.manual_seed(0)
    decoder = QueryDecoder(32, dim=64, depth=2, num_heads=2, head_dim=16, mlp_dim=64)
    if method == "hmr2":
        return HMR2(vit(), decoder, body_model, SIZE), HMR2Loss()
    if method == "tokenhmr":
        tokenizer = PoseTokenizer(num_codes=16, code_dim=8, width=16)
        tokenizer.quantizer.codebook.normal_()
        return TokenHMR(vit(), decoder, tokenizer, body_model, SIZE, token_dim=8), TokenHMRLoss()
    net = PyMAF(ResNet([1, 1, 1, 1]), body_model, SIZE, num_channels=32, num_hidden=64)
    return net, PyMAFLoss()


METHODS = ["hmr2", "tokenhmr", "pymaf"]


@pytest.fixture(scope="module")
def body_model():
    return free_body()


def total(terms):
    return torch.stack(list(terms.values())).sum()


@pytest.mark.parametrize("method", METHODS)
def test_gradients_reach_every_trainable_parameter(body_model, method):
    net, loss = make(method, body_model)
    batch = labelled_crops(body_model, SIZE)
    total(loss(net(batch, body_model), batch, body_model)).backward()
    named = [*net.named_parameters(), *loss.named_parameters()]
    silent = [
        name
        for name, parameter in named
        if (parameter.grad is None or not parameter.grad.any())
        and not any(word in name for word in UNUSED)
    ]
    assert not silent


@pytest.mark.parametrize("method", METHODS)
def test_rows_of_a_batch_are_independent_in_eval(body_model, method):
    net, _ = make(method, body_model)
    net.eval()
    image = labelled_crops(body_model, SIZE)["image"]
    together, alone = net({"image": image}, body_model), net({"image": image[1:2]}, body_model)
    for name in ("global_orient", "body_pose", "betas"):
        pair = getattr(together.body, name)[1:2], getattr(alone.body, name)
        torch.testing.assert_close(*pair, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together.transl_cam[1:2], alone.transl_cam, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_training_step_edits_none_of_its_inputs(body_model, method):
    net, loss = make(method, body_model)
    batch = labelled_crops(body_model, SIZE)
    flat = {**batch, **vars(batch["body"])}
    before = {name: value.clone() for name, value in flat.items() if torch.is_tensor(value)}
    loss(net(batch, body_model), batch, body_model)
    assert all(torch.equal(flat[name], value) for name, value in before.items())


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_without_labels_can_step(body_model, method):
    net, loss = make(method, body_model)
    batch = labelled_crops(body_model, SIZE)
    no = torch.zeros(4, dtype=torch.bool)
    bare = {name: batch[name] * 0 for name in ("keypoints_crop", "keypoints_world")}
    batch = {**batch, **bare, "has_pose": no, "has_betas": no, "has_exact_labels": no}
    terms = loss(net(batch, body_model), batch, body_model)
    assert all(value.isfinite() for value in terms.values())
    labelled = [n for n in terms if n not in ("camera", "adversarial", "discriminator")]
    assert all(terms[name] == 0 for name in labelled)
    total(terms).backward()
    grads = [p.grad for p in net.parameters() if p.grad is not None]
    assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("method", METHODS)
def test_a_perfect_prediction_costs_next_to_nothing(body_model, method):
    net, loss = make(method, body_model)
    batch = labelled_crops(body_model, SIZE)
    if method == "tokenhmr":
        batch["has_exact_labels"] = torch.ones(4, dtype=torch.bool)
    perfect = replace(
        net.eval()(batch, body_model),
        body=replace(batch["body"], transl=torch.zeros(4, 3)),
        transl_cam=batch["body"].transl,
        intrinsics_crop=torch.tensor([[3.0, 0, 0], [0, 3.0, 0], [0, 0, 1]]).expand(4, 3, 3),
        stages=[],
    )
    terms = loss.eval()(perfect, batch, body_model)
    assert all(value < 1e-3 for name, value in terms.items() if name != "camera"), terms


@pytest.mark.parametrize("method", METHODS)
def test_a_crop_of_another_size_is_refused(body_model, method):
    net, _ = make(method, body_model)
    with pytest.raises(ValueError, match="crops are 32x32 but this network takes 64x64"):
        net({"image": torch.zeros(1, 3, 32, 32)}, body_model)


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_autocast_stays_close(body_model, method):
    net, _ = make(method, body_model)
    batch = labelled_crops(body_model, SIZE)
    exact = net.eval()(batch, body_model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = net(batch, body_model)
    assert rough.body.body_pose.dtype == torch.float32
    assert (rough.body.body_pose - exact.body.body_pose).abs().max() < 0.06


@pytest.mark.slow
@pytest.mark.parametrize("method", ["hmr2", "tokenhmr"])  # pymaf in training: test_pymaf_net
def test_compiled_equals_eager(body_model, method):
    net, _ = make(method, body_model)
    batch = {"image": labelled_crops(body_model, SIZE)["image"]}
    expected = net.eval()(batch, body_model)
    compiled = torch.compile(net, backend="aot_eager")(batch, body_model)
    torch.testing.assert_close(
        compiled.body.body_pose, expected.body.body_pose, atol=1e-4, rtol=1e-3
    )


def test_gradient_checkpointing_changes_no_gradient():
    image = torch.randn(2, 3, 64, 48)
    grads = []
    for is_on in (False, True):
        torch.manual_seed(0)
        net = vit(grad_checkpointing=is_on)
        net(image).square().sum().backward()
        grads.append(net.blocks[0].attn.qkv.weight.grad)
    torch.testing.assert_close(*grads)


def test_stochastic_depth_skips_blocks_in_training_only():
    net = vit(drop_path=0.9)
    image = torch.randn(64, 3, 64, 48)  # some of which skip a block, whatever is drawn
    assert not torch.equal(net(image), net(image))
    net.eval()
    assert torch.equal(net(image), net(image))


def test_the_tokenizer_of_tokenhmr_is_frozen_saved_and_never_in_training(body_model):
    net, _ = make("tokenhmr", body_model)
    net.train()
    tokenizer = net.head.tokenizer
    assert not any(module.training for module in tokenizer.modules())
    assert not any(parameter.requires_grad for parameter in tokenizer.parameters())
    assert "head.tokenizer.quantizer.codebook" in net.state_dict()
    before = tokenizer.quantizer.codebook.clone()
    net(labelled_crops(body_model, SIZE), body_model)
    assert torch.equal(tokenizer.quantizer.codebook, before)


def test_a_tokenizer_is_read_from_every_kind_of_file(tmp_path):
    from hmrkit.models.tokenhmr.convert import TOKENIZER_KEYS, read_tokenizer

    small = read_tokenizer(None)
    tiny = PoseTokenizer(num_codes=256, code_dim=64, width=64, num_doublings=1)
    tiny.load_state_dict(small)  # the one that comes with hmrkit
    ours = {f"net.tokenizer.{name}": value for name, value in small.items()}
    torch.save({"state_dict": ours}, tmp_path / "ours.ckpt")
    read = read_tokenizer(tmp_path / "ours.ckpt")
    assert all(torch.equal(read[name], value) for name, value in small.items())

    official = PoseTokenizer().state_dict()
    codes = official["quantizer.codebook"].normal_()
    net = {}
    for theirs, prefix in TOKENIZER_KEYS.items():
        for name in (n for n in official if prefix and n.startswith(prefix)):
            net[theirs.replace("\\", "") + name.removeprefix(prefix)] = official[name]
    torch.save({"net": net, "hparams": {}}, tmp_path / "tokenizer.pth")
    read = read_tokenizer(tmp_path / "tokenizer.pth")
    PoseTokenizer().load_state_dict(read)
    assert torch.equal(read["quantizer.codebook"], codes)
    assert read["quantizer.code_count"].eq(1).all()

    torch.save({"state_dict": {"weight": codes}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"neither the authors' tokenizer.pth nor"):
        read_tokenizer(tmp_path / "other.ckpt")


def test_tals_is_loose_at_and_below_the_threshold_only():
    from hmrkit.models.tokenhmr.loss import tals

    weight = tals(torch.tensor([0.1, 0.2, 0.3]), torch.tensor(0.2), 0.05)
    assert weight.tolist() == pytest.approx([0.05, 0.05, 1.0])


def test_fitted_labels_count_less_where_the_prediction_is_near(body_model):
    net, _ = make("tokenhmr", body_model)
    batch = labelled_crops(body_model, SIZE)
    prediction = replace(net.eval()(batch, body_model), body=batch["body"])
    turned = batch["body"].body_pose @ torch.tensor(
        [[1.0, 0, 0], [0, 0.995, -0.0998], [0, 0.0998, 0.995]]
    )
    prediction.body = replace(batch["body"], body_pose=turned)  # 0.1 rad off: below the thresholds
    values = {}
    for exact in (False, True):
        batch["has_exact_labels"] = torch.full((4,), exact)
        values[exact] = TokenHMRLoss()(prediction, batch, body_model)["body_pose"].item()
    assert values[False] == pytest.approx(0.05 * values[True], rel=1e-3)


def test_loops_of_pymaf_pass_no_gradient_to_each_other(body_model):
    net, _ = make("pymaf", body_model)
    prediction = net(labelled_crops(body_model, SIZE), body_model)
    prediction.extra["pose6d"].sum().backward()
    first = net.regressors[0]
    assert first.decpose.weight.grad is None or not first.decpose.weight.grad.any()
    assert net.regressors[2].decpose.weight.grad.any()


def test_the_dense_head_of_pymaf_runs_in_training_only(body_model):
    net, _ = make("pymaf", body_model)
    batch = labelled_crops(body_model, SIZE)
    assert "part" in net(batch, body_model).extra
    assert "part" not in net.eval()(batch, body_model).extra
