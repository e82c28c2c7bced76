"""TokenHMR's and HMR2.0's networks, losses and tokenizer against the authors' numbers."""

import gzip
import json
from collections import OrderedDict
from functools import lru_cache, partial

import fill
import numpy as np
import smplx
import torch
from parity_case import Case
from smplx.utils import Struct
from torch import Tensor

from hmrkit.body import joints
from hmrkit.body.smpl import SMPL, BodyData
from hmrkit.checkpoints import load_official
from hmrkit.geometry.cameras import project
from hmrkit.geometry.rotations import axis_angle_to_rotmat
from hmrkit.keys import rename_keys
from hmrkit.layers.discriminator import PoseDiscriminator
from hmrkit.models.hmr2 import convert as hmr2_convert
from hmrkit.models.hmr2.loss import HMR2Loss, adversarial_terms
from hmrkit.models.tokenhmr import convert
from hmrkit.models.tokenhmr.loss import (
    TokenHMRLoss,
    TokenizerLoss,
    _pose_only,
    reconstruction_terms,
    vertex_weights,
)
from hmrkit.models.tokenhmr.tokenizer import PoseTokenizer, rows6d_to_rotmat
from hmrkit.module import HMRModule
from hmrkit.types import Batch, Body, Mesh

TIGHT = {"default": {"atol": 1e-4, "rtol": 1e-4}}
SPIN44 = joints.index(joints.names("spin44"), "all")


@lru_cache(maxsize=2)
def body(salt: str) -> SMPL:
    """The nonsense body of the cases, whose extra joints are all regressed."""
    arrays = fill.smpl(salt)
    parents = arrays["kintree_table"][0].astype(np.int64)
    parents[0] = -1
    return SMPL(
        BodyData(
            name="parity-neutral",
            v_template=arrays["v_template"],
            shapedirs=arrays["shapedirs"],
            posedirs=arrays["posedirs"],
            weights=arrays["weights"],
            J_regressor=arrays["J_regressor"],
            faces=arrays["f"].astype(np.int64),
            parents=parents,
            mean_pose=np.tile(np.eye(3, dtype=np.float32), (24, 1, 1)),
            mean_betas=np.zeros(10, np.float32),
            J_regressor_extra=fill.joint_regressor("SMPL_to_J19", 19, salt),
        )
    )


def official_states(case: Case) -> dict[str, dict[str, Tensor]]:
    """Filled state dicts, ``checkpoint`` and, for TokenHMR, ``tokenizer``."""
    tables = {}
    for name in case.spec["weights"]["keys"].replace(" and ", " ").replace("+", " ").split():
        if name.startswith("state_dict_"):
            with gzip.open(case.path.with_name(name), "rt") as lines:
                entry = "tokenizer" if "tokenizer" in name else "checkpoint"
                tables[entry] = json.load(lines)
    return {
        entry: {name: torch.from_numpy(_value(case, name, shape)) for name, shape in table.items()}
        for entry, table in tables.items()
    }


def _value(case: Case, name: str, shape: list[int]) -> np.ndarray:
    salt = case.salt
    mean = {
        "smpl_head.init_body_pose": np.tile(np.float32([1, 0, 0, 0, 1, 0]), 24)
        + np.float32(0.05) * fill.unit("smpl_mean_params.pose", (144,), salt),
        "smpl_head.init_betas": np.float32(0.1) * fill.unit("smpl_mean_params.shape", (10,), salt),
        "smpl_head.init_cam": np.float32([0.9, 0, 0]),
    }
    if name in mean:
        return mean[name][None]
    if name.startswith("smpl."):
        return np.zeros(shape, np.float32)  # licensed, left behind
    value = fill.fill(name, shape, salt)
    listed = case.spec["weights"]["exceptions"]
    for key, text in listed.items():
        if key.split()[-1].removeprefix("net/") == name and text.endswith("* fill"):
            value = value * np.float32(text.split()[0])
    return value


