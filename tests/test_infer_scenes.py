import numpy as np
import pytest
import torch

from hmrkit.body.free import free_body
from hmrkit.data.scenes import Scenes
from hmrkit.infer import exports
from hmrkit.infer.scenes import predict_scene
from hmrkit.types import Body, Prediction

SIDE, FOCAL = 112, 100.0


class FoundPeople(torch.nn.Module):
    """Three people in every image, near and far; cameras as a network of whole images has them."""

    device = torch.device("cpu")
    net = torch.nn.Identity()
    scores = (0.3, 0.9, 0.6)

    def __init__(self):
        super().__init__()
        self.body = free_body()

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return batch

    def predict(self, batch):
        height, width = batch["input_size"][0].tolist()
        assert tuple(batch["image"].shape[-2:]) == (-(-height // 56) * 56, -(-width // 56) * 56)
        mean = self.body.mean_body(3)
        camera = torch.diag(torch.tensor([2 * FOCAL / width, 2 * FOCAL / height, 1.0]))
        return Prediction(
            body=Body(mean.global_orient, mean.body_pose, mean.betas, torch.zeros(3, 3)),
            transl_cam=torch.tensor([[0.2, 0.3, 3.0], [-1.0, 0.1, 5.0], [1.0, 0.0, 9.0]]),
            intrinsics_crop=camera.expand(3, 3, 3),
            score=torch.tensor(self.scores),
            image_of_person=torch.zeros(3, dtype=torch.int64),
        )


def picture(height=90, width=160):
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)


def people_of(scores, **options):
    cut = Scenes(SIDE, size_divisor=56)
    return predict_scene(FoundPeople(), cut, picture(), scores, **options)[0]


def test_everybody_above_the_score_comes_out_the_most_certain_first():
    (some,) = people_of([0.5])
    np.testing.assert_allclose(some["transl_own_cam"][:, 2], [5, 9])
    named = {"image", "method", "checkpoint"}
    assert some.keys() | named == exports.PEOPLE_SCHEMA.keys()
    everybody, nobody = people_of([0.1, 0.95])
    assert len(everybody["pose"]) == 3
    assert len(nobody["pose"]) == 0
    assert np.array_equal(nobody["intrinsics_img"], everybody["intrinsics_img"])


def test_people_stand_before_one_camera_of_the_picture():
    (people,) = people_of([0.5])
    camera = people["intrinsics_img"]
    assert camera[0, 0] == pytest.approx(FOCAL * 160 / SIDE, rel=0.02)
    rays = people["vertices_cam"] @ camera.T
    pixels = rays[..., :2] / rays[..., 2:]
    boxes = np.concatenate([pixels.min(axis=1), pixels.max(axis=1)], axis=1)
    np.testing.assert_allclose(people["box_img"], boxes, atol=1e-3)
    assert people["camera_shift_px"].max() < 0.01


def test_a_known_focal_length_moves_people_and_leaves_the_picture_as_it_is():
    (own,), (known,) = people_of([0.5]), people_of([0.5], focal_px=300.0)
    factor = 300 / own["intrinsics_img"][1, 1]
    pelvis = 0  # joint of smpl24
    np.testing.assert_allclose(
        known["joints_cam"][:, pelvis, 2], factor * own["joints_cam"][:, pelvis, 2], rtol=1e-4
    )
    shift = known["keypoints_img"][:, pelvis] - own["keypoints_img"][:, pelvis]
    assert np.abs(shift).max() < 0.5


def test_maps_of_a_method_that_has_none_are_refused():
    with pytest.raises(ValueError, match="formats: maps: Identity has none"):
        people_of([0.5], with_maps=True)
