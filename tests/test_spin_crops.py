"""SPIN's crops: whole pixels, Pillow's resize, turned before mirrored, truncated joints."""

import numpy as np
import pytest
from hydra.utils import instantiate
from PIL import Image
from scipy import ndimage

from hmrkit.body import joints
from hmrkit.configs import load_config
from hmrkit.data.augment import AugmentParams
from hmrkit.data.record import complete_sample
from hmrkit.data.sources.official import center_size_to_box
from hmrkit.data.spin_crops import SpinCrops

MARGIN = 1.2


@pytest.fixture(scope="module")
def image():
    coarse = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((240, 180), Image.Resampling.BICUBIC))


def make_sample(image, center, side_px, keypoints=None):
    """A record with one person whose stored box is SPIN's."""
    sample = {
        "key": "one",
        "images": [image],
        "image_of_view": np.zeros(1, np.int64),
        "person_of_view": np.zeros(1, np.int64),
        "box_img": center_size_to_box(np.array(center), np.array(side_px), MARGIN)[None],
    }
    if keypoints is not None:
        sample["keypoints_img"] = np.float32(keypoints)[None]
    return complete_sample(sample, "spin24")


def cut(image, center, side_px, size, **params):
    sample = make_sample(image, center, side_px)
    return SpinCrops([size, size]).cut(sample, 0, AugmentParams(**params))["input_image"][0]


def test_a_region_of_whole_pixels_at_its_own_size_is_the_image_itself(image):
    crop = cut(image, (100, 80), 64, size=64)
    np.testing.assert_array_equal(crop, image[48:112, 68:132])


def test_corners_are_truncated_to_whole_pixels(image):
    crop = cut(image, (100.7, 80.6), 64, size=64)  # 68.7 .. 132.7, 48.6 .. 112.6
    np.testing.assert_array_equal(crop, image[48:112, 68:132])


def test_the_resize_is_that_of_pillow(image):
    crop = cut(image, (100, 80), 100, size=48)
    region = Image.fromarray(image[30:130, 50:150])
    np.testing.assert_array_equal(crop, region.resize((48, 48), Image.Resampling.BICUBIC))


def test_what_lies_outside_the_image_is_black(image):
    crop = cut(image, (10, 170), 64, size=64)  # -22 .. 42, 138 .. 202
    assert not crop[:, :22].any()
    assert not crop[42:].any()
    np.testing.assert_array_equal(crop[:42, 22:], image[138:180, :42])


@pytest.mark.parametrize("center", [(100, 80), (30, 20)])  # inside, and beyond the border
def test_a_quarter_turn_moves_pixels_counter_clockwise(image, center):
    turned = cut(image, center, 64, size=64, rotation_deg=90.0).astype(int)
    np.testing.assert_allclose(turned, np.rot90(cut(image, center, 64, size=64)), atol=1)


def test_a_turn_is_bilinear_about_the_middle_and_truncated(image):
    turned = cut(image, (100, 80), 64, size=64, rotation_deg=33.0)
    angle = np.deg2rad(33.0)
    y, x = np.mgrid[:64, :64] - 31.5
    rows = np.cos(angle) * y + np.sin(angle) * x + 48 + 31.5
    columns = np.cos(angle) * x - np.sin(angle) * y + 68 + 31.5
    wanted = np.stack(
        [
            ndimage.map_coordinates(image[..., c].astype(float), [rows, columns], order=1)
            for c in range(3)
        ],
        axis=-1,
    )
    np.testing.assert_allclose(turned, np.floor(wanted + 1e-6), atol=1)
    assert (turned == np.floor(wanted + 1e-6)).mean() > 0.99


def test_a_turned_uniform_image_keeps_its_level():
    uniform = np.full((200, 200, 3), (3, 100, 254), np.uint8)
    crop = cut(uniform, (100, 100), 64, size=64, rotation_deg=-17.3)
    assert (crop == uniform[0, 0]).all()


