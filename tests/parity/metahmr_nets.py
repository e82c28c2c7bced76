"""Meta-HMR's and CLIFF's networks, meta-training steps and test-time optimisation.

Everything starts from a file as the authors write it, loaded as users load it.
"""

import re
from collections.abc import Callable

import fill
import numpy as np
import parity_case
import torch
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
    module = load_official(
        "metahmr",
        official_file(case, tmp_path),
        body=parity_case.body(case.salt),
        overrides=overrides,
        input_size=INPUT_SIZES[case.config["bbox_type"]],
    )
    assert type(module) is MetaHMRModule
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


def unweighted(terms: dict[str, Tensor], weights: dict[str, float]) -> dict[str, Tensor]:
    """Terms as recorded, and their weighted sum."""
    total = torch.stack(list(terms.values())).sum()
    return {name: value / weights[name] for name, value in terms.items()} | {"total": total}


# ---------------------------------------------------------------------------------- training steps


def check_train(case: Case, tmp_path):
    """One step: inner terms and weights, outer terms, gradients, optimiser step, statistics.

    Max-pool and ReLU switch on rounding, so that a gradient of the backbone in float32 depends on
    the processor. What is off there alone is computed again in float64, to the same tolerance.
    """
    wrong = _wrong(case, train_outputs(case, tmp_path))
    if wrong and all(map(_is_of_backbone, wrong)):
        again = _wrong(case, train_outputs(case, tmp_path, is_double=True))
        wrong = {name: message for name, message in again.items() if name in wrong}
    assert not wrong, "; ".join(wrong.values())


def train_outputs(case: Case, tmp_path, is_double: bool = False) -> dict[str, Tensor]:
    """Everything that is recorded, by its name."""
    module, batch = train_module(case, tmp_path).train(), labelled_crops(case)
    if is_double:
        module, batch = module.double(), doubled(batch)
    outputs, before = {}, _adapted(module)
    steps, feature = module.inner_loop(batch)
    for number, step in enumerate(steps):
        terms = unweighted(step.terms, module.inner_loss.weights)
        outputs |= {f"loss.inner{number}.{name}": value for name, value in terms.items()}
        outputs |= _adaptation(f"adapted{number}.", step.parameters, before)
        before = step.parameters
    prediction = module.outer(batch, steps[-1].parameters if steps else {}, feature)
    terms = module.loss(prediction, batch, module.body)
    total = torch.stack(list(terms.values())).sum()
    outputs |= {
        f"loss.outer.{name}": value
        for name, value in unweighted(terms, module.loss.weights).items()
    }
    cam, box = prediction.extra["cam"], full_image_box(batch)
    # of HMR, too, the record holds what CLIFF makes of the camera
    transl = cameras.cliff_transl(cam, box.center_img, box.side_px, box.focal_px, box.full_size)
    assert case.config["model"] == "hmr" or torch.equal(transl, prediction.transl_cam)
    outputs |= {
        "loss.total_times_60": total,
        "outer.cam": cam,
        "outer.cam_t_full": transl,
        "outer.vertices": module.body(prediction.body).vertices,
    }
    total.backward()
    for entry, network in NETWORKS.items():
        outputs |= _gradients(case, entry, dict(getattr(module.net, network).named_parameters()))
    module.configure_optimizers().step()
    for entry, network in NETWORKS.items():
        state = getattr(module.net, network).state_dict()
        for what in ("after_adam", "bn_after"):
            for name in case.named(f"{what}.{entry}."):
                outputs[f"{what}.{entry}.{name}"] = state[our_name(name)].flatten()[:8]
    return outputs


def train_module(case: Case, tmp_path) -> MetaHMRModule:
    """The module that the case's options describe."""
    config = case.config
    points = {
        f"{node}.{our}={config[f'{their}_train_weight']}"
        for node in ("model.loss", "model.module.inner_loss.evidence")
        for our, their in (("openpose_weight", "openpose"), ("gt_weight", "gt"))
    }
    # a network that is not learnt still has a gradient, upstream
    aux_lr = 0.0 if config["no_learn_loss"] else config["aux_lr"]
    return meta_module(
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
    )