def module_of(case: Case, tmp_path, method: str, overrides=()) -> HMRModule:
    """The authors' file, written as they write it and loaded as users load it."""
    states = official_states(case)
    torch.save({"state_dict": states.pop("checkpoint"), "epoch": 1}, tmp_path / "official.ckpt")
    options = {}
    if "tokenizer" in states:
        content = {"net": states["tokenizer"], "hparams": OrderedDict(NUM_TOKENS=10)}
        torch.save(content, tmp_path / "tokenizer.pth")
        options["tokenizer"] = tmp_path / "tokenizer.pth"
    del states  # gigabytes at the official size
    return load_official(
        method,
        tmp_path / "official.ckpt",
        body=body(case.salt),
        overrides=overrides,
        **options,
    )


def method_of(case: Case) -> str:
    return "tokenhmr" if case.name.startswith("tokenhmr") else "hmr2"


def check_forward(case: Case, tmp_path):
    """Every output of the forward pass."""
    module = module_of(case, tmp_path, method_of(case))
    shape = case.spec["inputs"]["img"]["shape"]
    image = torch.from_numpy(fill.image("img", shape, case.salt))
    seen = {}
    blocks = module.net.backbone.blocks
    hooks = [
        module.net.backbone.patch_embed.register_forward_hook(
            lambda _m, _i, out: seen.update(patch_embed=out)
        ),
        blocks[0].register_forward_hook(lambda _m, _i, out: seen.update(block_first=out)),
        module.net.backbone.register_forward_hook(lambda _m, _i, out: seen.update(features=out)),
    ]
    prediction = module.predict({"image": image})
    for hook in hooks:
        hook.remove()
    pred, extra = prediction.body, prediction.extra
    joints_cam = module.body.joints(pred, "spin44")
    points = joints_cam + prediction.transl_cam[:, None]
    outputs = {
        "pred_cam": extra["cam"],
        "pred_cam_t": prediction.transl_cam,
        "global_orient": pred.global_orient[:, None],
        "body_pose": pred.body_pose,
        "betas": pred.betas,
        "pred_keypoints_3d": joints_cam,
        "pred_keypoints_2d": project(points, prediction.intrinsics_crop) / 2,  # of the crop's side
        "token_out": extra["feature"][:, None],
        "pred_vertices": prediction.mesh.vertices,
        "pred_vertices_every17": prediction.mesh.vertices[:, ::17],
        **seen,
    }
    outputs["features"] = seen["features"].transpose(1, 2)  # theirs is (B, C, h, w)
    if "body_pose6d" in extra:
        probabilities = extra["token_probabilities"]
        outputs |= {
            "thetas6d": extra["body_pose6d"].flatten(1),
            "cls_softmax": probabilities,
            "token_max": probabilities.amax(-1),
        }
        _check_argmax(case, probabilities)
    checked = 0
    for name, expected in case.arrays.items():
        if name in ("img", "token_argmax"):
            continue
        base, how = _split(name)
        assert base in outputs, f"{name} is not compared"
        compare(name, _reduced(outputs[base], how), expected, case.spec["tolerance"])
        checked += 1
    assert checked > 10


def _check_argmax(case: Case, probabilities: Tensor) -> None:
    top = probabilities.topk(2, dim=-1)
    is_clear = (top.values[..., 0] - top.values[..., 1]).numpy() > 1e-3
    same = top.indices[..., 0].numpy() == case.arrays["token_argmax"]
    assert same[is_clear].all()
    assert same.mean() > 0.99


def _split(name: str) -> tuple[str, str]:
    for how in ("_sub", "_stats"):
        if name.endswith(how):
            return name.removesuffix(how), how
    return name, ""


