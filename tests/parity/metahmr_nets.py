"""Meta-HMR's and CLIFF's networks, meta-training steps and test-time optimisation.

Everything starts from a file as the authors write it, loaded as users load it.
"""

import re

import fill
import numpy as np
import parity_case
import torch
from hydra.utils import instantiate
from parity_case import Case
from torch import Tensor, nn

from hmrkit import metrics
from hmrkit.body import joints
from hmrkit.body.smpl import SMPL
from hmrkit.checkpoints import load_official
from hmrkit.data.crops import px_to_units
from hmrkit.geometry import boxes, cameras, rotations
from hmrkit.keys import rename_keys
from hmrkit.models.hmr.cliff import box_information, full_image_box
from hmrkit.models.metahmr import convert
from hmrkit.models.metahmr.module import MetaHMRModule
from hmrkit.types import Body, Mesh, Prediction

INPUT_SIZES = {"rect": (256, 192), "square": (224, 224)}
NETWORKS = {"model": "main", "model_aux": "auxiliary"}
SPIN49 = joints.index(joints.names("spin49"), "all")
SPIN24 = joints.index(joints.names("spin24"), "all")
LSP = joints.names("h36m14")


# -------------------------------------------------------------------------------------- the inputs


def image(case: Case) -> Tensor:
    """The crops, each brighter than the one before."""
    shape = case.spec["inputs"]["img"]["shape"]
    brightness = 0.6 + 0.5 * np.arange(shape[0], dtype=np.float64)
    made = fill.image("img", shape, case.salt) * brightness[:, None, None, None]
    return torch.from_numpy(made.astype(np.float32))


def official_file(case: Case, tmp_path) -> str:
    """The filled networks in a file of the authors' form, after a look at the filling."""
    states = case.states()
    for name in case.named("check."):
        entry, _, key = name.partition(".")
        value = image(case).numpy() if name == "img" else states[entry][key]
        np.testing.assert_allclose(
            value.reshape(-1)[:8], case.arrays[f"check.{name}"], atol=1e-6, err_msg=name
        )
    weights = {
        entry: {key: torch.from_numpy(np.array(value)) for key, value in state.items()}
        for entry, state in states.items()
    }
    training_state = {
        "optimizer": {"state": {}, "param_groups": []},
        "epoch": 3,
        "batch_idx": 0,
        "batch_size": 30,
        "dataset_perm": None,
        "total_step_count": 7,
    }
    torch.save({**weights, **training_state}, tmp_path / "official.pt")
    return tmp_path / "official.pt"


def crops(case: Case) -> dict:
    """What a network sees: crops that lie in images whose focal length may be known."""
    input_hw = INPUT_SIZES[case.config["bbox_type"]]
    given = {name: case.arrays[f"in.{name}"] for name in case.named("in.")}
    size = np.stack([given["img_h"], given["img_w"]], axis=1)
    focal = given["focal_length"]
    to_crop = np.stack(
        [
            boxes.crop_affine(center, 200 * scale, input_hw)
            for center, scale in zip(given["center"], given["scale"], strict=True)
        ]
    )
    np.testing.assert_allclose(to_crop, given["crop_trans"], atol=1e-3, rtol=1e-6)
    to_units = np.stack([px_to_units(matrix, input_hw) for matrix in to_crop])
    intrinsics = np.tile(np.eye(3), (len(focal), 1, 1))
    intrinsics[:, [0, 1], [0, 1]] = focal[:, None]
    intrinsics[:, :2, 2] = size[:, ::-1] / 2
    is_diagonal = np.isclose(focal, np.linalg.norm(size, axis=1), rtol=1e-9, atol=0)
    intrinsics[is_diagonal] = np.nan  # as where no focal length is known
    number = torch.arange(len(focal))
    return {
        "image": image(case),
        "crop_to_img": torch.from_numpy(boxes.invert_affine(to_units).astype(np.float32)),
        "full_size": torch.from_numpy(size.astype(np.int64)),
        "intrinsics_of_view": torch.from_numpy(intrinsics.astype(np.float32)),
        "image_of_view": number,
        "person_of_view": number,
    }


