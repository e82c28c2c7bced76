"""TokenHMR's and HMR2.0's evaluation against the authors' numbers."""

from pathlib import Path

import fill
import numpy as np
import torch
from parity_case import Case
from torch import Tensor

from hmrkit import metrics
from hmrkit.body import joints
from hmrkit.keypoint_evaluation import joint_distances, joint_pck, keypoint_l2

PELVIS = joints.index(["spin_pelvis"], "spin44")
SCORED = joints.index(list(joints.names("hmr2_14")), "spin44")
HIPS = joints.index(["left_hip", "right_hip"], "smpl24")


def check_eval_metrics(case: Case, tmp_path: Path) -> None:
    """3D errors by the protocols of 3DPW and EMDB, and 2D ones."""
    salt = case.salt
    num = len(case.arrays["in_rot"])
    template = torch.from_numpy(fill.smpl(salt)["v_template"]).float()
    shape = (num, *template.shape)
    pred_vertices = template + 0.02 * torch.from_numpy(fill.unit("eval.pred_v", shape, salt))
    turned = torch.einsum("bij,bvj->bvi", case.tensor("in_rot"), pred_vertices)
    noise = torch.from_numpy(fill.unit("eval.gt_v", shape, salt))
    gt_vertices = 1.05 * turned + 0.03 * noise + 0.4
    for name, vertices in (("pred", pred_vertices), ("gt", gt_vertices)):
        recorded = case.tensor(f"in_{name}_vertices_check")
        torch.testing.assert_close(vertices[:, ::689], recorded, atol=1e-5, rtol=1e-5)
    pred, gt = case.tensor("in_pred_keypoints_3d"), case.tensor("in_gt_keypoints_3d")
    _check(case, "3DPW-TEST_mode_mpjpe", metrics.mpjpe_mm(pred, gt, PELVIS, SCORED))
    _check(case, "3DPW-TEST_mode_re", metrics.pa_mpjpe_mm(pred, gt, SCORED))
    pve = metrics.pve_mm(pred_vertices - pred[:, PELVIS], gt_vertices - gt[:, PELVIS, :3])
    _check(case, "3DPW-TEST_mode_pve", pve)
    _check(case, "hmr2_3dpw_mode_mpjpe", metrics.mpjpe_mm(pred, gt, PELVIS, SCORED))
    _check(case, "hmr2_3dpw_mode_re", metrics.pa_mpjpe_mm(pred, gt, SCORED))
    regressor = torch.from_numpy(fill.smpl(salt)["J_regressor"]).float()
    pred24, gt24 = (regressor @ vertices for vertices in (pred_vertices, gt_vertices))
    gt24 = torch.cat([gt24, torch.ones_like(gt24[..., :1])], dim=-1)
    _check(case, "EMDB_mode_mpjpe", metrics.mpjpe_mm(pred24, gt24, HIPS))
    _check(case, "EMDB_mode_re", metrics.pa_mpjpe_mm(pred24, gt24))
    pelvis = pred24[:, HIPS].mean(1, keepdim=True), gt24[:, HIPS, :3].mean(1, keepdim=True)
    _check(
        case, "EMDB_mode_pve", metrics.pve_mm(pred_vertices - pelvis[0], gt_vertices - pelvis[1])
    )
    _check_keypoints(case)


def _check_keypoints(case: Case) -> None:
    pred, target = case.tensor("in_pred_keypoints_2d"), case.tensor("in_gt_keypoints_2d")
    error = keypoint_l2(pred, target)
    _check(case, "hmr2_kpl2", error)
    in_units = target * torch.tensor([2.0, 2.0, 1.0])  # crop units
    scale = case.tensor("in_box_size") / (200 * case.tensor("in_scale").amax(dim=1))
    distance = joint_distances(pred, in_units, scale)
    values = {"mode_kpl2": error.mean()}
    for threshold in case.config["PCK thresholds"]:
        share = joint_pck(distance, threshold)
        values[f"kpAvg_pck_{threshold}"] = share.nanmean()
        values |= {f"kp{i}_pck_{threshold}": s for i, s in enumerate(share) if not s.isnan()}
    names = case.arrays["hmr2_pck_names"].tolist()
    assert set(names) == set(values)
    ours = np.array([float(values[name]) for name in names])
    np.testing.assert_allclose(
        ours, case.arrays["hmr2_pck"], rtol=0, atol=case.spec["tolerance"]["hmr2_pck"]["atol"]
    )


def _check(case: Case, name: str, ours: Tensor) -> None:
    tolerance = case.spec["tolerance"]["default"]
    np.testing.assert_allclose(ours.numpy(), case.arrays[name], err_msg=name, **tolerance)
