import copy

import cv2
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from hmrkit.body import joints
from hmrkit.data.augment import Augment, AugmentParams
from hmrkit.data.crops import Crops, halve, warp
from hmrkit.geometry.boxes import crop_affine
from made_records import DOT_PX, dot_color, make_record, projected_crop, same

TURNED = AugmentParams(scale=1.1, rotation_deg=35, is_flipped=True, shift=(0.05, -0.1))


@pytest.mark.parametrize("params", [AugmentParams(), AugmentParams(rotation_deg=-50), TURNED])
@pytest.mark.parametrize("with_antialias", [True, False])
@pytest.mark.parametrize("input_size", [(256, 192), (96, 96)])
def test_every_joint_stays_on_its_pixels(params, with_antialias, input_size):
    """A flip exchanges names, so the dot of a joint then has the colour of its mirror image."""
    record = make_record(4, size_hw=(720, 960))
    cut = Crops(input_size, with_antialias=with_antialias).cut(record, 0, params)
    mirrored = joints.flip_permutation("smpl24")
    height, width = input_size
    px = (cut["keypoints_crop"][0, :, :2] + 1) / 2 * [width, height]
    zoom = height / (2 * np.linalg.norm(cut["crop_to_img"][0, :, 1]))
    num_seen = 0
    for k, (x, y) in enumerate(px):
        others = np.delete(px, k, axis=0)
        is_free = np.linalg.norm(others - px[k], axis=1).min() > 2 * DOT_PX * zoom
        if is_free and 4 < x < width - 4 and 4 < y < height - 4:
            wanted = dot_color(mirrored[k] if params.is_flipped else k)
            pixel = cut["input_image"][0, round(y), round(x)].astype(int)
            assert np.abs(pixel - wanted).max() < 45, k
            num_seen += 1
    assert num_seen > 8


def test_a_cut_has_the_shapes_and_types_of_a_sample():
    cut = Crops((128, 96)).cut(make_record(num_persons=3), 1, TURNED)
    shapes = {
        name: (value.shape, value.dtype) for name, value in cut.items() if hasattr(value, "shape")
    }
    assert shapes["input_image"] == ((1, 128, 96, 3), np.uint8)
    assert shapes["crop_to_img"] == ((1, 2, 3), np.float32)
    assert shapes["keypoints_crop"] == ((1, 24, 3), np.float32)
    assert shapes["keypoints_world"] == ((1, 24, 4), np.float32)
    assert shapes["pose"] == ((1, 24, 3), np.float32)
    assert shapes["world_to_camera"] == ((1, 4, 4), np.float32)
    assert shapes["has_pose"] == ((1,), bool)
    assert cut["input_size"].tolist() == [[128, 96]]
    assert cut["full_size"].tolist() == [[360, 480]]
    assert cut["image_of_view"].tolist() == cut["person_of_view"].tolist() == [0]


def test_the_world_of_a_crop_is_its_camera():
    rig = make_record(2, num_persons=2, num_cameras=3)
    view = 3  # person 1 in image 1
    cut = Crops((128, 128)).cut(rig, view, AugmentParams())
    camera = rig["world_to_camera"][1].astype(np.float64)
    wanted = rig["keypoints_world"][1, :, :3] @ camera[:3, :3].T + camera[:3, 3]
    np.testing.assert_allclose(cut["keypoints_world"][0, :, :3], wanted, atol=1e-5)
    np.testing.assert_allclose(cut["world_to_camera"][0], np.eye(4), atol=1e-6)
    np.testing.assert_allclose(projected_crop(cut, 0), cut["keypoints_crop"][0, :, :2], atol=2e-4)


def test_without_a_generator_nothing_is_drawn():
    record = make_record()
    plain = Crops((64, 64))(record, 0)
    assert same(Crops((64, 64), augment=Augment())(record, 0, None), plain)
    assert same(Crops((64, 64))(record, 0, np.random.default_rng(0)), plain)


def test_a_draw_is_repeated_by_its_generator():
    record, crops = make_record(), Crops((64, 64), augment=Augment())
    first, again, other = (crops(record, 0, np.random.default_rng(s)) for s in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)


def test_the_input_is_never_written_to():
    record = make_record(num_persons=2, source="small")
    before = copy.deepcopy(record)
    crops = Crops((64, 64), augment=Augment(), half_resolution_sources=("small",))
    for seed in range(10):
        crops(record, 1, np.random.default_rng(seed))
    assert same(record, before)


def test_the_box_comes_from_the_asked_joints():
    record = make_record()
    record["keypoints_img"][0, :12, 2] = 0  # legs and spine are not labelled
    stored = Crops((64, 64)).cut(record, 0, AugmentParams())
    labelled = Crops((64, 64), box_joints="smpl24").cut(record, 0, AugmentParams())
    np.testing.assert_array_equal(stored["box_img"], record["box_img"])
    points = record["keypoints_img"][0, 12:, :2]
    np.testing.assert_allclose(
        labelled["box_img"][0], [*points.min(axis=0), *points.max(axis=0)], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("fit_aspect_hw", "side"), [(None, 120.0), ((4, 3), 1.2 * 100 * 4 / 3), ((1, 1), 120.0)]
)
def test_the_crop_is_the_widened_box_times_its_margin(fit_aspect_hw, side):
    record = make_record()
    record["box_img"][0] = [100, 100, 200, 150]
    cut = Crops((64, 64), box_scale=1.2, fit_aspect_hw=fit_aspect_hw).cut(
        record, 0, AugmentParams()
    )
    np.testing.assert_allclose(2 * cut["crop_to_img"][0, 1, 1], side, rtol=1e-6)
    np.testing.assert_allclose(cut["crop_to_img"][0, :, 2], [150, 125], rtol=1e-6)