def labelled_crops(case: Case) -> dict:
    """The same with labels. Upstream counts a sample by its flag for 3D joints, we by its hips."""
    batch = crops(case)
    num, width_height = len(batch["image"]), torch.tensor(batch["image"].shape[:1:-1])
    size = len(joints.names("all"))
    keypoints_crop, keypoints_world = torch.zeros(num, size, 3), torch.zeros(num, size, 4)
    keypoints = case.tensor("in.keypoints")
    keypoints_crop[:, SPIN49] = torch.cat(
        [2 * keypoints[..., :2] / width_height - 1, keypoints[..., 2:]], dim=-1
    )
    world = case.tensor("in.pose_3d").clone()
    has_3d = case.tensor("in.has_pose_3d") > 0
    hips = joints.index(["spin_right_hip", "spin_left_hip"], "spin24")
    least = world[:, hips, 3].clamp(min=1e-12)  # next to nothing keeps the numbers
    world[:, hips, 3] = torch.where(has_3d[:, None], least, 0.0)
    keypoints_world[:, SPIN24] = world
    has_smpl = case.tensor("in.has_smpl") > 0
    return {
        **batch,
        "keypoints_crop": keypoints_crop,
        "keypoints_world": keypoints_world,
        "body": body_of(case, "in.pose", "in.betas"),
        "has_pose": has_smpl,
        "has_betas": has_smpl,
    }


def body_of(case: Case, pose: str, betas: str) -> Body:
    rotmat = rotations.axis_angle_to_rotmat(case.tensor(pose).unflatten(1, (24, 3)))
    shape = case.tensor(betas)
    return Body(rotmat[:, 0], rotmat[:, 1:], shape, torch.zeros(len(shape), 3))


def rotmats(prediction: Prediction) -> Tensor:
    body = prediction.body
    return torch.cat([body.global_orient[:, None], body.body_pose], dim=1)


# --------------------------------------------------------------------------------- forward of CLIFF


def check_forward(case: Case, tmp_path):
    """Both networks of the file as plain ones, down to pixels of crop and image."""
    path, batch = official_file(case, tmp_path), crops(case)
    np.testing.assert_allclose(
        box_information(full_image_box(batch)), case.arrays["in.bbox_info"], atol=1e-5
    )
    for short, network in (("main", "main"), ("aux", "auxiliary")):
        module = load_official(
            "hmr",
            path,
            body=parity_case.body(case.salt),
            overrides=["model=cliff"],
            network=network,
            input_size=INPUT_SIZES[case.config["bbox_type"]],
            num_iterations=case.config[f"{short}_n_iter"],
        )
        prediction = module.predict(batch)
        joints49 = module.body.joints_from_mesh(prediction.mesh, "spin49")
        points = joints49 + prediction.transl_cam[:, None]
        intrinsics = prediction.intrinsics_crop
        to_image = cameras.crop_to_full_intrinsics(intrinsics, batch["crop_to_img"])
        size = torch.tensor(batch["image"].shape[:1:-1])
        outputs = {
            **prediction.extra,
            "rotmat": rotmats(prediction),
            "betas": prediction.body.betas,
            "vertices": prediction.mesh.vertices,
            "joints49": joints49,
            "cam_t_full": prediction.transl_cam,
            "joints2d_full": cameras.project(points, to_image),
            "joints2d_crop": (cameras.project(points, intrinsics) + 1) / 2 * size,
        }
        for name in case.named(f"{short}."):
            case.check(f"{short}.{name}", outputs[name.partition("@")[0]])


# --------------------------------------------------------------------------------- the outer module


