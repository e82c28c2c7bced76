"""Images of a record: decoded when asked for, as finely as the cut needs, or reported as bad."""

import cv2
import numpy as np
import pytest

from hmrkit.data import images
from hmrkit.data.augment import AugmentParams
from hmrkit.data.crops import Crops, warp_stored
from hmrkit.data.images import LazyImages, image_size, pick_images
from hmrkit.data.multiview import MultiView
from hmrkit.data.record import BadRecord, encode_image
from hmrkit.data.scenes import Scenes
from hmrkit.data.shards import ShardSet, write_shard
from hmrkit.geometry.boxes import crop_affine
from made_records import make_record, same

CUTS = {
    "crops": lambda sample: Crops((128, 128))(sample, 1),
    "crops at half resolution": lambda sample: Crops((96, 96), half_resolution_sources=["made"])(
        sample, 1
    ),
    "multiview": lambda sample: MultiView(Crops((128, 128)))(sample),
    "scenes": lambda sample: Scenes(400)(sample),
}


@pytest.fixture
def decoded(monkeypatch):
    """Number and reduction of every image that was decoded, in order."""
    calls = []
    decode = images._Stored._decode

    def noted(self, reduction, channels):
        calls.append((self.number, reduction))
        return decode(self, reduction, channels)

    monkeypatch.setattr(images._Stored, "_decode", noted)
    return calls


def stored(tmp_path, sample, image_format="png"):
    write_shard(tmp_path / "a.tar", [sample], sample["joint_set"], image_format)
    return ShardSet(tmp_path)


@pytest.mark.parametrize("name", CUTS)
@pytest.mark.parametrize("image_format", ["png", "jpg"])
def test_cuts_see_the_same_in_lazy_images(tmp_path, name, image_format):
    cameras = 1 if name == "scenes" else 3
    shards = stored(tmp_path, make_record(1, 2, cameras), image_format)
    lazy, eager = (CUTS[name](shards.read(0, is_lazy)) for is_lazy in (True, False))
    del lazy["images"], eager["images"]
    assert same(lazy, eager)


def test_a_view_of_a_rig_decodes_its_image_alone(tmp_path, decoded):
    shards = stored(tmp_path, make_record(1, num_persons=2, num_cameras=4))
    sample = shards.read(0, is_lazy=True)
    assert not decoded
    Crops((64, 64))(sample, 5)  # the second person in the third image
    assert decoded == [(2, 1)]
    Crops((64, 64))(sample, 4)  # the first one there: the same pixels
    assert decoded == [(2, 1)]
    np.testing.assert_array_equal(sample["images"][2], shards.read(0)["images"][2])
    assert {number for number, _ in decoded} == {2}


def test_chosen_views_of_a_rig_decode_their_images_alone(tmp_path, decoded):
    shards = stored(tmp_path, make_record(1, num_cameras=6))
    MultiView(Crops((64, 64)), num_views=2)(shards.read(0, is_lazy=True))
    assert len(decoded) == 2


def test_a_rig_of_several_people_decodes_every_image_once(tmp_path, decoded):
    shards = stored(tmp_path, make_record(1, num_persons=3, num_cameras=2))
    cut = MultiView(Crops((64, 64)), keypoint_crops=Crops((96, 96)))
    cut(shards.read(0, is_lazy=True), None, np.random.default_rng(0))
    assert sorted(decoded) == [(0, 1), (1, 1)]


def test_pixels_of_one_image_at_a_time_are_held(decoded):
    files = [encode_image(np.full((8, 8, 3), 50 * i, np.uint8), "png", 0) for i in range(3)]
    lazy = LazyImages(files, ValueError)
    assert [image[0, 0, 0] for image in lazy] == [0, 50, 100]
    assert sum(bool(stored.decoded) for stored in lazy._images) == 1
    np.testing.assert_array_equal(lazy.pick([2, 0])[1], lazy[0])
    assert [number for number, _ in decoded] == [0, 1, 2, 0]


