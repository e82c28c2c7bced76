"""PCK of projected joints."""

import numpy as np
import pytest
import torch

from hmrkit.body import joints
from hmrkit.body.free import free_body
from hmrkit.evaluation import build_protocol
from hmrkit.geometry.cameras import project
from hmrkit.keypoint_evaluation import joint_distances, joint_pck
from hmrkit.types import Prediction

NODE = {
    "_target_": "hmrkit.keypoint_evaluation.KeypointProtocol",
    "name": "PCK",
    "joint_set": "spin44",
    "root": ["spin_pelvis"],
}


def test_pck_counts_labelled_joints_alone():
    nan = torch.nan
    distance = torch.tensor([[0.01, nan, 0.2], [0.05, nan, 0.01]])
    share = joint_pck(distance, 0.05)
    assert share[[0, 2]].tolist() == [1.0, 0.5]
    assert share[1].isnan()


def test_distances_are_in_shares_of_the_box_and_need_a_sure_label():
    pred = torch.zeros(1, 2, 2)
    target = torch.tensor([[[0.2, 0.0, 0.9], [0.2, 0.0, 0.5]]])  # crop units: twice the share
    distance = joint_distances(pred, target, torch.tensor([1.5]))
    assert distance[0, 0].item() == pytest.approx(0.15)
    assert distance[0, 1].isnan()


def test_a_protocol_of_keypoints_scores_what_is_projected():
    body_model, protocol = free_body(), build_protocol(NODE)
    body = body_model.mean_body(2)
    mesh = body_model(body)
    transl = torch.tensor([[0.0, 0.0, 5.0], [0.1, 0.0, 6.0]])
    intrinsics = torch.tensor([[4.0, 0, 0], [0, 4.0, 0], [0, 0, 1]]).expand(2, 3, 3)
    points = body_model.joints_from_mesh(mesh, "all") + transl[:, None]
    target = torch.cat([project(points, intrinsics), torch.ones(*points.shape[:2], 1)], dim=-1)
    target[1, ..., 0] += 2 * 0.08  # 8 % of the crop's side to the right
    batch = {
        "keypoints_crop": target,
        "crop_to_img": torch.tensor([[100.0, 0, 0], [0, 100.0, 0]]).expand(2, 2, 3),
        "box_img": torch.tensor([[0.0, 0, 80, 200 / 1.2]]).expand(2, 4),  # with its margin 200 px
    }
    prediction = Prediction(body, transl, intrinsics, mesh=mesh)
    rows = protocol.measure(prediction, batch, body_model)
    assert rows["kpl2"].tolist() == pytest.approx([0.0, 0.08**2], abs=1e-6)
    numbers = protocol.summary({name: np.asarray(value) for name, value in rows.items()})
    assert numbers == pytest.approx({"pck_0.05": 50.0, "pck_0.1": 100.0})
    assert len(joints.names("spin44")) == rows["_distance"].shape[1]