def meta_module(case: Case, tmp_path, overrides: list[str]) -> MetaHMRModule:
    """The authors' file as the module that trains and adapts it; without dropout."""
    official = load_official(
        "metahmr",
        official_file(case, tmp_path),
        body=parity_case.body(case.salt),
        overrides=overrides,
        input_size=INPUT_SIZES[case.config["bbox_type"]],
    )
    parts = {name: getattr(official, name) for name in ("net", "loss", "body", "optimizer")}
    make = instantiate(official.config["model"]["module"], _partial_=True, _convert_="all")
    module = make(**parts, scheduler=None, config=official.config)
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    return module.eval()


def weight_overrides(case: Case, node: str) -> list[str]:
    """The recorded weights of the loss terms for a node of the config."""
    names = {
        "vertices": "shape",
        "keypoints2d": "keypoint",
        "keypoints3d": "keypoint",
        "pose": "pose",
        "betas": "beta",
    }
    return [f"{node}.{our}={case.config[f'{their}_loss_weight']}" for our, their in names.items()]


def our_name(name: str) -> str | None:
    """Our name of a weight of one network; None if we have no such one."""
    return next(iter(rename_keys({name: 0}, convert.KEYS)), None)


def check_terms(case: Case, prefix: str, terms: dict[str, Tensor], weights: dict[str, float]):
    """Unweighted terms, and their weighted sum."""
    for name in case.named(prefix):
        if name == "total":
            value = torch.stack(list(terms.values())).sum()
        else:
            value = terms[name] / weights[name]
        case.check(f"{prefix}{name}", value)


# ----------------------------------------------------------------------------------- training steps


def check_train(case: Case, tmp_path):
    """One step: inner terms and weights, outer terms, gradients, the optimiser's step, statistics."""
    config = case.config
    points = {
        f"{node}.{our}={config[f'{their}_train_weight']}"
        for node in ("model.loss", "model.module.inner_loss.evidence")
        for our, their in (("openpose_weight", "openpose"), ("gt_weight", "gt"))
    }
    # a weight that is not learnt still has a gradient, upstream
    aux_lr = 0.0 if config["no_learn_loss"] else config["aux_lr"]
    module = meta_module(
        case,
        tmp_path,
        [
            *sorted(points),
            *weight_overrides(case, "model.loss"),
            *weight_overrides(case, "model.module.inner_loss"),
            f"model.module.num_inner_steps={config['inner_step']}",
            f"model.module.inner_lr={config['inner_lr']}",
            f"model.module.first_order={config['first_order']}",
            f"model.module.auxiliary_optimizer.lr={aux_lr}",
            f"model.optimizer.lr={config['outer_lr']}",
            f"+model.optimizer.betas=[{config['beta1']},{config['beta2']}]",
            f"+model.optimizer.eps={config['eps_adam']}",
        ],
    ).train()
    batch, before = labelled_crops(case), _adapted(module)
    steps, feature = module.inner_loop(batch)
    for number, step in enumerate(steps):
        check_terms(case, f"loss.inner{number}.", step.terms, module.inner_loss.weights)
        _check_adapted(case, f"adapted{number}.", step.parameters, before)
        before = step.parameters
    prediction = module.outer(batch, steps[-1].parameters if steps else {}, feature)
    terms = module.loss(prediction, batch, module.body)
    check_terms(case, "loss.outer.", terms, module.loss.weights)
    total = torch.stack(list(terms.values())).sum()
    case.check("loss.total_times_60", total)
    cam, box = prediction.extra["cam"], full_image_box(batch)
    outputs = {
        "cam": cam,
        "cam_t_full": prediction.transl_cam,
        "vertices": module.body(prediction.body).vertices,
    }
    if config["model"] == "hmr":  # whose record holds the same function of its camera as CLIFF's
        outputs["cam_t_full"] = cameras.cliff_transl(
            cam, box.center_img, box.side_px, box.focal_px, box.full_size
        )
    for name in case.named("outer."):
        case.check(f"outer.{name}", outputs[name.partition("@")[0]])
    total.backward()
    _check_gradients(case, module)
    module.configure_optimizers().step()
    for entry, network in NETWORKS.items():
        state = getattr(module.net, network).state_dict()
        for prefix in (f"after_adam.{entry}.", f"bn_after.{entry}."):
            for name in case.named(prefix):
                case.check(f"{prefix}{name}", state[our_name(name)].flatten()[:8])


