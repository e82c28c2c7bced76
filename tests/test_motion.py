import numpy as np
import pytest

from hmrkit.data.collate import collate
from hmrkit.data.motion import Motion
from made_records import make_motion, same


def test_frames_are_consecutive_and_start_anywhere():
    clip = make_motion(0, 20)
    starts = set()
    for seed in range(60):
        cut = Motion(num_frames=5)(clip, None, np.random.default_rng(seed))
        start = int(np.flatnonzero((clip["pose"] == cut["pose"][0]).all(axis=(1, 2)))[0])
        np.testing.assert_array_equal(cut["pose"], clip["pose"][start : start + 5])
        np.testing.assert_array_equal(cut["person_id"], clip["person_id"][start : start + 5])
        starts.add(start)
    assert starts == set(range(16))
    np.testing.assert_array_equal(Motion(num_frames=5)(clip)["pose"], clip["pose"][:5])
    assert same(Motion()(clip), clip)


def test_a_flip_mirrors_poses_and_places():
    clip = make_motion(0, 8)
    flipped = Motion(flip_probability=1.0)(clip, None, np.random.default_rng(0))
    np.testing.assert_array_equal(flipped["transl"], clip["transl"] * [-1, 1, 1])
    np.testing.assert_allclose(flipped["pose"][:, 0], clip["pose"][:, 0] * [1, -1, -1], atol=1e-6)
    np.testing.assert_allclose(flipped["pose"][:, 1], clip["pose"][:, 2] * [1, -1, -1])


def test_clips_share_a_batch_without_images():
    batch = collate([Motion(num_frames=3)(make_motion(i, 9, key=f"c{i}")) for i in range(2)])
    assert "image" not in batch
    assert batch["body"].body_pose.shape == (6, 23, 3, 3)
    assert batch["key"] == ["c0"] * 3 + ["c1"] * 3
    assert not batch["has_betas"].any()


def test_clips_that_are_too_short_are_refused():
    with pytest.raises(ValueError, match="'clip' has 4 frames, num_frames=5"):
        Motion(num_frames=5)(make_motion(0, 4))
    with pytest.raises(ValueError, match="num_frames=0"):
        Motion(num_frames=0)
