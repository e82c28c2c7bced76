import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hmrkit.body import joints
from hmrkit.data.augment import Augment, AugmentParams, in_plane_matrix, mirror_matrix, move_world
from hmrkit.data.collate import collate
from hmrkit.data.erase import Erase, Rectangle
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
    with pytest.raises(ValueError, match="geometry='round': choose exact or sathmr"):
        Scenes(112, geometry="round")


# ------------------------------------------------------------------------ the geometry of SAT-HMR


@pytest.mark.parametrize(
    ("full_hw", "valid_hw"),
    [((1440, 1920), (966, 1288)), ((1080, 1920), (724, 1288)), ((1920, 1080), (1288, 724)),
     ((109, 109), (1288, 1287)), ((192, 192), (1288, 1288)), ((480, 640), (966, 1288))],
)  # fmt: skip
def test_sathmr_truncates_the_shorter_side_in_float32(full_hw, valid_hw):
    record = make_record(size_hw=full_hw)
    cut = Scenes(1288, 56, geometry="sathmr").cut(record, AugmentParams())
    assert cut["input_size"].tolist() == [list(valid_hw)]


def test_sathmr_resizes_as_opencv_and_multiplies_labels():
    record = make_record(num_persons=2, size_hw=(300, 480))
    scenes = Scenes(240, 56, with_antialias=False, geometry="sathmr")
    cut = scenes.cut(record, AugmentParams())
    np.testing.assert_array_equal(
        cut["input_image"][0, :150, :240], cv2.resize(record["images"][0], (240, 150))
    )
    px = (cut["keypoints_crop"][..., :2] + 1) / 2 * [240, 150]
    np.testing.assert_allclose(px, record["keypoints_img"][..., :2] / 2, atol=1e-3)


@pytest.mark.parametrize("is_flipped", [False, True])
def test_sathmr_turns_the_resized_image_about_the_pixel_in_its_middle(is_flipped):
    record = make_record(size_hw=(300, 480))
    scenes = Scenes(240, 50, with_antialias=False, geometry="sathmr")
    cut = scenes.cut(record, AugmentParams(0.8, 12, is_flipped))
    image = cv2.resize(record["images"][0], (240, 150))
    image = image[:, ::-1] if is_flipped else image
    turn = cv2.getRotationMatrix2D((120, 75), 12, 1.25)
    wanted = cv2.warpAffine(np.ascontiguousarray(image), turn, (240, 150))
    np.testing.assert_array_equal(cut["input_image"][0, :150, :240], wanted)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    scale=st.floats(0.5, 2), angle=st.floats(-180, 180), is_flipped=st.booleans(),
    x=st.floats(-0.2, 0.2), seed=st.integers(0, 50),
)  # fmt: skip
def test_sathmr_projects_onto_its_labels(scale, angle, is_flipped, x, seed):
    params = AugmentParams(scale, angle, is_flipped, (x, -0.1))
    cut = Scenes(200, geometry="sathmr").cut(make_record(seed, num_persons=2), params)
    for view in range(2):
        np.testing.assert_allclose(
            projected_crop(cut, view), cut["keypoints_crop"][view, :, :2], atol=2e-4
        )


@pytest.mark.parametrize("is_flipped", [False, True])
def test_both_geometries_show_the_same_to_a_pixel(is_flipped):
    record = make_record(2, num_persons=2, size_hw=(480, 640))
    params = AugmentParams(0.9, -10, is_flipped, (0.05, 0.02))
    exact, theirs = (
        Scenes(640, with_antialias=False, geometry=name).cut(record, params)
        for name in ("exact", "sathmr")
    )
    difference = exact["keypoints_crop"][..., :2] - theirs["keypoints_crop"][..., :2]
    assert np.abs(difference * [320, 240]).max() < 1.2
    pixels = exact["input_image"].astype(int) - theirs["input_image"]
    assert np.abs(pixels).mean() < 3


# ------------------------------------------------------------------------------- who is in a scene


def hide(record: dict, person: int, visible: int) -> dict:
    """The record with all but the first joints of a person off the image."""
    keypoints = record["keypoints_img"].copy()
    keypoints[person, visible:, 0] += 10_000
    keypoints[person, :visible, :2] = [100, 100]
    return {**record, "keypoints_img": keypoints}


@pytest.mark.parametrize(("visible", "kept"), [(4, [0, 1, 2]), (3, [0, 2])])
def test_people_with_few_visible_joints_are_left_out(visible, kept):
    record = hide(make_record(7, num_persons=3), 1, visible)
    scenes = Scenes(224, min_visible_joints=4)
    batch = collate([scenes(record)])
    np.testing.assert_allclose(batch["body"].betas, record["betas"][kept])
    assert batch["person_of_view"].tolist() == list(range(len(kept)))
    assert len(batch["keypoints_crop"]) == len(kept) == len(batch["box_img"])
    everybody = collate([Scenes(224)(record)])
    assert len(everybody["has_pose"]) == 3


def test_a_scene_may_have_nobody_in_evaluation():
    record = hide(make_record(), 0, 0)
    batch = collate([Scenes(112, min_visible_joints=4)(record), Scenes(112)(make_record(1))])
    assert batch["image_of_view"].tolist() == [1]
    assert batch["image"].shape[0] == 2