def _adapted(module: MetaHMRModule) -> dict[str, Tensor]:
    return {name: module.net.main.get_parameter(name) for name in module.inner_names}


def _check_adapted(case: Case, prefix: str, after: dict[str, Tensor], before: dict[str, Tensor]):
    """The stepped weights: first values, and length and first values of the step."""
    seen = set()
    for name in case.named(prefix):
        key, _, what = name.rpartition(".")
        ours = our_name(key)
        seen.add(ours)
        delta = after[ours] - before[ours]
        value = {
            "head": after[ours].flatten()[:8],
            "delta_norm": delta.double().norm(),
            "delta_head": delta.flatten()[:8],
        }[what]
        case.check(f"{prefix}{name}", value)
    assert seen == after.keys()


def _check_gradients(case: Case, module: MetaHMRModule):
    for entry, network in NETWORKS.items():
        named = dict(getattr(module.net, network).named_parameters())
        without = case.spec["parameter_names"].get(f"{entry}_grad_is_none", "all")
        names = case.spec["parameter_names"].get(entry, [])
        if without == "all":
            assert all(parameter.grad is None for parameter in named.values()), entry
            continue
        ours = [our_name(name) for name in names]
        assert {name for name in ours if name} == named.keys()
        grads = [None if our is None else named[our].grad for our in ours]
        assert [name for name, grad in zip(names, grads, strict=True) if grad is None] == without
        norms = np.array([0.0 if grad is None else grad.double().norm() for grad in grads])
        expected = case.arrays[f"gradnorm.{entry}"]
        is_clear = expected >= 1e-5 * expected.max()
        limits = case.spec["gradnorm_tolerance"][entry]
        is_head = np.array([our is not None and our.startswith("head.") for our in ours])
        rtol = np.where(is_head, limits["rtol_head"], limits["rtol_backbone"])
        error = np.abs(norms - expected) / expected.clip(min=1e-30)
        worst = int(np.argmax(np.where(is_clear, error / rtol, 0)))
        assert (error <= rtol)[is_clear].all(), f"{names[worst]} is off by {error[worst]:.2g}"
        for name in case.named(f"grad.{entry}."):
            case.check(f"grad.{entry}.{name}", named[our_name(name)].grad.flatten()[:8])


# ---------------------------------------------------------------------------- test-time optimisation


def check_tto(case: Case, tmp_path):
    """Each step's loss and prediction, the adapted weights, the final prediction, its errors."""
    config, node = case.config, "model.module.adapt"
    weights = (1.0, 0.0) if config["use_openpose2d"] else (0.0, 1.0)
    stops = config["adapt_val_step"] and not config["no_use_adam"]
    module = meta_module(
        case,
        tmp_path,
        [
            "adapt@model.module.adapt=per_batch",
            *weight_overrides(case, f"{node}.loss"),
            f"{node}.loss.evidence.openpose_weight={weights[0]}",
            f"{node}.loss.evidence.gt_weight={weights[1]}",
            f"{node}.num_steps={config['test_val_step'] + 1}",
            f"{node}.with_inner_step={not config['no_inner_step']}",
            f"{node}.inner_lr={config['inner_lr']}",
            f"{node}.with_adam={not config['no_use_adam']}",
            f"{node}.lr={config['after_innerlr']}",
            f"{node}.tolerance={2e-5 if stops else 'null'}",
        ],
    )
    adapt, net, batch = module.adapt, module.net, labelled_crops(case)
    copies = adapt.copies(net.main, batch, module.body, net.auxiliary)
    curve, plain = [], []
    for number, step in enumerate(adapt.steps(copies, net.auxiliary)):
        curve.append(step.keypoints2d.mean().item())
        if number == 0:  # upstream looks at these terms even where it does not step by them
            with torch.no_grad():
                pseudo = net.auxiliary(batch, module.body)
                terms = adapt.loss(step.prediction, pseudo, batch, module.body)
            check_terms(case, "step0.", terms, adapt.loss.weights)
        if step.terms or not adapt.with_adam:
            plain.append(step.loss.item())
        _check_outputs(case, f"before_step{number}.", step.prediction, module.body)
    assert len(curve) == case.spec["info"]["steps_run"]
    case.check("keypoints2d_loss_before_each_step", torch.tensor(curve, dtype=torch.float64))
    case.check("sgd_losses", torch.tensor(plain, dtype=torch.float64))
    with torch.no_grad():
        final = copies.predict()
    _check_outputs(case, "final.", final, module.body)
    _check_metrics(case, final, module.body)
    _check_deltas(case, net.main, copies.leaves)
    whole = module.predict(batch)
    assert torch.equal(whole.body.body_pose, final.body.body_pose)


