"""SPIN's way to score annotated joints, beside the general one."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hmrkit.body import joints
from hmrkit.body.free import free_body
from hmrkit.evaluation import Protocol, build_protocol
from hmrkit.reporting.breakdown import breakdown
from hmrkit.types import Prediction

NODE = {
    "_target_": "hmrkit.spin_evaluation.StoredJoints",
    "name": "14 joints, pelvis",
    "joint_set": "h36m14",
    "root": ["h36m_pelvis"],
    "action": r"S\d+_([A-Za-z]+)",
}


@pytest.fixture(scope="module")
def body_model():
    return free_body()


def scene(body_model, num: int = 3):
    body = body_model.mean_body(num)
    points = body_model.joints(body, "all")
    pelvis = points[:, joints.index("h36m_pelvis", "all"), None]
    labels = torch.cat([points - pelvis, torch.ones_like(points[..., :1])], dim=-1)
    batch = {
        "body": replace(body, transl=torch.full((num, 3), 2.0)),
        "has_pose": torch.tensor([True, True, False]),
        "has_betas": torch.tensor([True, True, False]),
        "keypoints_world": labels,
    }
    camera = torch.eye(3).expand(num, 3, 3)
    turned = replace(body, body_pose=body.body_pose @ body.body_pose)
    stage = Prediction(turned, torch.ones(num, 3), camera)
    return batch, Prediction(
        body, torch.ones(num, 3), camera, mesh=body_model(body), stages=[stage]
    )


def test_a_body_at_its_label_has_no_error_wherever_it_stands(body_model):
    batch, prediction = scene(body_model)
    rows = build_protocol(NODE).measure(prediction, batch, body_model)
    for name in ("mpjpe", "pa_mpjpe"):
        assert rows[name].abs().max() < 1e-2  # mm
        assert rows[f"stage0_{name}"].min() > 1
    assert rows["pve"][:2].abs().max() < 1e-2
    assert rows["pve"][2].isnan()


def test_annotated_joints_count_though_there_is_a_body(body_model):
    batch, prediction = scene(body_model)
    moved = {**batch, "keypoints_world": batch["keypoints_world"].clone()}
    moved["keypoints_world"][..., 0] += 0.1  # as stored: not moved back to its own root
    rows = build_protocol(NODE).measure(prediction, moved, body_model)
    torch.testing.assert_close(rows["mpjpe"], torch.full((3,), 100.0), atol=0.01, rtol=0)
    general = Protocol("general", "h36m14", ["h36m_pelvis"])
    assert general.measure(prediction, moved, body_model)["mpjpe"].max() < 1e-2


def test_actions_have_means_of_their_own():
    columns = {
        "key": np.array(["S9-S9_Walking_1-6-S9_Walking_1-6_01", "S11_Eating_1-2", "S9_Eating-1"]),
        "pa_mpjpe": np.array([50.0, 60.0, 80.0]),
    }
    table = build_protocol(NODE).complete(columns)
    assert table["action"].tolist() == ["Walking", "Eating", "Eating"]
    actions = breakdown(table)["actions"]
    assert actions["Walking"] == {"num": 1, "pa_mpjpe": 50.0}
    assert actions["Eating"] == {"num": 2, "pa_mpjpe": 70.0}
    assert "action" not in build_protocol({**NODE, "action": ""}).complete(columns)
