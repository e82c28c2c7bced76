import numpy as np
import pytest

from hmrkit.data.augment import Augment
from hmrkit.data.collate import collate
from hmrkit.data.crops import Crops
from hmrkit.data.multiview import MultiView
from made_records import make_record, projected_crop

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


def test_wrong_numbers_of_views_are_refused():
    with pytest.raises(ValueError, match="num_views=0"):
        MultiView(Crops((64, 64)), num_views=0)
    rig = make_record(num_cameras=2)
    for name in VIEW_FIELDS:
        rig[name] = rig[name][:0]
    with pytest.raises(ValueError, match="'record' has no view"):
        MultiView(Crops((64, 64)))(rig)
