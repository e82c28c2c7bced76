"""Scores against bodies of people's own gender."""

import numpy as np
import pytest
import torch

from hmrkit import metrics
from hmrkit.body import joints
from hmrkit.body.gendered import GenderedBodies
from hmrkit.configs import load_config
from hmrkit.evaluation import Protocol, build_protocol
from hmrkit.geometry.rotations import axis_angle_to_rotmat
from hmrkit.types import Body, Prediction
from official_files import write_bodies

NAMED = {"name": "14 joints", "joint_set": "h36m14", "root": ["h36m_pelvis"]}
TARGET = "hmrkit.gendered_evaluation.GenderedProtocol"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return write_bodies(tmp_path_factory.mktemp("bodies"))


def people(num: int = 3, transl: float = 0.0) -> Body:
    generator = torch.Generator().manual_seed(0)
    rotmat = axis_angle_to_rotmat(0.3 * torch.randn(num, 24, 3, generator=generator))
    betas = torch.randn(num, 10, generator=generator)
    return Body(rotmat[:, 0], rotmat[:, 1:], betas, torch.full((num, 3), transl))


def make_batch(gender: list[int]) -> dict:
    yes = torch.ones(len(gender), dtype=torch.bool)
    return {
        "body": people(len(gender), transl=4.0),  # labels stand in the world
        "gender": torch.tensor(gender),
        "has_pose": yes,
        "has_betas": yes,
        "keypoints_world": torch.zeros(len(gender), len(joints.names("all")), 4),
    }


def make_protocol(folder: str, **options) -> Protocol:
    return build_protocol({**{"_target_": TARGET, **NAMED, "body_models": folder}, **options})


def prediction_of(body_model, body: Body) -> Prediction:
    num = len(body.betas)
    eye = torch.eye(3).expand(num, 3, 3)
    return Prediction(body, torch.zeros(num, 3), eye, mesh=body_model(body))


def test_everybody_is_compared_with_the_body_of_their_gender(folder):
    bodies = GenderedBodies(folder)
    neutral, batch = bodies[-1], make_batch([0, 1, -1])
    prediction = prediction_of(neutral, people())
    rows = make_protocol(folder).measure(prediction, batch, neutral)
    plain = Protocol(**NAMED).measure(prediction, batch, neutral)
    assert rows["mpjpe"][2] < 0.01  # the same parameters of the same body
    assert (plain["mpjpe"] < 0.01).all()
    for row, gender in ((0, 0), (1, 1)):
        own = bodies[gender](people())
        found, target = (neutral.joints_from_mesh(m, "h36m14") for m in (prediction.mesh, own))
        target = torch.cat([target, torch.ones_like(target[..., :1])], dim=-1)
        expected = metrics.pa_mpjpe_mm(found, target)[row]
        assert rows["pa_mpjpe"][row].item() == pytest.approx(expected.item(), rel=1e-4)
        assert rows["mpjpe"][row] > 1


def test_somebody_without_a_gender_has_the_body_one_says(folder):
    neutral, batch = GenderedBodies(folder)[-1], make_batch([-1, -1, 0])
    prediction = prediction_of(neutral, people())
    as_male = make_protocol(folder, unknown_gender="male").measure(prediction, batch, neutral)
    told = make_protocol(folder).measure(
        prediction, {**batch, "gender": torch.tensor([0, 0, 0])}, neutral
    )
    for name, value in told.items():
        torch.testing.assert_close(as_male[name], value)


def test_pve_counts_a_shifted_root_in_the_bodys_own_frame_only(folder):
    neutral, batch = GenderedBodies(folder)[-1], make_batch([-1, -1, -1])
    moved = people()
    moved.transl = moved.transl + torch.tensor([0.1, 0.0, 0.0])
    prediction = prediction_of(neutral, moved)
    scores = {
        origin: make_protocol(folder, pve_origin=origin).measure(prediction, batch, neutral)
        for origin in ("body", "root")
    }
    np.testing.assert_allclose(scores["body"]["pve"], 100.0, atol=0.01)
    assert scores["root"]["pve"].max() < 0.01
    assert scores["body"]["mpjpe"].max() < 0.01
    batch["has_betas"] = torch.tensor([True, False, True])
    rows = make_protocol(folder, pve_origin="body").measure(prediction, batch, neutral)
    assert rows["pve"].isnan().tolist() == [False, True, False]


def test_joints_are_read_off_both_posed_meshes_if_one_says_so(folder):
    bodies, batch = GenderedBodies(folder), make_batch([0, 1, -1])
    neutral = bodies[-1]
    options = {"joint_set": "smpl24", "root": ["left_hip", "right_hip"]}
    prediction = prediction_of(neutral, people())
    protocol = make_protocol(folder, **options, labelled_joints="regressed")
    rows = protocol.measure(prediction, batch, neutral)
    own = bodies[0](people())
    found, target = (neutral.regress_joints(m.vertices) for m in (prediction.mesh, own))
    target = torch.cat([target, torch.ones_like(target[..., :1])], dim=-1)
    hips = joints.index(["left_hip", "right_hip"], "smpl24")
    expected = metrics.mpjpe_mm(found, target, hips)
    assert rows["mpjpe"][0].item() == pytest.approx(expected[0].item(), rel=1e-4)
    assert rows["mpjpe"][2] < 0.01
    assert "everybody's own gender" in protocol.words().replace("\n", " ")
    with pytest.raises(Exception, match="joint_set=smpl24"):
        make_protocol(folder, labelled_joints="regressed")


def test_annotated_joints_count_beside_the_vertices_of_a_body(folder):
    neutral, batch = GenderedBodies(folder)[-1], make_batch([-1, -1, -1])
    prediction = prediction_of(neutral, people())
    points = neutral.joints_from_mesh(prediction.mesh, "all") + 5.0  # stand somewhere else
    points[:, :, 0] *= 1.1
    batch["keypoints_world"] = torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)
    rows = make_protocol(folder, labelled_joints="annotated").measure(prediction, batch, neutral)
    assert (rows["mpjpe"] > 3).all()  # the annotation is wider than the body
    assert rows["pve"].max() < 0.01  # the labelled body is the predicted one


def test_what_cannot_be_is_refused(folder, tmp_path):
    for options, words in (
        ({"unknown_gender": "other"}, "choose from neutral, male, female"),
        ({"pve_origin": "pelvis"}, "choose root or body"),
    ):
        with pytest.raises(Exception, match=words):
            make_protocol(folder, **options)
    neutral = GenderedBodies(folder)[-1]
    (tmp_path / "SMPL_FEMALE.npz").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="male"):
        make_protocol(str(tmp_path)).measure(
            prediction_of(neutral, people()), make_batch([0, 0, 0]), neutral
        )


@pytest.mark.parametrize("source", ["3dpw_metahmr_test", "h36m_metahmr_p1", "h36m_metahmr_p2"])
def test_meta_hmrs_test_sets_are_scored_so(source):
    config = load_config("prepare", [f"source={source}", "input=x"])
    protocol = build_protocol(config.source.protocol)
    assert type(protocol).__name__ == "GenderedProtocol"
    assert (protocol.joint_set, protocol.pve_origin) == ("h36m14", "body")
