import numpy as np
import pytest
import torch

from hmrkit.data.augment import Augment
from hmrkit.data.collate import collate, normalize_image
from hmrkit.data.crops import Crops
from hmrkit.data.datamodule import DataModule
from hmrkit.data.multiview import MultiView
from hmrkit.data.width_crops import WidthCrops
from made_records import dot_color, make_record, projected_crop

VIEW_FIELDS = ("image_of_view", "person_of_view", "box_img", "keypoints_img", "visible_fraction")


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_every_view_projects_the_one_world(seed):
    rig = make_record(3, num_persons=2, num_cameras=5)
    cut = MultiView(Crops((96, 96), augment=Augment(shift_std=0.1, shift_max=0.1)))
    sample = cut(rig, None, None if seed is None else np.random.default_rng(seed))
    assert sample["input_image"].shape == (10, 96, 96, 3)
    assert len(sample["keypoints_world"]) == 2
    for view in range(10):
        np.testing.assert_allclose(
            projected_crop(sample, view), sample["keypoints_crop"][view, :, :2], atol=3e-4
        )


def test_a_flip_mirrors_the_world_and_all_views_or_none():
    rig = make_record(3, num_cameras=4)
    cut = MultiView(Crops((96, 96), augment=Augment()))
    signs = set()
    for seed in range(12):
        sample = cut(rig, None, np.random.default_rng(seed))
        views = {bool(np.linalg.det(m[:, :2]) < 0) for m in sample["crop_to_img"]}
        cameras = {bool(np.linalg.det(m[:3, :3]) < 0) for m in sample["world_to_camera"]}
        assert len(views) == 1
        assert views == cameras
        signs |= views
    assert signs == {True, False}


def test_views_come_out_person_by_person_and_may_be_missing():
    rig = make_record(3, num_persons=2, num_cameras=3)
    seen = [0, 1, 2, 3]  # the third camera sees nobody
    for name in VIEW_FIELDS:
        rig[name] = rig[name][seen]
    sample = MultiView(Crops((64, 64)))(rig)
    assert sample["person_of_view"].tolist() == [0, 0, 1, 1]
    for name in VIEW_FIELDS:
        rig[name] = rig[name][:3]  # person 1 is seen by one camera
    sample = MultiView(Crops((64, 64)))(rig)
    assert sample["person_of_view"].tolist() == [0, 0, 1]
    for name in VIEW_FIELDS:
        rig[name] = rig[name][1:2]  # only person 1 is seen
    sample = MultiView(Crops((64, 64)))(rig)
    assert sample["person_of_view"].tolist() == [0]
    np.testing.assert_array_equal(sample["betas"], rig["betas"][1:])


def test_fewer_views_are_the_first_or_drawn():
    rig = make_record(3, num_persons=2, num_cameras=4)
    cut = MultiView(Crops((64, 64)), num_views=2)
    first = cut(rig)
    assert first["person_of_view"].tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(first["intrinsics"], rig["intrinsics"][[0, 1, 0, 1]])
    drawn = {
        tuple(cut(rig, None, np.random.default_rng(s))["intrinsics"][:2, 0, 0]) for s in range(200)
    }
    assert len(drawn) == 12  # all ordered pairs of 4 cameras


def test_rigs_share_a_batch():
    cut = MultiView(Crops((64, 64)))
    rigs = [cut(make_record(i, num_cameras=n, key=f"r{i}")) for i, n in enumerate((2, 4))]
    batch = collate(rigs)
    assert batch["image"].shape == (6, 3, 64, 64)
    assert batch["image_of_view"].tolist() == list(range(6))
    assert batch["person_of_view"].tolist() == [0, 0, 1, 1, 1, 1]
    assert batch["key"] == ["r0"] * 2 + ["r1"] * 4
    assert batch["body"].betas.shape == (2, 10)


def second_crops(augment=None):
    """A cut with two crops per view, the second one larger and as wide as the box."""
    second = WidthCrops((128, 128), box_scale=1.4)
    return MultiView(Crops((96, 96), augment=augment), keypoint_crops=second)