def test_one_view_is_needed_or_named():
    with pytest.raises(ValueError, match="record 'record' has 2 views"):
        Crops((64, 64))(make_record(num_persons=2))


@pytest.mark.parametrize(
    ("box", "problem"),
    [
        ([600, 10, 700, 50], "outside its image of 480 x 360 px"),
        ([10, -90, 50, -20], "outside its image"),
        ([10, 10, 10, 50], "x1 < x2"),
        ([np.nan, 10, 20, 50], "x1 < x2"),
    ],
)
def test_an_unusable_box_names_the_record(box, problem):
    record = make_record(key="frame-7", source="mine")
    record["box_img"][0] = box
    with pytest.raises(ValueError, match=f"record 'frame-7' of source 'mine', view 0.*{problem}"):
        Crops((64, 64)).cut(record, 0, AugmentParams())


def test_half_resolution_halves_pixels_and_labels():
    record = make_record(size_hw=(361, 480), source="3dpw")
    half = halve(record)
    assert half["images"][0].shape == (180, 240, 3)
    np.testing.assert_array_equal(
        half["keypoints_img"][..., :2], record["keypoints_img"][..., :2] / 2
    )
    np.testing.assert_array_equal(half["keypoints_img"][..., 2], record["keypoints_img"][..., 2])
    cut = Crops((64, 64), half_resolution_sources=("3dpw",)).cut(record, 0, TURNED)
    full = Crops((64, 64)).cut(record, 0, TURNED)
    np.testing.assert_allclose(cut["crop_to_img"], full["crop_to_img"] / 2, rtol=1e-5)
    np.testing.assert_allclose(cut["keypoints_crop"], full["keypoints_crop"], atol=1e-5)
    np.testing.assert_allclose(projected_crop(cut, 0), cut["keypoints_crop"][0, :, :2], atol=2e-4)
    assert cut["full_size"].tolist() == [[180, 240]]


@pytest.mark.parametrize("side_px", [150.0, 256.0, 390.0, 540.0, 700.0, 980.0])
def test_antialiasing_is_nearer_to_a_supersampled_crop(side_px):
    rng = np.random.default_rng(0)
    noise = cv2.GaussianBlur(rng.integers(0, 256, (1000, 1000, 3), dtype=np.uint8), (0, 0), 1.0)
    image = cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX)
    size, factor = (128, 128), 8
    affine = crop_affine((500, 480), side_px, size, rotation_deg=20)
    fine = affine * factor
    fine[:, 2] += (factor - 1) / 2
    large = cv2.warpAffine(image, fine, (size[1] * factor, size[0] * factor))
    wanted = cv2.resize(large, size[::-1], interpolation=cv2.INTER_AREA).astype(float)

    def error(with_antialias: bool) -> float:
        return np.abs(warp(image, affine, size, with_antialias) - wanted)[4:-4, 4:-4].mean()

    if side_px / size[0] < 1.4:  # the blur would be the identity
        assert error(True) == error(False)
    else:
        assert error(True) < 0.75 * error(False)


@pytest.mark.parametrize("side_px", [200.0, 333.0, 611.0, 900.0])
@pytest.mark.parametrize("center", [(500.0, 500.0), (130.3, 901.7)])
def test_antialiasing_moves_nothing(side_px, center):
    image = np.zeros((1000, 1000, 3), np.uint8)
    cv2.circle(
        image,
        (round(center[0] * 16), round(center[1] * 16)),
        60 * 16,
        (255,) * 3,
        -1,
        cv2.LINE_AA,
        4,
    )
    affine = crop_affine(np.add(center, (20, -10)), side_px, (128, 128), rotation_deg=15)
    wanted = affine @ [*(np.round(np.array(center) * 16) / 16), 1]
    crop = warp(image, affine, (128, 128), with_antialias=True)[..., 0].astype(float)
    y, x = np.mgrid[:128, :128]
    found = np.array([(crop * x).sum(), (crop * y).sum()]) / crop.sum()
    np.testing.assert_allclose(found, wanted, atol=0.06)


def test_a_crop_over_the_edge_is_black_there():
    image = np.full((100, 100, 3), 255, np.uint8)
    for with_antialias in (True, False):
        crop = warp(image, crop_affine((0, 0), 400, (64, 64)), (64, 64), with_antialias)
        assert not crop[:30].any()
        assert not crop[:, :30].any()
        assert (crop[34:46, 34:46] == 255).all()


@pytest.mark.parametrize("rotation_deg", [0, 30])
@pytest.mark.parametrize("side_px", [100.0, 140.0, 260.0, 500.0])
def test_the_gaussian_filter_is_that_of_the_demos_of_4d_humans(side_px, rotation_deg):
    """Whole image smoothed in float, sigma (d - 1) / 2 if d = side / input / 2 is above 1.1."""
    image = np.random.default_rng(0).integers(0, 256, (300, 200, 3), np.uint8)
    affine = crop_affine((110, 170), side_px, (64, 64), rotation_deg)
    sigma = (side_px / 64 / 2 - 1) / 2
    if side_px / 64 / 2 > 1.1:
        image_float = image.astype(np.float64)
        smooth = gaussian_filter(image_float, (sigma, sigma, 0), mode="nearest")
    else:
        smooth = image
    wanted = cv2.warpAffine(smooth, affine, (64, 64))
    crop = warp(image, affine, (64, 64), with_antialias=True, antialias_filter="gaussian")
    np.testing.assert_allclose(crop, wanted, atol=1)
    assert np.abs(crop - wanted).mean() < 0.35


def test_an_unknown_filter_is_refused():
    with pytest.raises(ValueError, match="antialias_filter='box': choose area or gaussian"):
        Crops((64, 64), antialias_filter="box")
