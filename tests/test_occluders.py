from pathlib import Path

import numpy as np
import pytest

from hmrkit.data.occluders import (
    GeneratedPatches,
    Occlude,
    Occlusion,
    StoredPatches,
    paste,
    read_pascal_patches,
)


def _solid(size: int, opacity: int = 255) -> np.ndarray:
    return np.dstack(
        [np.full((size, size, 3), 200, np.uint8), np.full((size, size), opacity, np.uint8)]
    )


def test_a_patch_lands_centred_and_scaled_with_the_crop():
    image = np.zeros((128, 128, 3), np.uint8)  # half of the 256 px that patches are drawn for
    pasted = paste(image, [Occlusion(_solid(40), 1.0, (0.5, 0.25))])
    rows, columns = np.nonzero(pasted[..., 0])
    assert (rows.min(), rows.max()) == (22, 41)
    assert (columns.min(), columns.max()) == (54, 73)
    assert not image.any()  # the input is left alone


def test_a_patch_over_the_edge_is_clipped_and_one_outside_is_nothing():
    image = np.zeros((64, 64, 3), np.uint8)
    assert paste(image, [Occlusion(_solid(40), 1.0, (0.0, 0.0))])[..., 0].sum() == 25 * 200
    assert not paste(image, [Occlusion(_solid(8), 1.0, (3.0, 3.0))]).any()


def test_opacity_blends():
    image = np.full((256, 256, 3), 100, np.uint8)
    pasted = paste(image, [Occlusion(_solid(20, opacity=51), 1.0, (0.5, 0.5))])
    assert pasted[128, 128, 0] == 120


def test_later_patches_cover_earlier_ones():
    dark = _solid(20)
    dark[..., :3] = 1
    image = np.zeros((256, 256, 3), np.uint8)
    pasted = paste(
        image, [Occlusion(_solid(20), 1.0, (0.5, 0.5)), Occlusion(dark, 1.0, (0.5, 0.5))]
    )
    assert pasted[128, 128, 0] == 1


def test_generated_patches_are_opaque_within_and_differ():
    rng = np.random.default_rng(0)
    patches = [GeneratedPatches(40, 80).draw(rng) for _ in range(50)]
    for patch in patches:
        assert patch.dtype == np.uint8
        assert patch.shape[2] == 4
        assert 40 <= min(patch.shape[:2]) <= max(patch.shape[:2]) <= 80
        assert (patch[..., 3] == 255).any()
        assert (patch[0, :, 3] < 255).all()  # soft at the edge
    assert len({patch.tobytes() for patch in patches}) == 50
    assert np.mean([(p[..., 3] > 0).mean() for p in patches]) > 0.4


def test_occlusion_counts_scales_and_sources_are_as_asked():
    occlude = Occlude(StoredPatches([_solid(4)]), count=(1, 7), scale=(0.2, 1.0), sources=["h36m"])
    rng = np.random.default_rng(0)
    draws = [occlude.draw(rng, "h36m") for _ in range(500)]
    assert {len(draw) for draw in draws} == set(range(1, 8))
    scales = [one.scale for draw in draws for one in draw]
    assert 0.2 <= min(scales) < 0.25
    assert 0.95 < max(scales) < 1
    assert occlude.draw(rng, "3dpw") == ()
    never = Occlude(StoredPatches([_solid(4)]), probability=0.0)
    assert never.draw(rng, "h36m") == ()


def test_patches_of_a_wrong_kind_are_refused_by_number():
    with pytest.raises(ValueError, match=r"occluder 1 is uint8 of shape \(4, 4, 3\)"):
        StoredPatches([_solid(4), _solid(4)[..., :3]])
    with pytest.raises(ValueError, match="no occluders"):
        StoredPatches([])


def test_the_official_file_is_read_as_it_is_distributed(tmp_path):
    patches = np.empty(2, object)
    patches[:] = [_solid(5), _solid(7)]
    np.save(tmp_path / "pascal_occluders.npy", patches, allow_pickle=True)
    stored = read_pascal_patches(str(tmp_path / "pascal_occluders.npy")).patches
    for wanted, found in zip(patches, stored, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_a_file_that_asks_for_code_is_refused_by_name(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    hostile = np.empty(1, object)
    hostile[0] = Evil()
    np.save(tmp_path / "evil.npy", hostile, allow_pickle=True)
    with pytest.raises(ValueError, match="nothing in it was run"):
        read_pascal_patches(str(tmp_path / "evil.npy"))
    assert not (tmp_path / "ran").exists()


def test_missing_and_other_files_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"pascal_occluders.npy comes with.*\n?.*Generated"):
        read_pascal_patches(str(tmp_path / "none.npy"))
    np.save(tmp_path / "numbers.npy", np.zeros(3))
    with pytest.raises(ValueError, match="holds float64 numbers"):
        read_pascal_patches(str(tmp_path / "numbers.npy"))