def _reduced(value: Tensor, how: str) -> np.ndarray:
    """The whole array, each k-th value per sample, or mean, deviation and largest per sample."""
    array = value.detach().numpy()
    flat = array.reshape(len(array), -1)
    if how == "_sub":
        return flat[:, :: -(-flat.shape[1] // 600)]
    if how == "_stats":
        wide = flat.astype(np.float64)
        return np.stack([wide.mean(1), wide.std(1), np.abs(wide).max(1)], axis=1)
    return array


def compare(name: str, actual: np.ndarray, expected: np.ndarray, tolerance: dict) -> None:
    own = {"atol": 0.0, **tolerance.get(name, tolerance["default"])}
    np.testing.assert_allclose(actual, expected, err_msg=name, **own)


def check_train_loss(case: Case, tmp_path):
    """Loss terms, gradients and one optimiser step."""
    method, arrays = method_of(case), case.arrays
    module = module_of(case, tmp_path, method)
    weights = case.spec["config"]["LOSS_WEIGHTS"]
    own = {
        "keypoints3d": weights["KEYPOINTS_3D"],
        "keypoints2d": weights["KEYPOINTS_2D"],
        "global_orient": weights["GLOBAL_ORIENT"],
        "body_pose": weights["BODY_POSE"],
        "betas": weights["BETAS"],
    }
    batch = training_batch(case)
    prediction = module(batch)
    if method == "tokenhmr":
        loss = TokenHMRLoss(**own, with_unlabelled_pose=True)
        plain = TokenHMRLoss(**own, with_tals=False)
    else:
        loss = plain = HMR2Loss(**own, adversarial=0)
    terms = loss(prediction, batch, module.body)
    expected = dict(zip(arrays["loss_names"], arrays["loss_train"], strict=True))
    rtol = case.spec["tolerance"]["losses"]["rtol"]
    total = torch.stack(list(terms.values())).sum()
    _check_terms(terms, own, total, expected, rtol)
    plain_terms = plain(prediction, batch, module.body)
    of_validation = dict(zip(arrays["val_names"], arrays["loss_val"], strict=True))
    plain_total = torch.stack(list(plain_terms.values())).sum()
    _check_terms(plain_terms, own, plain_total, of_validation, rtol)
    named = dict(module.net.named_parameters())
    if method == "hmr2":
        total = total + _adversarial(case, prediction, weights["ADVERSARIAL"], expected, named)
    total.backward()
    keys = (convert if method == "tokenhmr" else hmr2_convert).KEYS
    check_gradients(case, named, keys)
    if "param_delta_sub" in case.arrays:
        _check_step(case, named, keys)


def _check_terms(terms, weights, total, expected, rtol) -> None:
    theirs = {
        "keypoints2d": "loss_keypoints_2d",
        "keypoints3d": "loss_keypoints_3d",
        "global_orient": "loss_global_orient",
        "body_pose": "loss_body_pose",
        "betas": "loss_betas",
    }
    for name, value in terms.items():
        np.testing.assert_allclose(
            value.item() / weights[name], expected[theirs[name]], rtol=rtol, err_msg=name
        )
    np.testing.assert_allclose(total.item(), expected["loss"], rtol=rtol)


def training_batch(case: Case) -> Batch:
    """The collated labels of a case; 2D in crop units."""
    arrays = case.arrays
    num = len(arrays["in_betas"])
    image = fill.image("img", case.spec["inputs"]["img"]["shape"], case.salt)
    keypoints2d = torch.from_numpy(arrays["in_keypoints_2d"]) * torch.tensor([2.0, 2.0, 1.0])
    sizes = len(joints.names("all"))
    of_all = {
        "keypoints_crop": torch.zeros(num, sizes, 3),
        "keypoints_world": torch.zeros(num, sizes, 4),
    }
    of_all["keypoints_crop"][:, SPIN44] = keypoints2d
    of_all["keypoints_world"][:, SPIN44] = torch.from_numpy(arrays["in_keypoints_3d"])
    root = axis_angle_to_rotmat(torch.from_numpy(arrays["in_global_orient"]).view(-1, 3))
    pose = axis_angle_to_rotmat(torch.from_numpy(arrays["in_body_pose"]).view(num, 23, 3))
    betas = torch.from_numpy(arrays["in_betas"])
    exact = [name == "BEDLAM" or name.startswith("H36M") for name in case.spec["inputs"]["dataset"]]
    return {
        "image": torch.from_numpy(image),
        **of_all,
        "body": Body(root, pose, betas, torch.zeros(num, 3)),
        "has_pose": torch.from_numpy(arrays["in_has_body_pose"] > 0),
        "has_betas": torch.from_numpy(arrays["in_has_betas"] > 0),
        "has_exact_labels": torch.tensor(exact),
    }


def _adversarial(case: Case, prediction, weight: float, expected: dict, named: dict) -> Tensor:
    """The weighted terms of the pose prior; its parameters are added to ``named``."""
    states = official_states(case)["checkpoint"]
    discriminator = PoseDiscriminator()
    discriminator.load_state_dict(
        {
            _discriminator_key(name): value
            for name, value in states.items()
            if name.startswith("discriminator.")
        }
    )
    num = len(case.arrays["in_mocap_betas"])
    pose = axis_angle_to_rotmat(torch.from_numpy(case.arrays["in_mocap_body_pose"]).view(-1, 3))
    betas = torch.from_numpy(case.arrays["in_mocap_betas"])
    real = Body(pose[:num], pose.view(num, 23, 3, 3), betas, torch.zeros(num, 3))
    with torch.no_grad():
        scores = discriminator(prediction.body.body_pose, prediction.body.betas)
    compare("disc_out_pred", scores.numpy(), case.arrays["disc_out_pred"], TIGHT)
    terms = adversarial_terms(discriminator, prediction.body, real)
    for ours, theirs in {"adversarial": "loss_gen", "discriminator": "loss_disc"}.items():
        np.testing.assert_allclose(terms[ours].item(), expected[theirs], rtol=1e-4)
    named |= {f"discriminator.{n}": p for n, p in discriminator.named_parameters()}
    return weight * (terms["adversarial"] + terms["discriminator"])


def _discriminator_key(name: str) -> str:
    name = name.removeprefix("discriminator.")
    for theirs, ours in (
        ("D_conv", "conv"),
        ("pose_out", "joint_out"),
        ("D_alljoints_", "all_"),
    ):
        name = name.replace(theirs, ours)
    return name


def check_gradients(case: Case, named: dict, keys: dict) -> None:
    """Norms and every k-th entry of the gradients that the case lists."""
    tolerance = case.spec["tolerance"]
    for row, name in enumerate(case.arrays["grad_names"].tolist()):
        grad = named[_our_name(name, keys)].grad
        expected = case.arrays["grad_sub"][row]
        if grad is None:
            assert np.isnan(expected).all(), name
            continue
        norm = case.arrays["grad_norm"][row]
        np.testing.assert_allclose(
            grad.double().norm().item(), norm, rtol=tolerance["grad_norm"]["rtol"], atol=1e-9,
            err_msg=name,
        )  # fmt: skip
        flat = grad.flatten()
        picked = flat[:: -(-len(flat) // 8)].numpy()
        limit = tolerance["grad_sub"]
        np.testing.assert_allclose(
            np.pad(picked, (0, 8 - len(picked))),
            expected,
            rtol=limit["rtol"],
            atol=limit.get("atol_relative_to_max_of_row", 0) * np.abs(expected).max(),
            err_msg=name,
        )


def check_tokenizer(case: Case, tmp_path):
    """Encoder, quantiser, decoder, codebook update and one training step."""
    arrays, inputs = case.arrays, case.spec["inputs"]
    states = official_states(case)
    tokenizer = PoseTokenizer()
    state = convert.convert_tokenizer({"net": states["tokenizer"]})
    missing, unexpected = tokenizer.load_state_dict(state, strict=False)
    assert set(missing) == {"quantizer.code_sum", "quantizer.code_count"}
    assert not unexpected
    tokenizer.eval()
    num = inputs["pose_body"]["shape"][0]
    pose = fill.rotations("pose_body", num * 21, case.salt, 0.5).reshape(num, 21, 3)
    rotmat = axis_angle_to_rotmat(torch.from_numpy(pose.astype(np.float32)))
    check = partial(_check_array, case)
    with torch.no_grad():
        vectors = tokenizer.encode(rotmat)
        decoded, quantized = tokenizer(rotmat)
    check("gt_pose_body", rotmat)
    theirs = vectors.transpose(1, 2)  # (B, 256, 160)
    check("encoder_sub", _reduced(theirs, "_sub"))
    check("encoder_stats", _reduced(theirs, "_stats"))
    is_clear = arrays["code_margin"] >= 1e-3
    assert (quantized.index.numpy() == arrays["code_idx"])[is_clear].all()
    check("commit_loss", quantized.commitment)
    check("perplexity", quantized.perplexity)
    check("pred_pose_body_6d", decoded)
    check("pred_pose_body_rotmat", rows6d_to_rotmat(decoded))
    angles = torch.from_numpy(arrays["pred_pose_body_aa"]).view(num, 21, 3)  # up to 2 pi long
    compare("pred_pose_body_aa", axis_angle_to_rotmat(angles).numpy(),
            rows6d_to_rotmat(decoded).numpy(), case.spec["tolerance"])  # fmt: skip
    with torch.no_grad():
        check("decode_logits_6d", tokenizer.decode_probabilities(_probabilities(case, num)))
        one_hot = torch.nn.functional.one_hot(quantized.index, len(tokenizer.quantizer.codebook))
        check("decode_onehot_6d", tokenizer.decode_probabilities(one_hot.float()))
    _check_tokenizer_training(case, tokenizer, rotmat)
    _check_ema(case, tokenizer.quantizer)


def _check_tokenizer_training(case: Case, tokenizer: PoseTokenizer, rotmat: Tensor) -> None:
    """Losses, metrics and gradients, against the authors' targets: hands in their mean pose.

    Their predictions have flat hands, so the targets are made here with smplx, as theirs were.
    """
    arrays = case.arrays
    model, num = body(case.salt), len(rotmat)
    target, rest = (_with_mean_hands(case, pose) for pose in (rotmat, _identity(1)))
    check = partial(_check_array, case)
    check("gt_body_vertices_every17", target.vertices[:, ::17])
    check("gt_body_joints", target.joints)
    weight = vertex_weights(rest.vertices[0], model.faces)
    check("vertex_weights_every17", weight[::17])
    wide = weight.double()
    stats = [wide.mean(), wide.std(correction=0), wide.abs().max()]
    check("vertex_weights_stats", torch.stack(stats))
    tokenizer.quantizer.code_count.fill_(2.0)  # it has been started
    hands = _identity(num)[:, :2]
    names = {"pose": "pose", "vertices": "mesh", "joints": "jnts", "commitment": "commit"}
    for mode in ("eval", "train"):
        tokenizer.train(mode == "train")
        before = tokenizer.quantizer.codebook.clone()
        rot6d, quantized = tokenizer(rotmat)
        tokenizer.quantizer.codebook.copy_(before)
        pred = torch.cat([rows6d_to_rotmat(rot6d), hands], dim=1)
        mesh = model(_pose_only(pred))
        if mode == "eval":
            check("pred_body_vertices_every17", mesh.vertices[:, ::17])
            np.testing.assert_allclose(  # the 22 joints that both bodies have
                mesh.joints[:, :22].detach().numpy(),
                arrays["pred_body_joints"][:, :22], atol=1e-4,
            )  # fmt: skip
        terms = reconstruction_terms(
            pred, torch.cat([rotmat, hands], dim=1), mesh, target, weight
        ) | {"commitment": quantized.commitment}
        expected = dict(zip(arrays[f"{mode}_loss_names"], arrays[f"{mode}_loss"], strict=True))
        for ours, theirs in names.items():
            np.testing.assert_allclose(
                terms[ours].item(), expected[theirs], rtol=1e-4, atol=1e-4, err_msg=ours
            )
    weights = TokenizerLoss().weights
    total = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
    np.testing.assert_allclose(total.item(), expected["total"], rtol=1e-4)
    np.testing.assert_allclose(quantized.perplexity.item(), expected["perplexity"], rtol=1e-4)
    total.backward()
    check_gradients(case, dict(tokenizer.named_parameters()), convert.TOKENIZER_KEYS)
    tokenizer.eval()


def _identity(num: int) -> Tensor:
    return torch.eye(3).expand(num, 21, 3, 3)


def _with_mean_hands(case: Case, pose: Tensor) -> Mesh:
    """The nonsense SMPL+H of the case with its fingers in their mean pose; 73 joints."""
    s, salt = fill.smpl(case.salt), case.salt
    order = [*range(22), *[22] * 15, *[23] * 15]
    weights = np.zeros((fill.N_VERTS, 52), np.float32)
    weights[:, :22] = s["weights"][:, :22]
    weights[:, 22], weights[:, 37] = s["weights"][:, 22], s["weights"][:, 23]
    posedirs = np.zeros((fill.N_VERTS, 3, 459), np.float32)
    posedirs[..., :189] = s["posedirs"][..., :189]
    parents = fill.SMPL_PARENTS[:22]
    for wrist, first in ((20, 22), (21, 37)):
        for joint in range(first, first + 15):
            parents = [*parents, wrist if (joint - first) % 3 == 0 else joint - 1]
    content = {
        **s,
        "J_regressor": s["J_regressor"][order],
        "weights": weights,
        "posedirs": posedirs,
        "kintree_table": np.stack([np.array(parents), np.arange(52)]),
        "hands_componentsl": np.eye(45, dtype=np.float32),
        "hands_componentsr": np.eye(45, dtype=np.float32),
        "hands_meanl": np.float32(0.2) * fill.unit("smplh.hands_meanl", (45,), salt),
        "hands_meanr": np.float32(0.2) * fill.unit("smplh.hands_meanr", (45,), salt),
    }
    layer = smplx.SMPLHLayer("", data_struct=Struct(**content), ext="npz", dtype=torch.float32)
    hands = [
        axis_angle_to_rotmat(torch.from_numpy(content[f"hands_mean{side}"]).view(15, 3))
        for side in "lr"
    ]
    left, right = (hand.expand(len(pose), 15, 3, 3) for hand in hands)
    out = layer(body_pose=pose, left_hand_pose=left, right_hand_pose=right)
    return Mesh(out.vertices, out.joints)


def _check_array(case: Case, name: str, actual) -> None:
    actual = actual.detach().numpy() if isinstance(actual, Tensor) else actual
    compare(name, actual, case.arrays[name], case.spec["tolerance"])


def _probabilities(case: Case, num: int) -> Tensor:
    logits = 2 * fill.unit("logits", (num, 160, 2048), case.salt)
    sample, token = np.mgrid[:num, :160]
    logits[sample, token, (37 * token + 101 * sample) % 2048] += 12
    return torch.from_numpy(logits).softmax(dim=-1)


def _check_ema(case: Case, quantizer) -> None:
    """One update of the codebook from given averages."""
    codebook = quantizer.codebook.numpy().copy()
    x = fill.unit("ema.x", (2560, 256), case.salt)
    rows = np.arange(1500)
    x[rows] = codebook[rows % 300] + np.float32(0.1) * x[rows]
    count = 1.2 * np.abs(fill.unit("ema.count", (2048,), case.salt)) + np.float32(0.2)
    quantizer.code_count.copy_(torch.from_numpy(count.astype(np.float32)))
    quantizer.code_sum.copy_(torch.from_numpy(codebook * count[:, None]))
    flat = torch.from_numpy(x)
    index = quantizer.nearest(flat)
    assert (index.numpy() == case.arrays["ema_idx"]).mean() > 0.999
    quantizer.update(flat, index)
    _check_array(case, "ema_code_count_after", quantizer.code_count)
    after = quantizer.codebook.flatten()
    step = -(-len(after) // len(case.arrays["ema_codebook_after_sub"]))
    _check_array(case, "ema_codebook_after_sub", after[::step])
    is_reset = (quantizer.code_count < 1).numpy()
    assert (is_reset == (case.arrays["ema_reset"] > 0)).all()


def _our_name(name: str, keys: dict) -> str:
    if name.startswith("discriminator."):
        return f"discriminator.{_discriminator_key(name)}"
    (ours,) = rename_keys({name: 0}, keys)
    return ours


def _check_step(case: Case, named: dict, keys: dict) -> None:
    """What one AdamW step changes, where the gradient is not rounding noise."""
    config = case.spec["config"]
    before = {name: parameter.detach().clone() for name, parameter in named.items()}
    decay = config["TRAIN.WEIGHT_DECAY"]
    torch.optim.AdamW(named.values(), lr=config["TRAIN.LR"], weight_decay=decay).step()
    for row, name in enumerate(case.arrays["grad_names"].tolist()):
        ours = _our_name(name, keys)
        if named[ours].grad is None:
            continue
        delta = (named[ours].detach() - before[ours]).flatten()
        picked = delta[:: -(-len(delta) // 8)].numpy()
        expected = case.arrays["param_delta_sub"][row][: len(picked)]
        is_clear = np.abs(case.arrays["grad_sub"][row][: len(picked)]) >= 1e-6
        np.testing.assert_allclose(
            picked[is_clear], expected[is_clear],
            atol=case.spec["tolerance"]["param_delta_sub"]["atol"], rtol=0, err_msg=name,
        )  # fmt: skip
