import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from hmrkit.body import joints
from hmrkit.data.augment import AugmentParams
from hmrkit.data.collate import collate, normalize_image
from hmrkit.data.crops import Crops
from hmrkit.data.motion import Motion
from hmrkit.data.record import complete_sample
from hmrkit.data.scenes import Scenes
from made_records import make_motion, make_record


def _crop(seed: int = 0, **options) -> dict:
    return Crops((64, 48)).cut(make_record(seed, **options), 0, AugmentParams())


def test_crops_become_one_row_each():
    batch = collate([_crop(i, key=f"k{i}") for i in range(3)])
    assert batch["image"].shape == (3, 3, 64, 48)
    assert batch["image"].dtype == torch.uint8
    assert batch["key"] == ["k0", "k1", "k2"]
    assert batch["source"] == ["made"] * 3
    assert batch["image_of_view"].tolist() == batch["person_of_view"].tolist() == [0, 1, 2]
    assert batch["input_size"].tolist() == [[64, 48]] * 3
    assert batch["keypoints_crop"].shape == (3, len(joints.names("all")), 3)
    for name, value in batch.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            assert value.dtype == torch.float32, name


def test_values_are_those_of_the_samples():
    cuts = [_crop(i) for i in range(3)]
    batch = collate(cuts)
    for i, cut in enumerate(cuts):
        np.testing.assert_array_equal(batch["image"][i].permute(1, 2, 0), cut["input_image"][0])
        rotmats = Rotation.from_rotvec(cut["pose"][0]).as_matrix()
        np.testing.assert_allclose(batch["body"].global_orient[i], rotmats[0], atol=1e-6)
        np.testing.assert_allclose(batch["body"].body_pose[i], rotmats[1:], atol=1e-6)
        for name in ("betas", "transl"):
            np.testing.assert_array_equal(getattr(batch["body"], name)[i], cut[name][0])
        for name in ("intrinsics", "world_to_camera", "box_img", "crop_to_img", "full_size"):
            np.testing.assert_array_equal(batch[name][i], cut[name][0])


@pytest.mark.parametrize("joint_set", ["smpl24", "openpose25", "spin49", "h36m17", "coco17", "all"])
def test_a_joint_set_comes_back_from_the_superset(joint_set):
    rng = np.random.default_rng(0)
    names = joints.names(joint_set)
    sample = complete_sample(
        {**make_motion(0, 2), "keypoints_world": _labels(rng, 2, len(names))}, joint_set
    )
    batch = collate([sample])
    back = batch["keypoints_world"][:, joints.index(names)].numpy()
    np.testing.assert_array_equal(back, sample["keypoints_world"])
    elsewhere = np.setdiff1d(np.arange(len(joints.names("all"))), joints.index(names))
    assert not batch["keypoints_world"][:, elsewhere].any()


def test_different_joint_sets_share_a_batch():
    rng = np.random.default_rng(0)
    samples = [
        complete_sample({**make_motion(0, 1), "keypoints_world": _labels(rng, 1, k)}, joint_set)
        for joint_set, k in (("smpl24", 24), ("h36m17", 17))
    ]
    world = collate(samples)["keypoints_world"]
    assert (world[0, :, 3] > 0).sum() == 24
    assert (world[1, :, 3] > 0).sum() == 17
    np.testing.assert_array_equal(
        world[1, joints.index("h36m_head_top")],
        samples[1]["keypoints_world"][0, joints.index("h36m_head_top", "h36m17")],
    )


def test_absent_labels_are_finite_filler_with_flag_zero():
    cut = _crop()
    cut["pose"][:], cut["betas"][:], cut["transl"][:] = np.nan, np.nan, np.nan
    cut["has_pose"][:] = cut["has_betas"][:] = False
    cut["keypoints_world"][0, 3] = [np.nan, np.nan, np.nan, 0]
    cut["keypoints_crop"][0, 4] = [np.nan, np.nan, 0]
    cut["intrinsics"][:] = np.nan
    batch = collate([cut, _crop()])
    body = batch["body"]
    np.testing.assert_allclose(body.body_pose[0], np.tile(np.eye(3), (23, 1, 1)), atol=1e-6)
    assert not body.betas[0].any()
    assert not body.transl[0].any()
    assert batch["has_pose"].tolist() == batch["has_betas"].tolist() == [False, True]
    assert torch.isfinite(batch["keypoints_world"]).all()
    assert torch.isfinite(batch["keypoints_crop"]).all()
    assert batch["keypoints_world"][0, 3].tolist() == [0, 0, 0, 0]
    assert torch.isnan(batch["intrinsics"][0]).all()  # unknown is NaN in a batch too


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("pose", (0, 5, 1)),
        ("betas", (0, 9)),
        ("keypoints_world", (0, 7, 2)),
        ("keypoints_crop", (0, 7, 0)),
        ("keypoints_crop", (0, 7, 2)),
        ("box_img", (0, 3)),
        ("crop_to_img", (0, 0, 0)),
    ],
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_label_that_claims_to_be_there_and_is_not_finite_names_itself(name, row, value):
    bad = _crop(1, key="bad")
    bad[name][row] = value
    with pytest.raises(ValueError, match=f"record 'bad': {name} is not finite"):
        collate([_crop(0, key="good"), bad])


def test_motion_and_images_do_not_mix():
    with pytest.raises(ValueError, match="motion cannot be mixed with images"):
        collate([_crop(), Motion()(make_motion(0, 2))])


def test_offsets_count_through_mixed_sizes():
    scenes = [Scenes(64)(make_record(i, num_persons=n)) for i, n in enumerate((3, 1, 2))]
    batch = collate(scenes)
    assert batch["image_of_view"].tolist() == [0, 0, 0, 1, 2, 2]
    assert batch["person_of_view"].tolist() == [0, 1, 2, 3, 4, 5]


def test_images_are_normalised_once_and_keep_channels_last():
    batch = collate([_crop(i) for i in range(2)])
    image = normalize_image(batch["image"])
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    torch.testing.assert_close(image, (batch["image"] / 255 - mean) / std)
    assert image.is_contiguous(memory_format=torch.channels_last)
    assert batch["image"].dtype == torch.uint8


def test_a_batch_is_its_own():
    cut = _crop()
    before = cut["pose"].copy(), cut["input_image"].copy()
    batch = collate([cut])
    batch["body"].transl.zero_()
    batch["image"].zero_()
    batch["keypoints_crop"].zero_()
    np.testing.assert_array_equal(cut["pose"], before[0])
    np.testing.assert_array_equal(cut["input_image"], before[1])


def _labels(rng: np.random.Generator, num: int, num_joints: int) -> np.ndarray:
    labels = rng.normal(size=(num, num_joints, 4)).astype(np.float32)
    labels[..., 3] = 1
    return labels