def test_a_mirrored_turn_is_the_mirror_image_of_the_opposite_turn(image):
    turned = cut(image, (100, 80), 90, size=64, rotation_deg=20.0)
    mirrored = cut(image, (100, 80), 90, size=64, rotation_deg=-20.0, is_flipped=True)
    np.testing.assert_array_equal(mirrored, turned[:, ::-1])


@pytest.mark.parametrize("rotation_deg", [0.0, 25.0])
@pytest.mark.parametrize("is_flipped", [False, True])
def test_joints_are_whole_pixels_within_one_of_where_the_exact_map_takes_them(
    image, rotation_deg, is_flipped
):
    rng = np.random.default_rng(3)
    points = np.column_stack([rng.uniform(80, 120, 24), rng.uniform(60, 100, 24), np.ones(24)])
    points[5] = np.nan, np.nan, 0
    sample = make_sample(image, (100, 80), 90, points)
    params = AugmentParams(rotation_deg=rotation_deg, is_flipped=is_flipped)
    done = SpinCrops([224, 224]).cut(sample, 0, params)
    px = (done["keypoints_crop"][0, :, :2] + 1) * 112
    order = joints.flip_permutation("spin24") if is_flipped else np.arange(24)
    assert np.isnan(px[order == 5]).all()
    px, order = px[order != 5], order[order != 5]
    np.testing.assert_allclose(px, np.round(px), atol=1e-4)
    linear, shift = done["crop_to_img"][0, :, :2], done["crop_to_img"][0, :, 2]
    exact_px = ((points[order, :2] - shift) @ np.linalg.inv(linear).T + 1) * 112
    assert np.abs(px - exact_px).max() <= 1 + 1e-3
    assert np.abs(px - exact_px).max() > 0.1


def spin_corners(x, y, scale):
    """SPIN's formula with its roundings, on the numbers of the annotation, for an input of 64."""
    h = 200 * scale
    to_crop = np.eye(3)
    to_crop[0, 0] = to_crop[1, 1] = 64 / h
    to_crop[:2, 2] = 64 * (-x / h + 0.5), 64 * (-y / h + 0.5)
    inverse = np.linalg.inv(to_crop)
    return [(inverse @ [end, end, 1.0])[:2].astype(int) for end in (0.0, 64.0)]


def test_the_float32_noise_of_a_box_does_not_move_a_crop():
    """Corners that lie on a whole pixel are where the noise would show."""
    columns = np.arange(1500) % 251
    ramp = np.broadcast_to(columns.astype(np.uint8)[None, :, None], (180, 1500, 3))
    crops, num_moved = SpinCrops([64, 64]), 0
    for x in np.arange(100.1, 1300, 37.3).round(1):
        side_px = round(2 * (x - np.floor(x) + 30), 1)  # the left corner is a whole pixel
        sample = make_sample(ramp, (x, 90.1), side_px)
        (left, top), (right, bottom) = spin_corners(x, 90.1, scale=side_px / 200)
        region = Image.fromarray(np.ascontiguousarray(ramp[top:bottom, left:right]))
        wanted = np.asarray(region.resize((64, 64), Image.Resampling.BICUBIC))
        found = crops.cut(sample, 0, AugmentParams())["input_image"][0]
        np.testing.assert_array_equal(found, wanted, err_msg=str(x))
        sample["box_img"] = np.nextafter(sample["box_img"], np.float32(0))
        num_moved += (crops.cut(sample, 0, AugmentParams())["input_image"][0] != wanted).any()
    assert num_moved > 3  # so noise would matter


def test_it_takes_the_options_of_crops_but_only_squares():
    target = "data.cut._target_=hmrkit.data.spin_crops.SpinCrops"
    node = load_config("train", ["model=hmr", "run_dir=run", target]).data.cut
    assert isinstance(instantiate(node), SpinCrops)
    with pytest.raises(ValueError, match=r"input_size=\[256, 192\].*hmrkit.data.crops.Crops"):
        SpinCrops([256, 192])
    with pytest.raises(ValueError, match="with_antialias=False"):
        SpinCrops([224, 224], with_antialias=False)
