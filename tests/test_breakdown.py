"""Where a method errs: by joint, action, circumstance; how sure it may be of itself."""

import numpy as np
import pytest

from hmrkit import report
from hmrkit.evaluation import Protocol
from hmrkit.reporting.breakdown import breakdown
from hmrkit.scene_evaluation import calibration_error

NUM = 300


@pytest.fixture
def columns() -> dict:
    rng = np.random.default_rng(0)
    rarity = rng.gamma(9, 12, NUM)
    visible = np.where(rng.uniform(size=NUM) < 0.8, 1.0, rng.uniform(0.1, 0.9, NUM))
    error = 0.5 * rarity + 60 * (1 - visible)
    return {
        "key": np.array([f"s_09_act_{i % 3:02d}-{i}" for i in range(NUM)]),
        "index": np.arange(NUM),
        "person": np.zeros(NUM, int),
        "mpjpe": 1.4 * error,
        "pa_mpjpe": error,
        "baseline_pa_mpjpe": rarity,
        "_visible": visible,
        "_box_px": np.full(NUM, 200.0),
        "_joint_mm": np.stack([error, 2 * error], axis=1),
    }


def test_bins_show_what_an_error_depends_on(columns):
    parts = breakdown(columns, ["hip", "wrist"])
    for name, sign in (("rarity", 1), ("occlusion", -1)):
        errors = [one["pa_mpjpe"] for one in parts[name]]
        assert len(errors) >= 4
        assert (sign * np.diff(errors) > 0).all(), name
        assert sum(one["num"] for one in parts[name]) == NUM
    assert "box_size" not in parts  # all alike
    assert parts["joints"]["wrist"] == pytest.approx(2 * parts["joints"]["hip"])


def test_actions_come_from_names_and_are_in_the_tables(columns, tmp_path):
    protocol = Protocol("14 joints", "h36m14", ["h36m_pelvis"], action=r"act_(\d+)")
    rows = {"made": protocol.complete(columns)}
    page = report.write_report(tmp_path, rows, {"protocols_in_words": {"made": protocol.words()}})
    markdown = (tmp_path / "report.md").read_text()
    own = columns["pa_mpjpe"][1::3].mean()
    assert f"| 01 | 100 | {1.4 * own:.1f} | {own:.1f} |" in markdown
    assert "mean of actions" in markdown
    assert "By action" in page.read_text()
    assert "14 joints (h36m14), moved so that h36m_pelvis is the origin" in markdown


def test_only_the_frames_that_count_are_reported(columns):
    protocol = Protocol("14 joints", "h36m14", ["h36m_pelvis"], frames="act_02")
    assert len(protocol.complete(columns)["key"]) == NUM / 3
    with pytest.raises(ValueError, match="act_99"):
        Protocol("14 joints", "h36m14", ["h36m_pelvis"], frames="act_99").complete(columns)


def test_a_failure_leaves_no_mean_in_its_bin(columns):
    columns["pa_mpjpe"][int(columns["baseline_pa_mpjpe"].argmax())] = np.inf
    bins = breakdown(columns)["rarity"]
    assert [one["pa_mpjpe"] is None for one in bins] == [False] * 5 + [True]


def test_a_score_that_is_a_chance_is_calibrated_and_a_boast_is_not():
    rng = np.random.default_rng(0)
    score = rng.uniform(0.3, 1, 20_000)
    is_right = rng.uniform(size=len(score)) < score
    assert calibration_error(score, is_right) < 0.02
    assert calibration_error(np.ones(10), np.zeros(10)) == 1
    assert calibration_error(np.array([0.95, 0.95]), np.array([1, 0])) == pytest.approx(0.45)
    assert np.isnan(calibration_error(np.array([]), np.array([])))
    assert np.isnan(calibration_error(np.array([3.0]), np.array([1])))  # no chance at all
