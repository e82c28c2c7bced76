"""The numbers that HeatFormer is scored by, on people whose errors are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_heatformer import SIDE, network, rigs, views_of

from hmrkit.body import joints
from hmrkit.body.free import free_body
from hmrkit.evaluation import build_protocol
from hmrkit.models.heatformer.estimate import world_bodies
from hmrkit.models.heatformer.views import read_rig, tabulate
from hmrkit.types import Body

NODE = {
    "_target_": "hmrkit.models.heatformer.protocol.ViewProtocol",
    "name": "views",
    "joint_set": "h36m17",
    "root": ["h36m_pelvis"],
}
BEHAVE = {
    **NODE,
    "_target_": "hmrkit.models.heatformer.protocol.MaskedViewProtocol",
    "joint_set": "openpose25",
    "root": ["openpose_pelvis"],
}
WRIST = joints.index("openpose_left_wrist", "all")


@pytest.fixture(scope="module")
def body_model():
    return free_body()


@pytest.fixture(scope="module")
def scene(body_model):
    """A batch, and the prediction that is the labels themselves."""
    batch = rigs(body_model, (3, 2))
    prediction = network(body_model, num_iterations=1).eval()(batch, body_model)
    return batch, perfect(prediction, batch, body_model)


def perfect(prediction, batch, body_model):
    person, body = batch["person_of_view"], batch["body"]
    turn = batch["world_to_camera"][:, :3, :3]
    rotmat = torch.cat([body.global_orient[:, None], body.body_pose], dim=1)[person]
    rotmat = torch.cat([(turn @ rotmat[:, 0])[:, None], rotmat[:, 1:]], dim=1)
    said = {"rotmat": rotmat, "betas": body.betas[person], "transl_view": torch.zeros(5, 3)}
    return replace(prediction, body=body, mesh=body_model(body), extra={**prediction.extra, **said})


def test_a_perfect_prediction_has_no_error_in_any_view_and_the_mean_pose_has(body_model, scene):
    batch, prediction = scene
    columns = build_protocol({**NODE, "with_pck": True}).measure(prediction, batch, body_model)
    assert columns["row_person"].tolist() == [0, 0, 0, 1, 1]
    for name in ("mpjpe", "pa_mpjpe", "pve", "person_pa_mpjpe", "world_mpjpe"):
        assert columns[name].shape == (5,)
        assert columns[name].max() < 0.05, name
    assert (columns["pa_pck"] == 100).all()
    assert (columns["pa_auc"] == 100).all()
    assert columns["baseline_pa_mpjpe"].min() > 20


def test_every_view_is_scored_on_its_own_and_a_shift_only_in_the_world(body_model, scene):
    batch, prediction = scene
    turned = prediction.extra["rotmat"].clone()
    turned[1] = torch.eye(3)
    moved = replace(prediction.body, transl=prediction.body.transl + torch.tensor([0.1, 0, 0]))
    wrong = replace(
        prediction,
        mesh=body_model(moved),
        extra={**prediction.extra, "rotmat": turned},
    )
    columns = build_protocol(NODE).measure(wrong, batch, body_model)
    is_wrong = torch.tensor([False, True, False, False, False])
    assert (columns["pa_mpjpe"][is_wrong] > 10).all()
    assert (columns["pa_mpjpe"][~is_wrong] < 0.05).all()
    assert columns["world_mpjpe"].tolist() == pytest.approx([100.0] * 5, rel=1e-3)
    assert (columns["person_pa_mpjpe"] < 0.05).all()


def test_iterations_are_columns_of_their_own(body_model):
    batch = rigs(body_model, (2,))
    net = network(body_model, num_iterations=3).eval()
    prediction = net(batch, body_model)
    prediction = replace(prediction, mesh=body_model(prediction.body))
    columns = build_protocol(NODE).measure(prediction, batch, body_model)
    stages = [columns[f"stage{i}_pa_mpjpe"] for i in (0, 1)]
    assert not torch.equal(stages[0], stages[1])
    once = network(body_model, num_iterations=1).eval()(batch, body_model)
    once = replace(once, mesh=body_model(once.body))
    first = build_protocol(NODE).measure(once, batch, body_model)["pa_mpjpe"]
    torch.testing.assert_close(stages[0], first, rtol=1e-4, atol=1e-2)


def test_missing_labels_are_nan_and_failed_predictions_infinite(body_model, scene):
    batch, prediction = scene
    bare = {**batch, "keypoints_world": batch["keypoints_world"] * 0}
    bare["has_pose"] = torch.zeros(2, dtype=torch.bool)
    columns = build_protocol({**NODE, "with_pck": True}).measure(prediction, bare, body_model)
    for name in ("mpjpe", "pa_mpjpe", "pve", "pa_pck", "person_pa_mpjpe", "world_mpjpe"):
        assert columns[name].isnan().all(), name
    said = {**prediction.extra, "betas": prediction.extra["betas"] * torch.nan}
    broken = replace(prediction, extra=said)
    columns = build_protocol({**NODE, "with_pck": True}).measure(broken, batch, body_model)
    for name in ("mpjpe", "pa_mpjpe", "pve", "pa_pck"):
        assert columns[name].isinf().all(), name


def test_unsure_joints_count_as_met_and_stay_in_the_mean(body_model, scene):
    batch, prediction = scene
    label = batch["keypoints_world"].clone()
    label[:, WRIST, 0] += 0.3
    scores = []
    for confidence in (0.3, 0.29):
        label[:, WRIST, 3] = confidence
        columns = build_protocol(BEHAVE).measure(
            prediction, {**batch, "keypoints_world": label}, body_model
        )
        scores.append(columns["mpjpe"])
    assert scores[0].tolist() == pytest.approx([300 / 15] * 5, rel=0.02)
    assert (scores[1] < 0.5).all()


def test_only_the_first_fifteen_joints_are_scored(body_model, scene):
    batch, prediction = scene
    label = batch["keypoints_world"].clone()
    label[:, joints.index("openpose_left_heel", "all"), :3] += 1.0
    columns = build_protocol(BEHAVE).measure(
        prediction, {**batch, "keypoints_world": label}, body_model
    )
    assert columns["mpjpe"].max() < 0.5


def test_another_joint_regressor_is_read_and_checked(body_model, scene, tmp_path):
    batch, prediction = scene
    own = np.zeros((25, prediction.mesh.vertices.shape[1]), np.float32)
    own[:, 0] = 1  # every joint at one vertex
    np.save(tmp_path / "own.npy", own)
    node = {**BEHAVE, "regressor": str(tmp_path / "own.npy")}
    columns = build_protocol(node).measure(prediction, batch, body_model)
    assert columns["mpjpe"].min() > 100
    np.save(tmp_path / "own.npy", own[:, :7])
    node["regressor"] = str(tmp_path / "other.npy")
    with pytest.raises(Exception, match="no joint regressor at"):
        build_protocol(node)
    np.save(tmp_path / "other.npy", own[:, :7])
    with pytest.raises(ValueError, match=r"is \(25, 7\)"):
        build_protocol(node).measure(prediction, batch, body_model)


def test_a_mirrored_rig_is_the_rig_of_a_mirrored_person(body_model):
    """What a flip makes of a record: the world and the crops mirrored, cameras that mirror back."""
    batch = rigs(body_model, (3,))
    mirror = torch.diag(torch.tensor([-1.0, 1, 1]))
    to_img = batch["crop_to_img"].clone()
    to_img[:, 0, 0] *= -1
    world = batch["keypoints_world"].clone()
    world[..., 0] *= -1
    camera = batch["world_to_camera"].clone()
    camera[:, :3, :3] = camera[:, :3, :3] @ mirror
    units = batch["keypoints_crop"].clone()
    units[..., 0] *= -1
    mirrored = {
        **batch,
        "crop_to_img": to_img,
        "keypoint_crop_to_img": to_img.clone(),
        "world_to_camera": camera,
        "keypoints_world": world,
        "keypoints_crop": units,
    }
    rig = read_rig(mirrored, (SIDE, SIDE), (16, 16))
    assert torch.linalg.det(rig.rotation).min() > 0.99
    pixels = rig.to_crop_px(rig.to_camera(world[batch["person_of_view"], :, :3]))
    torch.testing.assert_close(pixels, (units[..., :2] + 1) * SIDE / 2, atol=1e-2, rtol=1e-4)
    body = batch["body"]
    turn = mirror @ body.global_orient @ mirror
    pose = mirror @ body.body_pose @ mirror
    views = Body(
        rig.rotation @ turn[[0, 0, 0]], pose[[0, 0, 0]], body.betas[[0, 0, 0]], torch.zeros(3, 3)
    )
    person = world_bodies(views, tabulate(batch["person_of_view"]), rig, body_model)
    torch.testing.assert_close(person.global_orient, turn, atol=1e-4, rtol=1e-4)


def test_part_of_the_views_are_scored_as_in_the_whole(body_model, scene):
    batch, _ = scene
    net = network(body_model, num_iterations=1).eval()
    alone = views_of(batch, [3, 4], [1])
    found = net(alone, body_model)
    whole = net(batch, body_model)
    score = []
    for said, labels in ((found, alone), (whole, batch)):
        said = replace(said, mesh=body_model(said.body))
        score.append(build_protocol(NODE).measure(said, labels, body_model)["mpjpe"])
    torch.testing.assert_close(score[0], score[1][3:], rtol=1e-3, atol=0.1)
