"""HMR, CLIFF and Meta-HMR against the authors' code: every case of a folder, by its kind."""

import metahmr_data
import metahmr_nets
import numpy as np
import parity_case
import pytest
import torch
from parity_case import Case

from hmrkit import losses, metrics
from hmrkit.body import joints
from hmrkit.body.smpl import SMPL
from hmrkit.checkpoints import load_official
from hmrkit.geometry import alignment, boxes, cameras, rotations
from hmrkit.types import Mesh

# The evaluated joints of H36M's regressor and of SPIN's 24, in upstream's order.
H36M17 = (*metahmr_nets.LSP, "h36m_pelvis", "h36m_spine", "h36m_jaw")
SPIN17 = (*joints.names("lsp14")[:13], "spin_head", "spin_pelvis", "spin_spine", "spin_jaw")


def test_case(case: Case, tmp_path):
    kinds = [kind for kind in KINDS if case.name.startswith(kind)]
    if not kinds:
        pytest.fail(f"unknown kind of case: {case.name} (known: {', '.join(KINDS)})")
    KINDS[kinds[0]](case, tmp_path)


# ---------------------------------------------------------------------------------------- forward


def check_forward(case: Case, tmp_path):
    path = metahmr_nets.official_file(case, tmp_path)
    for short, network in (("main", "main"), ("aux", "auxiliary")):
        module = load_official(
            "hmr",
            path,
            body=parity_case.body(case.salt),
            network=network,
            input_size=metahmr_nets.INPUT_SIZES[case.config["bbox_type"]],
            num_iterations=case.config[f"{short}_n_iter"],
        )
        outputs = _forward(module, metahmr_nets.image(case))
        for name in case.named(f"{short}."):
            case.check(f"{short}.{name}", outputs[name.partition("@")[0]])


@torch.no_grad()
def _forward(module, image: torch.Tensor) -> dict[str, torch.Tensor]:
    prediction = module.predict({"image": image})
    joints49 = module.body.joints_from_mesh(prediction.mesh, "spin49")
    points = joints49 + prediction.transl_cam[:, None]
    return {
        **prediction.extra,
        "rotmat": metahmr_nets.rotmats(prediction),
        "betas": prediction.body.betas,
        "vertices": prediction.mesh.vertices,
        "joints49": joints49,
        "cam_t_crop": prediction.transl_cam,
        "joints2d_norm": cameras.project(points, prediction.intrinsics_crop),
    }


# ----------------------------------------------------------------------------------------- losses


def check_losses(case: Case, tmp_path):
    for term in case.named("loss."):
        leaves = {
            name: case.tensor(f"in.{name}").clone().requires_grad_()
            for name in ("joints", "verts", "rotmat", "betas", "cam")
        }
        loss = _loss(case, term, leaves)
        expected = case.arrays[f"loss.{term}"].item()
        assert loss.item() == pytest.approx(expected, rel=1e-5, abs=1e-12), term
        loss.backward()
        for name in case.named(f"grad.{term}."):
            largest = float(np.abs(case.arrays[f"grad.{term}.{name}"]).max())
            case.check(f"grad.{term}.{name}", leaves[name].grad, atol=1e-4 * largest)