def test_draws_that_leave_nobody_are_repeated():
    """The person stands near the left edge: most draws of this kind lose them."""
    record = make_record(3, size_hw=(300, 480))
    record["keypoints_img"][0, :, :2] = [20, 150]
    augment = Augment(rotation_probability=0, zoom=(2.0, 2.0), flip_probability=0,
                      shift_std=0.3, shift_max=0.45)  # fmt: skip
    wild, careful = (Scenes(240, min_visible_joints=n, augment=augment) for n in (0, 4))
    is_seen = {
        scenes: [
            len(cut["keypoints_crop"]) == 1 and np.abs(cut["keypoints_crop"][..., :2]).max() <= 1
            for cut in (scenes(record, None, np.random.default_rng(i)) for i in range(40))
        ]
        for scenes in (wild, careful)
    }
    assert np.mean(is_seen[wild]) < 0.5
    assert np.mean(is_seen[careful]) == 1.0  # if no draw does, the image is taken as it is


def test_hands_alone_are_no_person():
    record = make_record(3, num_persons=2)
    keypoints = record["keypoints_img"]
    hands = [i for i, n in enumerate(joints.names("smpl24")) if n.endswith("_hand")]
    keypoints[0, :, 0] += 10_000
    keypoints[0, hands, :2] = [100, 100]
    augment = Augment(rotation_probability=0, zoom=(1.5, 1.5), flip_probability=1)
    scenes = Scenes(112, min_visible_joints=2, augment=augment)
    cut = scenes(record, None, np.random.default_rng(0))
    np.testing.assert_array_equal(cut["input_image"], Scenes(112)(record)["input_image"])


def test_joints_that_do_not_count_are_named():
    record = make_record()
    record["joint_set"], record["keypoints_img"] = "coco17", record["keypoints_img"][:, :17]
    with pytest.raises(
        ValueError, match=r"'coco17' of a source are none of data\.cut\.person_joints"
    ):
        Scenes(112, min_visible_joints=4)(record)


# ------------------------------------------------------------------------------------ what is drawn


def test_angle_and_zoom_are_drawn_evenly():
    augment = Augment(rotation_probability=1, rotation_std_deg=None, rotation_max_deg=15,
                      zoom=(0.8, 1.8), color_jitter=0.2)  # fmt: skip
    draws = [augment.draw(np.random.default_rng(i)) for i in range(2000)]
    angle, zoom = np.array([(d.rotation_deg, 1 / d.scale) for d in draws]).T
    for values, low, high in ((angle, -15, 15), (zoom, 0.8, 1.8)):
        counts, _ = np.histogram(values, bins=5, range=(low, high))
        assert counts.sum() == 2000
        assert np.abs(counts / 2000 - 0.2).max() < 0.03
    orders = {tuple(name for name, _ in d.color_jitter) for d in draws}
    assert len(orders) == 6
    factors = np.array([factor for d in draws for _, factor in d.color_jitter])
    assert factors.min() >= 0.8
    assert factors.max() <= 1.2


def test_colours_reach_the_padding_and_rectangles_do_not():
    record = make_record(size_hw=(300, 480))
    noise = Rectangle(0, 0, np.full((500, 500, 3), 200, np.uint8))
    params = AugmentParams(color_jitter=(("contrast", 0.5),), rectangles=(noise,))
    image = Scenes(240, 56).cut(record, params)["input_image"][0]
    assert len(np.unique(image[:150, :240])) == 1
    assert len(np.unique(image[150:])) == 1  # grey of the contrast
    assert 0 < image[150:].min() < image[:150, :240].min()


def test_people_are_erased_in_training_alone():
    record = make_record(5, num_persons=2)
    scenes = Scenes(224, erase=Erase(probability=1.0, area=(0.2, 0.3)))
    plain = Scenes(224)(record)["input_image"][0].astype(int)
    assert not (scenes(record)["input_image"][0] - plain).any()
    cut = scenes(record, None, np.random.default_rng(0))
    is_changed = (cut["input_image"][0] != plain).any(axis=-1)
    height, width = cut["input_size"][0]
    px = (cut["keypoints_crop"][..., :2] + 1) / 2 * [width, height]
    low, high = px.min(axis=1), px.max(axis=1)
    margin = (high - low) * 0.1
    is_inside = np.zeros_like(is_changed)
    for (x1, y1), (x2, y2) in zip(low - margin - 1, high + margin + 1, strict=True):
        is_inside[max(int(y1), 0) : int(y2), max(int(x1), 0) : int(x2)] = True
    assert is_changed.mean() > 0.01
    assert not (is_changed & ~is_inside).any()


def test_a_small_turn_after_the_mirror_moves_the_translation_a_little():
    """Also for a body whose pelvis is beside the plane of the mirror."""
    record = make_record(4)
    record["keypoints_world"][..., 0] += 0.05  # as if the pelvis at rest were off the plane
    mirrored = move_world(record, mirror_matrix(True))["transl"]
    turned = move_world(record, in_plane_matrix(AugmentParams(1.0, 1e-4, True)))["transl"]
    np.testing.assert_allclose(turned, mirrored, atol=1e-4)
