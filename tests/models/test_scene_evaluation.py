from dataclasses import replace

import numpy as np
import pytest
import torch
from made_scenes import labelled_scenes

from hmrkit.body.free import free_body
from hmrkit.scene_evaluation import (
    SceneProtocol,
    detected,
    detection_scores,
    match_people,
    normalized_error,
)
from hmrkit.types import Body, Mesh, Prediction

SIZES = [(150, 224), (224, 112)]
PROTOCOL = SceneProtocol("found people", "smpl24", ["left_hip", "right_hip"])
ERRORS = ("mpjpe", "pa_mpjpe", "pve", "pa_pve")


@pytest.fixture(scope="module")
def body_model():
    return free_body()


def predicted(batch, chosen: list[int], score: float = 0.9) -> Prediction:
    """Some of the labelled people, found exactly where and as they are."""
    body, rows = batch["body"], torch.tensor(chosen, dtype=torch.int64)
    image = batch["image_of_view"][rows]
    size_px = batch["input_size"][image].flip(-1).float()
    to_crop = torch.eye(3).repeat(len(rows), 1, 1)
    to_crop[:, :2] = torch.cat([torch.diag_embed(2 / size_px), -torch.ones(len(rows), 2, 1)], 2)
    return Prediction(
        body=Body(
            body.global_orient[rows],
            body.body_pose[rows],
            body.betas[rows],
            torch.zeros(len(rows), 3),
        ),
        transl_cam=body.transl[rows],
        intrinsics_crop=to_crop @ batch["intrinsics_of_view"][rows],
        score=torch.full((len(rows),), score),
        image_of_person=image,
    )


def scenes(body_model, num_people=(2, 1), seed=1):
    batch = labelled_scenes(body_model, SIZES, num_people, seed)
    return {**batch, "key": ["a", "b"], "gender": torch.full((sum(num_people),), -1)}


def joined(first: Prediction, second: Prediction) -> Prediction:
    """The people of two predictions."""
    parts = [vars(p.body) for p in (first, second)]
    rows = ("transl_cam", "intrinsics_crop", "score", "image_of_person")
    return Prediction(
        body=Body(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]}),
        **{name: torch.cat([getattr(p, name) for p in (first, second)]) for name in rows},
    )


def measured(prediction, batch, body_model):
    rows = PROTOCOL.measure(prediction, batch, body_model)
    return {name: values.numpy() for name, values in rows.items()}


# --- protocol -------------------------------------------------------------------------------------


def test_whoever_is_found_as_labelled_has_no_error_and_everybody_counts(body_model):
    batch = scenes(body_model)
    rows = measured(predicted(batch, [2, 0, 1]), batch, body_model)
    assert rows["row_person"].tolist() == [0, 1, 2]
    assert rows["recall"].tolist() == rows["precision"].tolist() == [1, 1, 1]
    for name in ERRORS:
        assert rows[name].max() < 0.05  # mm
        assert rows[f"baseline_{name}"].min() > 10
    assert PROTOCOL.summary(rows)["f1"] == 1.0


def test_missed_people_and_found_nobodies_lower_the_scores_and_have_no_error(body_model):
    batch = scenes(body_model)
    ghost = predicted(batch, [2])  # found in the first image, where nobody like that is
    ghost.image_of_person = torch.tensor([0])
    ghost.transl_cam = torch.tensor([[-40.0, 0, 20]])
    rows = measured(joined(predicted(batch, [1, 2]), ghost), batch, body_model)
    assert rows["row_person"].tolist() == [0, 1, 2, -1]
    np.testing.assert_array_equal(rows["recall"], [0, 1, 1, np.nan])
    np.testing.assert_array_equal(rows["precision"], [np.nan, 1, 1, 0])
    assert np.isnan(rows["mpjpe"]).tolist() == [True, False, False, True]
    summary = PROTOCOL.summary(rows)
    assert summary["f1"] == 0.67
    baseline = np.nanmean(rows["baseline_mpjpe"])
    assert summary["baseline_nmje"] == pytest.approx(round(baseline, 1) / 0.67, abs=0.06)


def test_a_second_guess_at_the_same_person_is_nobody(body_model):
    batch = scenes(body_model, (1, 0))
    rows = measured(predicted(batch, [0, 0]), batch, body_model)
    assert rows["row_person"].tolist() == [0, -1]
    assert np.nanmean(rows["precision"]) == 0.5


def test_errors_are_relative_to_the_hips_and_in_millimetres(body_model):
    batch = scenes(body_model, (1, 0))
    prediction = predicted(batch, [0])
    prediction.transl_cam = prediction.transl_cam + torch.tensor([0.01, 0.0, 0.05])
    assert measured(prediction, batch, body_model)["mpjpe"][0] < 0.05
    turned = prediction.body.body_pose.clone()
    turned[0, 17] = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]) @ turned[0, 17]  # an elbow
    prediction.body = replace(prediction.body, body_pose=turned)
    assert 1 < measured(prediction, batch, body_model)["mpjpe"][0] < 60


@pytest.mark.parametrize("num_people", [(0, 0), (2, 1)])
def test_finding_nobody_is_no_error_of_anybody(body_model, num_people):
    batch = scenes(body_model, num_people)
    nobody = measured(predicted(scenes(body_model), [0, 1], score=0.4), batch, body_model)
    assert len(nobody["recall"]) == sum(num_people)
    assert not nobody["recall"].any()
    assert np.isnan(nobody["mpjpe"]).all()
    summary = PROTOCOL.summary(nobody)
    assert summary["f1"] == 0.0
    assert summary["nmje"] == float("inf")