@pytest.mark.parametrize("image_format", ["jpg", "png"])
def test_sizes_are_read_from_the_header(decoded, image_format):
    image = np.random.default_rng(0).integers(0, 255, (37, 51, 3), np.uint8)
    lazy = LazyImages([encode_image(image, image_format, 90)], ValueError)
    assert image_size(lazy, 0) == image_size([image], 0) == (37, 51)
    assert len(decoded) == (image_format == "png")
    assert lazy.is_reducible(0) == (image_format == "jpg")
    assert len(pick_images(lazy, [0, 0])) == len(lazy[0:1]) + 1 == 2


@pytest.mark.parametrize("size_hw", [(37, 51), (400, 333), (8, 8)])
@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_a_reduced_image_is_the_image_averaged(size_hw, reduction):
    height, width = size_hw
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([128 + 100 * np.sin(x / 40), 128 + 100 * np.cos(y / 30), x + y], axis=-1)
    image = np.clip(smooth, 0, 255).astype(np.uint8)
    lazy = LazyImages([encode_image(image, "jpg", 98)], ValueError)
    reduced = lazy.rgba(0, reduction)[..., :3]
    assert reduced.shape[:2] == (-(-height // reduction), -(-width // reduction))
    whole = height // reduction, width // reduction
    even = image[: whole[0] * reduction, : whole[1] * reduction]
    wanted = cv2.resize(even, whole[::-1], interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(reduced[: whole[0], : whole[1]] - wanted).mean() < 3


@pytest.mark.parametrize("side_px", [200.0, 400.0, 500.0, 770.0, 1600.0])
def test_reducing_while_decoding_moves_nothing_and_leaves_no_alias(side_px):
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (900, 1000, 3), dtype=np.uint8), (0, 0), 2.0)
    image = cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX)
    lazy = LazyImages([encode_image(image, "jpg", 95)], ValueError)
    size, factor = (96, 96), 8
    affine = crop_affine((480.3, 441.8), side_px, size, rotation_deg=20, flip=True)
    fine = affine * factor
    fine[:, 2] += (factor - 1) / 2
    large = cv2.warpAffine(lazy[0], fine, (size[1] * factor, size[0] * factor))
    wanted = cv2.resize(large, size[::-1], interpolation=cv2.INTER_AREA).astype(float)

    def error(stored_images, with_antialias):
        crop = warp_stored(stored_images, 0, affine, size, with_antialias)
        return np.abs(crop - wanted)[4:-4, 4:-4].mean()

    assert error(lazy, True) < 1.3 * error([lazy[0]], True) + 0.3
    if side_px > 300:
        assert error(lazy, True) < 0.75 * error(lazy, False)
    assert error(lazy, False) == error([lazy[0]], False)


def test_large_shrinks_do_not_decode_at_full_size(tmp_path, decoded):
    sample = make_record(size_hw=(720, 960))
    shards = stored(tmp_path, sample, "jpg")
    Crops((32, 32)).cut(shards.read(0, is_lazy=True), 0, AugmentParams())
    assert [reduction > 1 for _, reduction in decoded] == [True]
    decoded.clear()
    Crops((32, 32), with_antialias=False).cut(shards.read(0, True), 0, AugmentParams())
    assert decoded == [(0, 1)]


@pytest.mark.parametrize("name", ["crops", "multiview"])
@pytest.mark.parametrize("input_px", [16, 256])
def test_an_image_that_cannot_be_decoded_is_a_bad_record(name, input_px):
    sample = make_record(1, num_cameras=2)
    files = [encode_image(image, "jpg", 90) for image in sample["images"]]
    files[1] = files[1][: len(files[1]) // 2]

    def fail(number, reason):
        return BadRecord("x.tar", "record", f"image {number} {reason}", "image")

    lazy = {**sample, "images": LazyImages(files, fail)}
    crops = Crops((input_px, input_px))
    crops(lazy, 0)
    with pytest.raises(BadRecord, match=r"x.tar: record 'record': image 1 cannot be decoded"):
        crops(lazy, 1) if name == "crops" else MultiView(crops)(lazy)
