"""Several reports in one table, with intervals of the differences."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hmrkit import report
from hmrkit.reporting.comparison import compare, difference_interval, read_scored

Program = Callable[..., "subprocess.CompletedProcess[str]"]
NUM = 120


def write(folder: Path, errors: np.ndarray, source: str = "made", **meta) -> Path:
    rows = {
        "key": [f"record{i}" for i in range(len(errors))],
        "index": np.arange(len(errors)),
        "person": np.zeros(len(errors), int),
        "pa_mpjpe": errors,
    }
    about = {"method": "hmr", "checkpoint": f"runs/{folder.name}/checkpoints/last.ckpt"}
    about["protocols"] = {source: "24 joints, pelvis"}
    report.write_report(folder, {source: rows}, about | meta)
    return folder


@pytest.fixture
def errors() -> np.ndarray:
    return np.random.default_rng(0).gamma(9, 10, NUM)


def test_a_paired_interval_is_far_narrower_than_the_spread_of_people(errors):
    better = errors - np.random.default_rng(1).normal(2, 1, NUM)
    low, high = difference_interval(errors, better)
    assert low < -2 + 0.3
    assert high > -2 - 0.3
    assert high < 0
    assert high - low < 1  # the errors themselves have a standard error of 2.7 mm


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        difference = rng.normal(1, 3, 60)
        low, high = difference_interval(np.zeros(60), difference, None, 400, 0.9, seed)
        hits += low <= 1 <= high
    assert 165 <= hits <= 195


def test_frames_of_one_video_count_as_one_draw():
    rng = np.random.default_rng(0)
    video = np.repeat(np.arange(12), 50)
    difference = np.repeat(rng.normal(0, 3, 12), 50) + rng.normal(0, 0.1, 600)
    frames = difference_interval(np.zeros(600), difference)
    videos = difference_interval(np.zeros(600), difference, video)
    assert np.diff(videos) > 3 * np.diff(frames)


def test_people_are_paired_by_who_they_are_and_not_by_their_place(tmp_path, errors):
    first = read_scored(write(tmp_path / "a", errors))
    order = np.random.default_rng(0).permutation(NUM)[: NUM - 20]
    other = write(tmp_path / "b", errors + 5)
    rows = dict(np.load(other / "rows.npz"))
    np.savez(other / "rows.npz", **{name: column[order] for name, column in rows.items()})
    line = compare([first, read_scored(other)])["lines"][0]
    difference = line["differences"][1]
    assert difference["num_pairs"] == NUM - 20
    assert difference["value"] == pytest.approx(5)
    assert difference["low"] == pytest.approx(5)
    assert line["differences"][0] is None


def test_numbers_by_other_protocols_are_never_put_in_one_line(tmp_path, errors):
    one = write(tmp_path / "a", errors)
    other = write(tmp_path / "b", errors, protocols={"made": "14 joints, pelvis"})
    lines = compare([read_scored(one), read_scored(other)])["lines"]
    assert [line["protocol"] for line in lines] == ["24 joints, pelvis", "14 joints, pelvis"]
    assert [line["values"].count(None) for line in lines] == [1, 1]
    assert all(line["differences"] == [None, None] for line in lines)


def test_a_failed_prediction_leaves_no_difference(tmp_path, errors):
    failed = errors.copy()
    failed[3] = np.inf
    lines = compare(
        [read_scored(write(tmp_path / n, e)) for n, e in (("a", errors), ("b", failed))]
    )["lines"]
    assert lines[0]["values"][1] is None
    assert lines[0]["differences"][1] is None


def test_sets_of_one_checkpoint_are_one_column(tmp_path, errors):
    one = {"checkpoint": "runs/one/checkpoints/last.ckpt"}
    two = {"checkpoint": "runs/two/checkpoints/last.ckpt"}
    scored = [
        read_scored(write(tmp_path / "a", errors, "first", **one)),
        read_scored(write(tmp_path / "b", errors, "second", **one)),
        read_scored(write(tmp_path / "c", errors, "first", **two)),
    ]
    comparison = compare(scored)
    assert [column["label"] for column in comparison["columns"]] == ["one", "two"]
    assert [line["values"][1] is None for line in comparison["lines"]] == [False, True]


def test_reports_are_joined_from_the_command_line(program: Program, tmp_path: Path, errors):
    write(tmp_path / "a", errors)
    write(tmp_path / "b", 0.9 * errors)
    done = program("compare", "a", "b/report.json", "output=joined", "num_resamples=100")
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "joined/comparison.json").read_text())
    first, second = content["lines"][0]["values"]
    assert second == pytest.approx(0.9 * first)
    assert content["lines"][0]["differences"][1]["high"] < 0
    assert f"{second:.1f} (" in (tmp_path / "joined/comparison.md").read_text()
    page = (tmp_path / "joined/comparison.html").read_text()
    assert "http" not in page.replace("http://www.w3.org", "")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "joined"]


@pytest.mark.parametrize(
    ("arguments", "words"), [(["a"], "needs two reports"), (["a", "lost"], "no report at lost")]
)
def test_a_mistake_gets_one_message(program: Program, tmp_path, errors, arguments, words):
    write(tmp_path / "a", errors)
    done = program("compare", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_sweep_of_evaluations_ends_with_one_table(
    program: Program, tiny_overrides: list[str], tmp_path: Path
):
    for seed in (1, 2):
        done = program("train", *tiny_overrides, "test=false", f"name=run{seed}", f"seed={seed}")
        assert done.returncode == 0, done.stderr
    checkpoints = ",".join(f"runs/run{seed}/checkpoints/last.ckpt" for seed in (1, 2))
    done = program("eval", "-m", f"checkpoint={checkpoints}", "num_pictures=0", "threads=1")
    assert done.returncode == 0, done.stderr
    folder = next((tmp_path / "runs/sweeps/eval").iterdir())
    content = json.loads((folder / "comparison.json").read_text())
    assert [column["label"] for column in content["columns"]] == ["run1", "run2"]
    line = next(line for line in content["lines"] if line["metric"] == "pa_mpjpe")
    assert line["differences"][1]["num_pairs"] == 32
    assert "run2" in (folder / "comparison.md").read_text()
    assert (folder / "comparison.html").is_file()