def _loss(case: Case, term: str, leaves: dict[str, torch.Tensor]) -> torch.Tensor:
    """An unweighted term of upstream's, in hmrkit's functions."""
    has_smpl = case.tensor("in.has_smpl") > 0
    has_pose3d = case.tensor("in.has_pose_3d") > 0
    spin = joints.index(joints.names("spin24"), "spin49")
    hips = torch.tensor(joints.index(("spin_right_hip", "spin_left_hip"), "spin24"))

    def keypoints3d(target: torch.Tensor) -> torch.Tensor:
        return losses.keypoints3d_loss(leaves["joints"][:, spin], target, has_pose3d, hips)

    aux_joints = case.tensor("in.joints_aux")[:, spin]
    gt_pose = case.tensor("in.gt_pose").unflatten(1, (24, 3))
    gt_rotmat = rotations.axis_angle_to_rotmat(gt_pose)
    ones = torch.ones_like(aux_joints[..., :1])
    squares = {
        "pose_gt": (leaves["rotmat"] - gt_rotmat).square(),
        "pose_aux": (leaves["rotmat"] - case.tensor("in.rotmat_aux")).square(),
        "betas_gt": (leaves["betas"] - case.tensor("in.gt_betas")).square(),
        "betas_aux": (leaves["betas"] - case.tensor("in.betas_aux")).square(),
        "vertices": (leaves["verts"] - case.tensor("in.verts_aux")).abs(),
    }
    if term in squares:
        return losses.masked_mean(squares[term], has_smpl)
    if term == "keypoints3d_gt":
        return keypoints3d(case.tensor("in.pose_3d"))
    if term == "keypoints3d_aux":
        return keypoints3d(torch.cat([aux_joints, ones], dim=-1))
    if term == "camera":
        return losses.scale_penalty(leaves["cam"][:, 0])
    if "keypoints2d" in term:
        return _keypoints2d(case, term, leaves)
    pytest.fail(f"{case.name} has an unknown term: {term}")


def _keypoints2d(case: Case, term: str, leaves: dict[str, torch.Tensor]) -> torch.Tensor:
    width, height = case.config["crop"]
    size = torch.tensor([width, height])
    target = case.tensor("in.keypoints")
    target = torch.cat([2 * target[..., :2] / size - 1, target[..., 2:]], dim=-1)
    project = _project_hmr if "hmr" in term else _project_cliff
    weights = (case.config["openpose_weight"], case.config["gt_weight"])
    if term.startswith("eval_"):  # at test time one kind of keypoints is used alone
        weights = (1.0, 0.0) if term.endswith("openpose") else (0.0, 1.0)
    joint_weight = torch.tensor([weights[0]] * 25 + [weights[1]] * 24)
    return losses.keypoints2d_loss(project(case, leaves), target, joint_weight)


def _project_hmr(case: Case, leaves: dict[str, torch.Tensor]) -> torch.Tensor:
    width, height = case.config["crop"]
    transl = cameras.weak_perspective_to_transl(leaves["cam"], 5000.0, height)
    intrinsics = cameras.crop_intrinsics(5000.0, (height, width))
    return cameras.project(leaves["joints"] + transl[:, None], intrinsics)


def _project_cliff(case: Case, leaves: dict[str, torch.Tensor]) -> torch.Tensor:
    width, height = case.config["crop"]
    full_size = torch.stack([case.tensor("in.img_h"), case.tensor("in.img_w")], dim=1)
    focal = case.tensor("in.focal_length")
    transl = cameras.cliff_transl(
        leaves["cam"], case.tensor("in.center"), 200 * case.tensor("in.scale"), focal, full_size
    ).float()
    case.check("in.cam_t_full", transl, atol=1e-5)
    intrinsics = torch.zeros(len(focal), 3, 3)
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = focal
    intrinsics[:, :2, 2] = full_size.flip(1) / 2
    intrinsics[:, 2, 2] = 1
    to_units = torch.tensor([[2 / width, 0, -1], [0, 2 / height, -1], [0, 0, 1]])
    to_crop = torch.zeros(len(focal), 3, 3)
    to_crop[:, :2], to_crop[:, 2, 2] = case.tensor("in.crop_trans"), 1
    points = leaves["joints"] + transl[:, None]
    return cameras.project(points, to_units @ to_crop @ intrinsics)


# ---------------------------------------------------------------------------------------- metrics


def check_metrics(case: Case, tmp_path):
    neutral = parity_case.body(case.salt)
    prediction = neutral(metahmr_nets.body_of(case, "in.pred_pose", "in.pred_betas"))
    predicted = neutral.joints_from_mesh(prediction, "h36m17")
    case.check("pred_joints17", predicted, atol=2e-6)
    if case.config["dataset"] == "mpi-inf-3dhp":
        values = _errors_to_labelled_joints(case, prediction, neutral)
    else:
        values = metahmr_nets.errors(case, prediction, neutral)
    means = metrics.MetricMeans()
    means.update(values)
    for name in case.named("metric."):
        case.check(f"metric.{name}", values[name], atol=0.02 if name == "pa_mpjpe_mm" else 0.01)
    for name in case.named("mean."):
        ours = f"{name.lower().replace('-', '_')}_mm"
        case.check(f"mean.{name}", means.compute()[ours], atol=0.02)


