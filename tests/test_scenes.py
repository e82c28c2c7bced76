import cv2
import numpy as np
import pytest

from hmrkit.data.augment import Augment, AugmentParams
from hmrkit.data.collate import collate
from hmrkit.data.scenes import Scenes
from made_records import make_record, projected_crop, same


def test_a_plain_scene_is_a_resized_padded_image():
    record = make_record(num_persons=2, size_hw=(300, 480))
    cut = Scenes(long_side_px=240, size_divisor=56, with_antialias=False)(record)
    assert cut["input_image"].shape == (1, 168, 280, 3)
    assert cut["input_size"].tolist() == [[150, 240]]
    wanted = cv2.resize(record["images"][0], (240, 150)).astype(int)
    assert np.abs(cut["input_image"][0, :150, :240] - wanted).max() <= 2
    assert not cut["input_image"][0, 150:].any()
    assert not cut["input_image"][0, :, 240:].any()


@pytest.mark.parametrize("params", [AugmentParams(), AugmentParams(1.3, -15, True, (0.1, 0.0))])
def test_everybody_projects_onto_their_joints(params):
    record = make_record(7, num_persons=4)
    cut = Scenes(long_side_px=224).cut(record, params)
    assert cut["crop_to_img"].shape == (4, 2, 3)
    for view in range(4):
        np.testing.assert_allclose(
            projected_crop(cut, view), cut["keypoints_crop"][view, :, :2], atol=2e-4
        )


def test_pictures_and_labels_move_together():
    record = make_record(1, num_persons=1, size_hw=(480, 640))
    cut = Scenes(long_side_px=640).cut(record, AugmentParams(0.8, 12, True, (0.02, -0.05)))
    height, width = cut["input_size"][0]
    px = (cut["keypoints_crop"][0, :, :2] + 1) / 2 * [width, height]
    inside = ((px > 4) & (px < [width - 4, height - 4])).all(axis=1)
    colors = [cut["input_image"][0, round(y), round(x)].max() for x, y in px[inside]]
    assert inside.sum() > 8
    assert min(colors) > 90  # dots, not background


def test_scenes_of_different_shapes_share_a_batch():
    cuts = [
        Scenes(long_side_px=112, size_divisor=28)(make_record(i, i + 1, size_hw=size))
        for i, size in enumerate([(200, 300), (300, 200)])
    ]
    batch = collate(cuts)
    assert batch["image"].shape == (2, 3, 112, 112)
    assert batch["input_size"].tolist() == [[75, 112], [112, 75]]
    assert batch["image_of_view"].tolist() == [0, 1, 1]
    assert batch["person_of_view"].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(  # crop units do not depend on the padding of the batch
        batch["keypoints_crop"][1:, :24], np.concatenate([cuts[1]["keypoints_crop"]])
    )


def test_augmentation_needs_a_generator():
    record, scenes = make_record(), Scenes(112, augment=Augment())
    assert same(scenes(record), Scenes(112)(record))
    assert not same(scenes(record, None, np.random.default_rng(0)), Scenes(112)(record))


def test_what_is_no_scene_is_refused():
    with pytest.raises(ValueError, match="'record' has 3 images"):
        Scenes(112)(make_record(num_cameras=3))
    with pytest.raises(ValueError, match="extreme_crop_probability=0"):
        Scenes(112, augment=Augment(extreme_crop_probability=0.1))
