import cv2
import numpy as np
import pytest

from hmrkit.geometry import boxes


def test_the_box_is_tight_around_the_confident_keypoints():
    keypoints = np.array([[10, 20, 1], [40, 90, 0.2], [500, 500, 0], [np.nan, 3, 1]], np.float32)
    assert boxes.keypoints_to_box(keypoints).tolist() == [10, 20, 40, 90]


def test_a_box_around_nothing_is_refused():
    with pytest.raises(ValueError, match="none of the 3 keypoints"):
        boxes.keypoints_to_box(np.zeros((3, 3), np.float32))


@pytest.mark.parametrize(
    ("box", "side_px"), [([0, 0, 30, 100], 120.0), ([0, 0, 90, 100], 1.2 * 90 * 4 / 3)]
)
def test_the_crop_holds_the_box_whatever_its_shape(box, side_px):
    center, side = boxes.box_to_center_side(np.array(box, np.float32), 4 / 3, 1.2)
    assert center.tolist() == [box[2] / 2, box[3] / 2]
    assert side == pytest.approx(side_px)


@pytest.mark.parametrize("box", [[5, 5, 5, 9], [9, 5, 5, 9], [0, 0, np.nan, 9], [0, 0, np.inf, 9]])
def test_a_box_without_area_is_refused(box):
    with pytest.raises(ValueError, match="is not x1, y1, x2, y2"):
        boxes.box_to_center_side(np.array(box), 1.0, 1.2)


def apply(matrix, point):
    return matrix[:, :2] @ np.asarray(point, float) + matrix[:, 2]


def test_the_centre_lands_in_the_middle_and_the_side_fills_the_height():
    matrix = boxes.crop_affine([120, 90], 200.0, (256, 192))
    assert apply(matrix, [120, 90]).tolist() == [96, 128]
    assert apply(matrix, [120, 90 - 100])[1] == pytest.approx(0)
    assert apply(matrix, [120 + 75, 90])[0] == pytest.approx(192)


def test_a_positive_rotation_turns_the_content_counter_clockwise_on_the_screen():
    matrix = boxes.crop_affine([50, 50], 100.0, (100, 100), rotation_deg=90.0)
    assert apply(matrix, [60, 50]) == pytest.approx([50, 40])


def test_flip_equals_cropping_the_mirrored_image():
    image = np.random.default_rng(0).integers(0, 255, (80, 101, 3)).astype(np.uint8)
    center, side = np.array([40.25, 33.0]), 60.0
    ours = boxes.crop_affine(center, side, (64, 48), rotation_deg=20.0, flip=True)
    mirrored_center = [image.shape[1] - 1 - center[0], center[1]]
    theirs = boxes.crop_affine(mirrored_center, side, (64, 48), rotation_deg=20.0)
    crop = cv2.warpAffine(image, ours, (48, 64))
    expected = cv2.warpAffine(np.ascontiguousarray(image[:, ::-1]), theirs, (48, 64))
    difference = np.abs(crop.astype(int) - expected)
    assert difference.mean() < 0.5  # OpenCV rounds sample positions to 1/32 px
    assert np.linalg.det(ours[:, :2]) < 0


def test_the_inverse_undoes_the_map_for_any_batch():
    matrices = np.stack(
        [boxes.crop_affine([3, 4], 50.0, (64, 48), angle, flip=angle > 0) for angle in (0.0, 30.0)]
    )
    inverse = boxes.invert_affine(matrices)
    for matrix, back in zip(matrices, inverse, strict=True):
        assert apply(back, apply(matrix, [7.5, -2.0])) == pytest.approx([7.5, -2.0])