def _check_outputs(case: Case, prefix: str, prediction: Prediction, body_model: SMPL):
    with torch.no_grad():
        mesh = body_model(prediction.body)
    outputs = {
        **prediction.extra,
        "rotmat": rotmats(prediction),
        "betas": prediction.body.betas,
        "vertices": mesh.vertices,
        "joints49": body_model.joints_from_mesh(mesh, "spin49"),
    }
    for name in case.named(prefix):
        case.check(f"{prefix}{name}", outputs[name.partition("@")[0]])


def _check_deltas(case: Case, net: nn.Module, after: dict[str, Tensor]):
    """How far the weights moved; single values follow the sign of rounding noise in Adam."""

    def delta(name: str) -> Tensor:
        ours = our_name(name)
        if ours is None or ours not in after:
            return torch.zeros(1)
        return after[ours].detach() - net.get_parameter(ours).detach()

    for name in case.named("delta."):
        key, _, what = name.rpartition(".")
        moved = delta(key)
        value = moved.double().norm() if what == "norm" else moved.flatten()[:8]
        if what == "head" and not moved.any():
            value = torch.zeros(len(case.arrays[f"delta.{name}"]))
        case.check(f"delta.{name}", value)
    norms = [delta(name).double().norm() for name in case.spec["info"]["delta_norm_all_names"]]
    case.check("delta_norm_all", torch.stack(norms))


def _check_metrics(case: Case, prediction: Prediction, neutral: SMPL):
    """Against the labelled body of its gender; upstream takes the male one for unknown."""
    with torch.no_grad():
        mesh = neutral(prediction.body)
    values = errors(case, mesh, neutral)
    for name in case.named("metric."):
        case.check(f"metric.{name}", values[name])


def errors(case: Case, mesh: Mesh, neutral: SMPL) -> dict[str, Tensor]:
    """Errors of predicted meshes as upstream evaluates 3DPW and Human3.6M, (P,) mm each."""
    label = body_of(case, "in.pose", "in.betas")
    male, female = (parity_case.body(case.salt, gender)(label) for gender in ("male", "female"))
    is_female = (case.tensor("in.gender") == 1)[:, None, None]
    vertices = torch.where(is_female, female.vertices, male.vertices)
    predicted = root_relative(neutral.joints_from_mesh(mesh, "h36m17"), LSP)
    target = with_confidence(root_relative(h36m17(neutral, vertices), LSP))
    return {
        "mpjpe_mm": metrics.mpjpe_mm(predicted, target, root=None),
        "pa_mpjpe_mm": metrics.pa_mpjpe_mm(predicted, target),
        "pve_mm": metrics.pve_mm(mesh.vertices, vertices),
    }


def h36m17(body_model: SMPL, vertices: Tensor) -> Tensor:
    mesh = Mesh(vertices, vertices.new_zeros(len(vertices), 24, 3))
    return body_model.joints_from_mesh(mesh, "h36m17")


def root_relative(points: Tensor, names: tuple[str, ...]) -> Tensor:
    root = points[:, joints.index(["h36m_pelvis"], "h36m17")]
    return points[:, joints.index(names, "h36m17")] - root


def with_confidence(points: Tensor) -> Tensor:
    return torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)