def _errors_to_labelled_joints(case: Case, mesh: Mesh, neutral: SMPL) -> dict[str, torch.Tensor]:
    """Upstream compares pelvis-relative joints with labels as stored, whatever confidence."""
    vertices = neutral(metahmr_nets.body_of(case, "in.pose", "in.betas")).vertices
    target = case.tensor("in.pose_3d")[:, joints.index(SPIN17, "spin24"), :3]
    target = metahmr_nets.with_confidence(target)
    predicted = neutral.joints_from_mesh(mesh, "h36m17")
    predicted = metahmr_nets.root_relative(predicted, H36M17)
    return {
        "mpjpe_mm": metrics.mpjpe_mm(predicted, target, root=None),
        "pa_mpjpe_mm": metrics.pa_mpjpe_mm(predicted, target),
        "pve_mm": metrics.pve_mm(mesh.vertices, vertices),
    }


# ----------------------------------------------------------------------------------------- pieces


def check_pieces(case: Case, tmp_path):
    rotmat = rotations.rot6d_interleaved_to_rotmat(case.tensor("rot6d.in"))
    case.check("rot6d.out", rotmat, case.tolerance("rot6d"))
    rotmat = rotations.axis_angle_to_rotmat(case.tensor("axis_angle.in"))
    case.check("axis_angle.rotmat", rotmat, case.tolerance("axis_angle"))
    target = case.tensor("procrustes.gt")
    aligned = alignment.procrustes_align(case.tensor("procrustes.pred"), target)
    case.check("procrustes.aligned", aligned, case.tolerance("procrustes"))
    error = (aligned - target).norm(dim=-1).mean(dim=-1)
    case.check("procrustes.error", error, case.tolerance("procrustes"))
    _check_affine(case)
    for gender in ("neutral", "male", "female"):
        body_model = parity_case.body(case.salt, gender)
        posed = metahmr_nets.body_of(case, "smpl.pose", "smpl.betas")
        mesh = body_model(posed)
        outputs = {
            "joints49": body_model.joints_from_mesh(mesh, "spin49"),
            "vertices": mesh.vertices,
        }
        case.check(
            f"smpl.{gender}.joints49", body_model.joints(posed, "spin49"), case.tolerance("smpl")
        )
        for name in case.named(f"smpl.{gender}."):
            output = outputs[name.partition("@")[0]]
            case.check(f"smpl.{gender}.{name}", output, case.tolerance("smpl"))


def _check_affine(case: Case) -> None:
    for name, input_size in metahmr_nets.INPUT_SIZES.items():
        matrices = [
            boxes.crop_affine(center, 200 * scale, input_size, degrees)
            for center, scale, degrees in zip(
                *(case.arrays[f"affine.{key}"] for key in ("center", "scale", "rot")), strict=True
            )
        ]
        forward = np.stack(matrices)
        inverse = boxes.invert_affine(forward)
        case.check(f"affine.{name}", torch.from_numpy(forward), case.tolerance("affine"))
        case.check(f"affine.{name}_inv", torch.from_numpy(inverse), case.tolerance("affine"))


# ------------------------------------------------------------------------------------------- data


def check_data(case: Case, tmp_path):
    metahmr_data.check_data(case.spec, case.arrays, case.path.parent, tmp_path)


KINDS = {
    "forward_hmr": check_forward,
    "forward_cliff": metahmr_nets.check_forward,
    "train": metahmr_nets.check_train,
    "tto": metahmr_nets.check_tto,
    "losses": check_losses,
    "metrics": check_metrics,
    "pieces": check_pieces,
    "data": check_data,
}
