"""What is measured, and by which protocol."""

import pytest
import torch

from hmrkit.body import joints
from hmrkit.body.free import free_body
from hmrkit.evaluation import Protocol, build_protocol, label_mesh, mean_pose_mesh, person_metrics
from hmrkit.geometry.rotations import axis_angle_to_rotmat
from hmrkit.types import Batch, Body, Mesh

PELVIS = Protocol("24 joints, pelvis", "smpl24", ["pelvis"])


@pytest.fixture(scope="module")
def body_model():
    return free_body()


@pytest.fixture
def batch(body_model) -> Batch:
    generator = torch.Generator().manual_seed(0)
    rotmat = axis_angle_to_rotmat(0.4 * torch.randn(3, 24, 3, generator=generator))
    body = Body(
        rotmat[:, 0], rotmat[:, 1:], torch.randn(3, 10, generator=generator), torch.zeros(3, 3)
    )
    labelled = body_model.joints(body, "all")
    return {
        "body": body,
        "has_pose": torch.tensor([True, True, False]),
        "has_betas": torch.tensor([True, True, False]),
        "keypoints_world": torch.cat([labelled, torch.ones(3, labelled.shape[1], 1)], dim=-1),
    }


def scores_of(mesh, batch, body_model, protocol=PELVIS):
    labels = label_mesh(batch, body_model)
    target = protocol.target_joints(labels, batch, body_model)
    return person_metrics(mesh, labels, target, batch, body_model, protocol)


def test_the_labels_themselves_score_zero_wherever_they_stand(body_model, batch):
    labels = label_mesh(batch, body_model)
    moved = Mesh(labels.vertices + 2.0, labels.joints + 2.0)
    scores = scores_of(moved, batch, body_model)
    assert scores["mpjpe"].max() < 0.01
    assert scores["pa_mpjpe"].max() < 0.01
    assert scores["pve"][:2].max() < 0.01


def test_a_person_without_a_body_label_is_scored_by_keypoints_alone(body_model, batch):
    mesh = mean_pose_mesh(3, body_model)
    scores = scores_of(mesh, batch, body_model)
    assert scores["pve"].isnan().tolist() == [False, False, True]
    assert (scores["mpjpe"] > 10).all()
    unlabelled = batch | {"keypoints_world": torch.zeros_like(batch["keypoints_world"])}
    scores = scores_of(mesh, unlabelled, body_model)
    assert scores["mpjpe"].isnan().tolist() == [False, False, True]


def test_the_root_may_lie_outside_the_scored_joints(body_model, batch):
    protocol = Protocol("Human3.6M, 14 joints", "h36m14", ["h36m_pelvis"])
    mesh, labels = mean_pose_mesh(3, body_model), label_mesh(batch, body_model)
    scores = scores_of(mesh, batch, body_model, protocol)
    rows = joints.index(list(joints.names("h36m14")), "h36m17")
    predicted, target = (body_model.joints_from_mesh(m, "h36m17") for m in (mesh, labels))
    error = (predicted - predicted[:, :1]) - (target - target[:, :1])
    expected = 1000 * error[:, rows].norm(dim=-1).mean(dim=1)
    torch.testing.assert_close(scores["mpjpe"][:2], expected[:2])


@pytest.mark.parametrize(("joint_set", "root"), [("smpl25", ["pelvis"]), ("smpl24", ["navel"])])
def test_a_protocol_that_cannot_be_is_refused(joint_set, root):
    with pytest.raises(ValueError, match=r"smpl25|navel"):
        Protocol("wrong", joint_set, root)


class _Found(Protocol):
    """A protocol of another kind."""


def test_a_protocol_of_another_kind_is_named_by_its_node():
    node = {"name": "found", "joint_set": "smpl24", "root": ["pelvis"]}
    assert type(build_protocol(node)) is Protocol
    target = f"{__name__}._Found"
    assert isinstance(build_protocol({"_target_": target, **node}), _Found)
    with pytest.raises(ValueError, match="alignment"):
        build_protocol({**node, "alignment": "none"})