def doubled(batch: dict) -> dict:
    """The same in float64."""

    def double(value):
        return value.double() if torch.is_tensor(value) and value.is_floating_point() else value

    label = Body(*(double(value) for value in vars(batch["body"]).values()))
    return {name: double(value) for name, value in batch.items()} | {"body": label}


def _adapted(module: MetaHMRModule) -> dict[str, Tensor]:
    return {name: module.net.main.get_parameter(name) for name in module.inner_names}


def _adaptation(
    prefix: str, after: dict[str, Tensor], before: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The stepped weights: first values, and length and first values of the step."""
    outputs = {}
    for name, value in after.items():
        delta, theirs = value - before[name], prefix + name.removeprefix("head.")
        outputs[f"{theirs}.head"] = value.flatten()[:8]
        outputs[f"{theirs}.delta_norm"] = delta.double().norm()
        outputs[f"{theirs}.delta_head"] = delta.flatten()[:8]
    return outputs


def _gradients(case: Case, entry: str, named: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """Lengths of all gradients of a network and the first values of each."""
    without = case.spec["parameter_names"].get(f"{entry}_grad_is_none", "all")
    if without == "all":
        assert all(parameter.grad is None for parameter in named.values()), entry
        return {}
    names = case.spec["parameter_names"][entry]
    ours = {name: our_name(name) for name in names}
    assert set(ours.values()) - {None} == named.keys()
    grads = {name: named[our].grad if our else None for name, our in ours.items()}
    assert [name for name, grad in grads.items() if grad is None] == without
    norms = [0.0 if grad is None else grad.double().norm().item() for grad in grads.values()]
    known = {name: grad for name, grad in grads.items() if grad is not None}
    return {f"grad.{entry}.{name}": grad.flatten()[:8] for name, grad in known.items()} | {
        f"gradnorm.{entry}": torch.tensor(norms, dtype=torch.float64)
    }


def _wrong(case: Case, outputs: dict[str, Tensor]) -> dict[str, str]:
    """What is off, by name; gradient norms parameter by parameter."""
    wrong = {}
    for name in case.arrays:
        if name.startswith(("in.", "check.")):
            continue
        if name.startswith("gradnorm."):
            wrong |= _wrong_norms(case, name, outputs[name].numpy())
            continue
        try:
            case.check(name, outputs[name.partition("@")[0]])
        except AssertionError as error:
            wrong[name] = str(error)
    return wrong


def _wrong_norms(case: Case, name: str, norms: np.ndarray) -> dict[str, str]:
    """By the relative limits of backbone and head; the least are rounding alone."""
    entry, expected = name.removeprefix("gradnorm."), case.arrays[name]
    limits = case.spec["gradnorm_tolerance"][entry]
    wrong = {}
    for key, norm, wanted in zip(case.spec["parameter_names"][entry], norms, expected, strict=True):
        is_head = (our_name(key) or "").startswith("head.")
        error = abs(norm - wanted) / max(wanted, 1e-30)
        limit = limits["rtol_head" if is_head else "rtol_backbone"]
        if wanted >= 1e-5 * expected.max() and error > limit:
            wrong[f"{name}.{key}"] = f"{name} of {key} is off by {error:.2g} of it, allowed {limit}"
    return wrong


def _is_of_backbone(name: str) -> bool:
    """Is it a gradient of the backbone, or what follows from one?"""
    kind, _, rest = name.partition(".")
    key = rest.partition(".")[2]
    return kind in ("grad", "gradnorm", "after_adam") and not our_name(key).startswith("head.")


# --------------------------------------------------------------------------- test-time optimisation


def check_tto(case: Case, tmp_path):
    """Each step's loss and prediction, the adapted weights, the final prediction, its errors.

    Adam's first steps move a weight by the whole learning rate in the direction of its gradient's
    sign, and the sign of a gradient next to zero is rounding: it depends on processor and threads.
    What is off after such a step is computed again in float64, to the same tolerance.
    """
    wrong = tto_wrong(case, tmp_path)
    if wrong and all(_follows_adam(case, name) for name in wrong):
        again = tto_wrong(case, tmp_path, is_double=True)
        wrong = {name: message for name, message in again.items() if name in wrong}
    assert not wrong, "; ".join(wrong.values())


def _follows_adam(case: Case, name: str) -> bool:
    """Is it computed with weights that Adam has moved?"""
    if case.config["no_use_adam"]:
        return False
    first = 0 if case.config["no_inner_step"] else 1  # Adam's first step
    number = re.match(r"before_step(\d+)\.", name)
    late = ("final.", "metric.", "delta", "keypoints2d_loss_before_each_step")
    return int(number[1]) > first if number else name.startswith(late)


def tto_wrong(case: Case, tmp_path, is_double: bool = False) -> dict[str, str]:
    """What is off, by name."""
    wrong: dict[str, str] = {}

    def check(name: str, actual: Tensor) -> None:
        try:
            case.check(name, actual)
        except AssertionError as error:
            wrong[name] = str(error)

    _run_tto(case, tmp_path, is_double, check)
    return wrong


def _run_tto(case: Case, tmp_path, is_double: bool, check: Callable[[str, Tensor], None]) -> None:
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
    batch = labelled_crops(case)
    if is_double:
        module, batch = module.double(), doubled(batch)
    adapt, net = module.adapt, module.net
    copies = adapt.copies(net.main, batch, module.body, net.auxiliary)
    curve, plain = [], []
    for number, step in enumerate(adapt.steps(copies, net.auxiliary)):
        curve.append(step.keypoints2d.mean().item())
        if number == 0:  # upstream looks at these terms even where it does not step by them
            with torch.no_grad():
                pseudo = net.auxiliary(batch, module.body)
                terms = adapt.loss(step.prediction, pseudo, batch, module.body)
            for name, value in unweighted(terms, adapt.loss.weights).items():
                if f"step0.{name}" in case.arrays:
                    check(f"step0.{name}", value)
        if step.terms or not adapt.with_adam:
            plain.append(step.loss.item())
        _check_outputs(case, f"before_step{number}.", step.prediction, module.body, check)
    assert len(curve) == case.spec["info"]["steps_run"]
    check("keypoints2d_loss_before_each_step", torch.tensor(curve, dtype=torch.float64))
    assert len(plain) == len(case.arrays["sgd_losses"])
    if plain:
        check("sgd_losses", torch.tensor(plain, dtype=torch.float64))
    with torch.no_grad():
        final = copies.predict()
    _check_outputs(case, "final.", final, module.body, check)
    _check_metrics(case, final, module.body, check)
    _check_deltas(case, net.main, copies.leaves, adapt.with_adam, check)


def _check_outputs(
    case: Case,
    prefix: str,
    prediction: Prediction,
    body_model: SMPL,
    check: Callable[[str, Tensor], None],
) -> None:
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
        check(f"{prefix}{name}", outputs[name.partition("@")[0]])


def _check_deltas(
    case: Case,
    net: nn.Module,
    after: dict[str, Tensor],
    with_adam: bool,
    check: Callable[[str, Tensor], None],
) -> None:
    """How far the weights moved. A single value follows the sign of rounding in Adam's steps."""

    def delta(name: str) -> Tensor:
        ours = our_name(name)
        if ours is None or ours not in after:  # nothing reads it, or nothing steps it
            return torch.zeros(8, dtype=torch.float64)
        return (after[ours].detach() - net.get_parameter(ours).detach()).double()

    for name in case.named("delta."):
        key, _, what = name.rpartition(".")
        expected = case.arrays[f"delta.{name}"]
        if what == "norm":
            check(f"delta.{name}", delta(key).norm())
        else:
            error = np.abs(delta(key).flatten()[: len(expected)].numpy() - expected)
            num_off = int((error > case.spec["arrays"][f"delta.{name}"]["atol"]).sum())
            assert num_off <= with_adam, f"{num_off} values of delta.{name} are off"
    norms = [delta(name).norm() for name in case.spec["info"]["delta_norm_all_names"]]
    check("delta_norm_all", torch.stack(norms))


def _check_metrics(
    case: Case, prediction: Prediction, neutral: SMPL, check: Callable[[str, Tensor], None]
) -> None:
    """Against the labelled body of its gender; upstream takes the male one for unknown."""
    with torch.no_grad():
        mesh = neutral(prediction.body)
    values = errors(case, Mesh(mesh.vertices.float(), mesh.joints.float()), neutral.float())
    for name in case.named("metric."):
        check(f"metric.{name}", values[name])


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
