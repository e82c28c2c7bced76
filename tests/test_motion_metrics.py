"""Acceleration error and jitter of videos."""

import numpy as np
import pytest

from hmrkit.evaluation import Protocol
from hmrkit.motion_metrics import acceleration_errors_mm, jitter_mm, motion_columns

NUM, JOINTS = 12, 5


@pytest.fixture
def walk() -> np.ndarray:
    """Joints (T, K, 3) that move along smooth curves, metres."""
    time = np.arange(NUM)[:, None, None] / 10
    return np.sin(time + np.arange(JOINTS)[:, None] + np.arange(3))


def labelled(points: np.ndarray) -> np.ndarray:
    return np.concatenate([points, np.ones_like(points[..., :1])], axis=-1)


def test_a_drift_costs_no_acceleration_and_noise_does(walk):
    drift = walk + 0.03 * np.arange(NUM)[:, None, None]
    errors = acceleration_errors_mm(drift, labelled(walk))
    assert np.isnan(errors[[0, -1]]).all()
    assert np.nanmax(errors) < 1e-9
    jumped = walk.copy()
    jumped[5] += [0.01, 0, 0]  # 10 mm
    errors = acceleration_errors_mm(jumped, labelled(walk))
    np.testing.assert_allclose(errors[4:7], [10, 20, 10])
    assert jitter_mm(jumped)[1:-2].max() > jitter_mm(walk)[1:-2].max()


def test_missing_labels_do_not_count_and_a_failure_is_infinite(walk):
    target = labelled(walk)
    target[5, :, 3] = 0
    errors = acceleration_errors_mm(walk, target)
    assert np.isnan(errors[4:7]).all()
    assert np.isfinite(errors[1:4]).all()
    failed = walk.copy()
    failed[8] = np.nan
    assert np.isinf(acceleration_errors_mm(failed, labelled(walk))[7:10]).all()


def columns_of(walk: np.ndarray, keys: list[str], person: list[int]) -> dict:
    return {
        "key": np.array(keys),
        "sequence": np.array([key.rsplit("-", 1)[0] for key in keys]),
        "_person_id": np.array(person),
        "_joints": walk,
        "_label_joints": labelled(walk),
    }


def test_frames_are_put_in_order_and_gaps_and_people_divide_a_video(walk):
    order = np.random.default_rng(0).permutation(NUM)
    keys = np.array([f"walk-{5 * i:05d}" for i in range(NUM)])  # every fifth frame
    moved = walk + np.random.default_rng(1).normal(0, 0.01, walk.shape)
    table = columns_of(moved[order], keys[order].tolist(), [0] * NUM)
    table["_label_joints"] = labelled(walk)[order]
    found = motion_columns(table)
    expected = acceleration_errors_mm(moved, labelled(walk))
    np.testing.assert_allclose(found["accel"], expected[order])
    np.testing.assert_allclose(
        found["baseline_accel"], acceleration_errors_mm(0 * walk, labelled(walk))[order]
    )
    keys[6:] = [f"walk-{5 * i:05d}" for i in range(7, NUM + 1)]  # one is left out
    found = motion_columns(columns_of(walk, keys.tolist(), [0] * NUM))
    assert np.flatnonzero(np.isnan(found["accel"])).tolist() == [0, 5, 6, NUM - 1]
    twice = np.concatenate([walk, walk])
    pair = columns_of(twice, [*keys, *keys], [0] * NUM + [1] * NUM)
    assert np.nanmax(motion_columns(pair)["accel"]) < 1e-9


def test_motion_needs_to_know_the_videos():
    with pytest.raises(ValueError, match="with_motion needs sequence"):
        Protocol("24 joints", "smpl24", ["pelvis"], with_motion=True)
    with pytest.raises(ValueError, match="needs a group"):
        Protocol("24 joints", "smpl24", ["pelvis"], action="act_[0-9]+")
    with pytest.raises(ValueError, match="frames"):
        Protocol("24 joints", "smpl24", ["pelvis"], frames="(")
