"""The report's pictures of methods that find people in whole images."""

import numpy as np
import pytest
import torch
from made_scenes import labelled_scenes

from hmrkit.body.free import free_body
from hmrkit.reporting.pictures import sample_picture
from hmrkit.types import Body, Prediction

SIZE = (112, 168)
PANEL_WIDTH, GAP = 432, 4  # of an image of this shape


@pytest.fixture(scope="module")
def scene():
    body_model = free_body()
    batch = labelled_scenes(body_model, [SIZE], [2], seed=3)
    batch["image"] = torch.full((1, 3, *SIZE), 128, dtype=torch.uint8)
    batch["intrinsics"] = batch["intrinsics_of_view"][:1]
    return body_model, batch


def found(batch, chosen) -> Prediction:
    body = batch["body"]
    to_crop = torch.tensor([[2 / SIZE[1], 0, -1], [0, 2 / SIZE[0], -1], [0, 0, 1]])
    return Prediction(
        Body(
            body.global_orient[chosen],
            body.body_pose[chosen],
            body.betas[chosen],
            torch.zeros(len(chosen), 3),
        ),
        transl_cam=body.transl[chosen],
        intrinsics_crop=to_crop @ batch["intrinsics_of_view"][chosen],
        score=torch.ones(len(chosen)),
        image_of_person=torch.zeros(len(chosen), dtype=torch.int64),
    )


def panels(picture) -> list[np.ndarray]:
    starts = [i * (PANEL_WIDTH + GAP) for i in range(4)]
    return [picture[:, start : start + PANEL_WIDTH].astype(int) for start in starts]


def drawn(panel) -> np.ndarray:
    """Where a grey panel is painted over."""
    return np.abs(panel - 128).max(axis=-1) > 12


def test_everybody_who_is_found_is_drawn_where_the_labels_are(scene):
    body_model, batch = scene
    picture = sample_picture(batch, found(batch, [0, 1]), body_model, 0)
    plain, over, labels, _ = panels(picture)
    assert not drawn(plain).any()
    both = drawn(over) & drawn(labels)
    assert both.sum() > 0.97 * drawn(labels).sum() > 500
    is_blue = over[..., 2] > over[..., 0] + 20
    is_green = labels[..., 1] > labels[..., 2] + 20
    assert is_blue.sum() > 0.5 * drawn(over).sum()
    assert is_green.sum() > 0.5 * drawn(labels).sum()


def test_a_picture_without_anybody_found_shows_the_labels_alone(scene):
    body_model, batch = scene
    _, over, labels, side = panels(sample_picture(batch, found(batch, []), body_model, 1))
    assert not drawn(over).any()
    assert drawn(labels).any()
    assert (side < 250).any()


def test_the_nearer_person_hides_the_farther_one(scene):
    body_model, batch = scene
    one = found(batch, [0, 0])
    one.transl_cam = one.transl_cam * torch.tensor([[1.0], [1.5]])  # the same line of sight
    _, alone, *_ = panels(sample_picture(batch, found(batch, [0]), body_model, 0))
    for order in ([0, 1], [1, 0]):
        both = found(batch, [0, 0])
        both.transl_cam = one.transl_cam[order]
        _, over, *_ = panels(sample_picture(batch, both, body_model, 0))
        middle = drawn(alone)
        same = np.abs(over - alone).max(axis=-1) < 30
        assert same[middle].mean() > 0.95