def keypoint_px(sample, view):
    """The labelled joints of a view in px of its second crop."""
    linear, shift = np.split(sample["keypoint_crop_to_img"][view].astype(np.float64), [2], axis=1)
    units = (sample["keypoints_img"][view, :, :2] - shift.T) @ np.linalg.inv(linear).T
    return (units + 1) * 64


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_a_second_crop_shows_the_same_people_under_the_same_draw(seed):
    rig = make_record(3, num_cameras=3)
    augment = Augment(flip_probability=1.0, rotation_probability=1.0, color_gain=(1, 1))
    rng = None if seed is None else np.random.default_rng(seed)
    sample = second_crops(augment)(rig, None, rng)
    assert sample["keypoint_image"].shape == (3, 128, 128, 3)
    found = 0
    for view in range(3):
        first, second = sample["crop_to_img"][view], sample["keypoint_crop_to_img"][view]
        ratio = second[:, :2] @ np.linalg.inv(first[:, :2])
        np.testing.assert_allclose(ratio, ratio[0, 0] * np.eye(2), atol=1e-5)  # turned alike
        points = keypoint_px(sample, view)
        for k, (x, y) in enumerate(points):
            apart = np.linalg.norm(np.delete(points, k, axis=0) - points[k], axis=1).min()
            if 5 < x < 123 and 5 < y < 123 and apart > 12:
                pixel = sample["keypoint_image"][view, round(y), round(x)]
                assert np.abs(pixel.astype(int) - dot_color(k)).max() < 50
                found += 1
    assert found > 9


def test_the_width_alone_decides_how_much_the_second_crop_shows():
    rig = make_record(3, num_cameras=2)
    rig["box_img"][:] = [100, 50, 160, 250], [200, 100, 300, 110]
    sample = second_crops()(rig)
    shown = 2 * sample["keypoint_crop_to_img"][:, 0, 0]  # width in px of the image
    np.testing.assert_allclose(shown, 1.4 * np.array([60, 100]), rtol=1e-5)
    np.testing.assert_allclose(
        sample["keypoint_crop_to_img"][:, :, 2], [[130, 150], [250, 105]], rtol=1e-5
    )
    shown = 2 * sample["crop_to_img"][:, 0, 0]
    np.testing.assert_allclose(shown, 1.2 * np.array([200, 100]), rtol=1e-5)


def test_both_crops_travel_in_a_batch_and_are_normalised():
    cut = second_crops()
    batch = collate([cut(make_record(i, num_cameras=n, key=f"r{i}")) for i, n in ((0, 2), (1, 3))])
    assert batch["keypoint_image"].shape == (5, 3, 128, 128)
    assert batch["keypoint_image"].dtype == torch.uint8
    assert batch["keypoint_crop_to_img"].shape == (5, 2, 3)
    data = DataModule(cut, 1, {}, {}, {"only": {"path": "nowhere"}})
    moved = data.on_after_batch_transfer(batch, 0)
    for name in ("image", "keypoint_image"):
        torch.testing.assert_close(moved[name], normalize_image(batch[name]))


def test_without_a_second_crop_there_is_none():
    batch = collate([MultiView(Crops((64, 64)))(make_record(3, num_cameras=2))])
    assert "keypoint_image" not in batch
    with pytest.raises(ValueError, match=r"keypoint_crops\.augment"):
        MultiView(Crops((64, 64)), keypoint_crops=Crops((64, 64), augment=Augment()))


def test_views_are_shuffled_in_training_alone_without_augmentation():
    rig = make_record(3, num_cameras=4)
    cut = MultiView(Crops((64, 64)))
    stored = rig["intrinsics"][:, 0, 0].tolist()
    assert cut(rig)["intrinsics"][:, 0, 0].tolist() == stored
    orders = set()
    for seed in range(20):
        sample = cut(rig, None, np.random.default_rng(seed))
        order = sample["intrinsics"][:, 0, 0].tolist()
        assert sorted(order) == sorted(stored)
        orders.add(tuple(order))
        for view, focal in enumerate(order):
            same = stored.index(focal)
            np.testing.assert_array_equal(sample["box_img"][view], rig["box_img"][same])
    assert len(orders) > 8


def test_wrong_numbers_of_views_are_refused():
    with pytest.raises(ValueError, match="num_views=0"):
        MultiView(Crops((64, 64)), num_views=0)
    rig = make_record(num_cameras=2)
    for name in VIEW_FIELDS:
        rig[name] = rig[name][:0]
    with pytest.raises(ValueError, match="'record' has no view"):
        MultiView(Crops((64, 64)))(rig)
