import numpy as np
import pytest

from hmrkit.data.erase import Erase, Rectangle, paint

SIZE_HW = (400, 600)


def person(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """(1, 3, 3) a person of two joints in opposite corners, and one without a label."""
    return np.array([[[left, top, 1], [right, bottom, 1], [np.nan, np.nan, 0]]])


def test_rectangles_follow_the_recipe():
    rng = np.random.default_rng(0)
    keypoints = person(200, 100, 300, 300)  # with a margin of 20 %: 120 x 240 px
    drawn = [Erase().draw(rng, keypoints, SIZE_HW) for _ in range(3000)]
    assert abs(np.mean([len(one) for one in drawn]) - 0.6) < 0.03
    rectangles = [one[0] for one in drawn if one]
    sizes = np.array([one.pixels.shape[:2] for one in rectangles])
    area = sizes.prod(axis=1) / (120 * 240)
    assert area.max() <= 0.3
    assert abs(area.mean() - 0.15) < 0.01
    large = sizes.min(axis=1) > 20  # whole px change the shape of small ones
    aspect = sizes[large, 0] / sizes[large, 1]
    assert aspect.min() > 0.45
    assert aspect.max() < 2.2
    fits = sizes[:, 1] < 119
    corners = np.array([(one.left, one.top) for one in rectangles])
    assert (corners[fits] >= [190, 80]).all()
    assert (corners[fits] + sizes[fits][:, ::-1] <= [310, 320]).all()
    assert np.concatenate([one.pixels.ravel() for one in rectangles[:50]]).std() > 60  # noise


def test_nothing_is_painted_outside_the_image():
    rng = np.random.default_rng(1)
    erase = Erase(probability=1.0)
    for keypoints in (person(-300, -200, 80, 100), person(500, 300, 900, 900)):
        for _ in range(200):
            for one in erase.draw(rng, keypoints, SIZE_HW):
                assert one.left >= 0
                assert one.top >= 0
                assert one.left + one.pixels.shape[1] <= SIZE_HW[1]
                assert one.top + one.pixels.shape[0] <= SIZE_HW[0]


def test_one_rectangle_per_person_at_most():
    keypoints = np.concatenate([person(50, 50, 150, 350), person(300, 50, 400, 350)])
    drawn = Erase(probability=1.0).draw(np.random.default_rng(2), keypoints, SIZE_HW)
    assert len(drawn) == 2
    assert drawn[0].left < 200 < drawn[1].left
    assert Erase(probability=0.0).draw(np.random.default_rng(2), keypoints, SIZE_HW) == ()
    assert Erase().draw(np.random.default_rng(2), keypoints[:0], SIZE_HW) == ()
    keypoints[0, :, 2] = 0  # unlabelled
    drawn = Erase(probability=1.0).draw(np.random.default_rng(2), keypoints, SIZE_HW)
    assert len(drawn) == 1


def test_painting_leaves_the_input_alone_and_is_clipped():
    image = np.zeros((20, 30, 3), np.uint8)
    white = Rectangle(25, 15, np.full((10, 10, 3), 255, np.uint8))
    painted = paint(image, [white])
    assert painted[15:, 25:].min() == 255
    assert painted.sum() == 5 * 5 * 3 * 255
    assert not image.any()
    assert paint(image, ()) is image


@pytest.mark.parametrize("seed", [0, 1])
def test_equal_generators_paint_equally(seed):
    keypoints = person(50, 50, 150, 350)
    first, second = (
        Erase(probability=1.0).draw(np.random.default_rng(seed), keypoints, SIZE_HW)[0]
        for _ in range(2)
    )
    assert (first.left, first.top) == (second.left, second.top)
    np.testing.assert_array_equal(first.pixels, second.pixels)