def test_an_image_without_people_has_false_positives_only(body_model):
    batch = scenes(body_model, (0, 0))
    rows = measured(predicted(scenes(body_model), [0, 2]), batch, body_model)
    assert rows["row_person"].tolist() == [-1, -1]
    assert rows["precision"].tolist() == [0, 0]


def test_augmented_worlds_are_seen_by_their_own_cameras(body_model):
    batch = scenes(body_model)
    mirror = torch.diag(torch.tensor([-1.0, 1, 1, 1])).expand(2, 4, 4)
    turned = replace(batch["body"], transl=batch["body"].transl * torch.tensor([-1.0, 1, 1]))
    other = {**batch, "world_to_camera": mirror, "body": turned}
    rows = measured(predicted(batch, [0, 1, 2]), other, body_model)
    assert rows["recall"].tolist() == [1, 1, 1]


def test_methods_that_are_told_where_people_are_get_plain_errors(body_model):
    batch = scenes(body_model)
    told = predicted(batch, [0, 1, 2])
    told.image_of_person = None
    told.mesh = body_model(told.body)
    rows = PROTOCOL.measure(told, batch, body_model)
    assert "recall" not in rows
    assert rows["mpjpe"].max() < 0.05
    assert PROTOCOL.summary({name: values.numpy() for name, values in rows.items()}) == {}


def test_chosen_vertices_alone_make_the_surface_error(body_model, tmp_path):
    np.save(tmp_path / "some.npy", np.arange(100))
    protocol = replace(PROTOCOL, vertices=str(tmp_path / "some.npy"))
    batch = scenes(body_model)
    prediction = predicted(batch, [0, 1, 2])
    prediction.body = replace(prediction.body, betas=prediction.body.betas + 0.5)
    mesh, labels = body_model(prediction.body).vertices, body_model(batch["body"]).vertices
    hips = [body_model(body).joints[:, [1, 2]].mean(1) for body in (prediction.body, batch["body"])]
    error = (mesh - hips[0][:, None]) - (labels - hips[1][:, None])
    expected = 1000 * error[:, :100].norm(dim=-1).mean(dim=1)
    found = protocol.measure(prediction, batch, body_model)["pve"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    with pytest.raises(FileNotFoundError, match=r"body_verts_smpl\.npy"):
        replace(PROTOCOL, vertices="nowhere.npy")


def test_what_cannot_be_scored_is_refused(body_model):
    batch = scenes(body_model)
    unlabelled = {**batch, "has_pose": torch.tensor([True, False, True])}
    with pytest.raises(ValueError, match=r"a record of \['a', 'b'\] holds somebody without pose"):
        PROTOCOL.measure(predicted(batch, [0]), unlabelled, body_model)


def test_labels_may_mean_bodies_of_their_genders(body_model):
    batch = scenes(body_model)
    batch["gender"] = torch.tensor([1, -1, -1])

    class Larger:
        """A body of another gender."""

        def to(self, device):
            return self

        def __call__(self, body):
            mesh = body_model(body)
            return Mesh(1.01 * mesh.vertices, 1.01 * mesh.joints)

    protocol = replace(PROTOCOL, bodies={-1: body_model, 0: Larger(), 1: Larger()})
    rows = protocol.measure(predicted(batch, [0, 1, 2]), batch, body_model)
    assert (rows["pve"] > 1).tolist() == [True, False, False]


# --- who is shown ---------------------------------------------------------------------------------


def test_detected_keeps_whom_the_score_says(body_model):
    batch = scenes(body_model)
    prediction = predicted(batch, [0, 1, 2])
    prediction.score = torch.tensor([0.2, 0.5, 0.9])
    kept = detected(prediction, 0.5)  # strictly above
    assert kept.image_of_person.tolist() == [1]
    assert torch.equal(kept.body.betas, batch["body"].betas[2:])
    assert torch.equal(kept.transl_cam, prediction.transl_cam[2:])


# --- matching -------------------------------------------------------------------------------------


def person_at(x: float, y: float = 100.0) -> torch.Tensor:
    """Joints (24, 2) within 40 x 80 px."""
    generator = torch.Generator().manual_seed(0)
    return torch.tensor([x, y]) + torch.rand(24, 2, generator=generator) * torch.tensor([40, 80])


def test_predictions_are_matched_to_the_nearest_person_once():
    labels = torch.stack([person_at(100), person_at(300), person_at(600)])
    guesses = torch.stack([person_at(302), person_at(101), person_at(104), person_at(900)])
    matches = match_people(guesses, labels)
    pairs = dict(zip(matches.prediction.tolist(), matches.label.tolist(), strict=True))
    assert pairs == {0: 1, 1: 0}
    assert matches.false_positive.tolist() == [2, 3]
    assert matches.missed.tolist() == [2]


@pytest.mark.parametrize(("num_predicted", "num_labels"), [(0, 0), (0, 2), (2, 0)])
def test_nobody_is_matched_to_nobody(num_predicted, num_labels):
    people = torch.stack([person_at(100), person_at(300)])
    matches = match_people(people[:num_predicted], people[:num_labels])
    assert len(matches.prediction) == 0
    assert (len(matches.false_positive), len(matches.missed)) == (num_predicted, num_labels)


def test_finding_nobody_never_looks_good():
    scores = detection_scores(0, 0, 5)
    assert tuple(scores) == (0.0, 0.0, 0.0)
    assert normalized_error(60.0, scores.f1) == float("inf")
    assert detection_scores(8, 2, 2).f1 == 0.8
    assert normalized_error(60.0, 0.8) == 75.0
