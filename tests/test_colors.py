import numpy as np
import pytest
from PIL import Image, ImageEnhance

from hmrkit.data.colors import gain, jitter

PILLOW = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "saturation": ImageEnhance.Color,
}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("factors", [(1.13, 0.88, 1.17), (0.8, 1.2, 0.83), (1.2, 1.2, 1.1934567)])
def test_jitter_is_that_of_torchvision_on_pillow_images(order, factors):
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    image[60:] = 0  # padding counts for the contrast, and turns grey
    names = list(PILLOW)
    steps = [(names[i], factors[i]) for i in order]
    wanted = Image.fromarray(image)
    for name, factor in steps:
        wanted = PILLOW[name](wanted).enhance(factor)
    jittered = jitter(image, steps)
    np.testing.assert_array_equal(jittered, np.asarray(wanted))
    assert (jittered[60:].max() > 0) == (factors[1] < 1)


def test_saturation_by_a_round_factor_is_at_most_a_level_off():
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    wanted = np.asarray(PILLOW["saturation"](Image.fromarray(image)).enhance(1.2))
    error = np.abs(jitter(image, [("saturation", 1.2)]).astype(int) - wanted)
    assert error.max() <= 1
    assert error.mean() < 0.02


def test_no_steps_and_neutral_factors_change_nothing():
    image = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    np.testing.assert_array_equal(jitter(image, ()), image)
    for name in PILLOW:
        np.testing.assert_array_equal(jitter(image, [(name, 1.0)]), image)
    np.testing.assert_array_equal(gain(image, (1.0, 1.0, 1.0)), image)


def test_unknown_steps_are_refused():
    with pytest.raises(ValueError, match="no colour step 'hue'; there are brightness"):
        jitter(np.zeros((4, 4, 3), np.uint8), [("hue", 0.1)])
