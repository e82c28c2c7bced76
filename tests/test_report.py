import json
import re

import numpy as np
import pytest
import torch

from hmrkit import report
from hmrkit.body.free import free_body
from hmrkit.data.collate import collate, normalize_image
from hmrkit.data.crops import Crops
from hmrkit.geometry.rotations import axis_angle_to_rotmat, rotmat_to_axis_angle
from hmrkit.render import viewer
from hmrkit.render.render import render
from hmrkit.reporting import pictures
from hmrkit.types import Prediction
from made_pages import CHROMIUM, screenshot


def made_rows(num=64):
    rng = np.random.default_rng(0)
    baseline = rng.gamma(9, 12, num)
    error = baseline * rng.uniform(0.4, 0.8, num)
    return {
        "made": {
            "key": [f"sample-{i}" for i in range(num)],
            "index": np.arange(num),
            "mpjpe": 1.4 * error,
            "pa_mpjpe": error,
            "baseline_mpjpe": 1.4 * baseline,
            "baseline_pa_mpjpe": baseline,
            "stage0_pa_mpjpe": 1.3 * error,
            "stage1_pa_mpjpe": 1.1 * error,
        }
    }


def made_meta():
    return {
        "method": "hmr",
        "checkpoint": "runs/a/last.ckpt",
        "protocols": {"made": "h36m14, mid hips"},
        "seed": 3,
        "versions": {"torch": "2"},
        "nothing": float("nan"),
        "config": {"model": {"net": {"width": 16}}},
    }


def made_curves():
    rows = [{"step": i, "train/loss": 30 * np.exp(-i / 200) + 0.4} for i in range(0, 1000, 5)]
    rows += [
        {"step": i, "train/loss": "", "val/pa_mpjpe": 60 + 40 * np.exp(-i / 300)}
        for i in range(99, 1000, 100)
    ]
    return rows


def test_worst_median_and_best_are_what_they_say():
    errors = np.random.default_rng(0).permutation(101).astype(float)
    picked = report.pick_samples(errors, 3)
    assert errors[picked["worst"]].tolist() == [100, 99, 98]
    assert errors[picked["median"]].tolist() == [51, 50, 49]
    assert errors[picked["best"]].tolist() == [2, 1, 0]


@pytest.mark.parametrize("num_samples", range(9))
def test_no_sample_is_picked_twice(num_samples):
    picked = report.pick_samples(np.arange(num_samples, dtype=float), 3)
    everything = [i for group in picked.values() for i in group]
    assert len(set(everything)) == len(everything)
    assert max(picked["worst"], default=-1) == num_samples - 1
    if num_samples > 1:
        assert min(picked["best"]) == 0


def test_failed_predictions_are_the_worst_and_unlabelled_people_are_not_shown():
    picked = report.pick_samples([np.nan, 1.0, np.inf, 2.0, 3.0, np.nan], 1)
    assert picked == {"worst": [2], "median": [3], "best": [1]}


def test_report_json_has_the_promised_layout(tmp_path):
    rows = made_rows()
    report.write_report(tmp_path, rows, made_meta())

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    content = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    assert content["method"] == "hmr"
    assert content["checkpoint"] == "runs/a/last.ckpt"
    test = content["tests"]["made"]
    assert test["num_samples"] == 64
    assert test["protocol"] == "h36m14, mid hips"
    assert list(test["metrics"]) == ["mpjpe", "pa_mpjpe"]
    metric = test["metrics"]["pa_mpjpe"]
    columns = rows["made"]
    assert metric["unit"] == "mm"
    assert metric["value"] == pytest.approx(columns["pa_mpjpe"].mean())
    assert metric["baseline"] == pytest.approx(columns["baseline_pa_mpjpe"].mean())
    assert metric["ratio"] == pytest.approx(metric["value"] / metric["baseline"])
    assert metric["stages"] == pytest.approx(
        [columns["stage0_pa_mpjpe"].mean(), columns["stage1_pa_mpjpe"].mean()]
    )
    assert content["meta"]["nothing"] is None


def test_numbers_of_a_whole_set_stand_beside_the_means(tmp_path):
    summaries = {"made": {"f1": 0.9, "baseline_f1": 0.3}}
    page = report.write_report(tmp_path, made_rows(), made_meta(), summaries=summaries)
    metric = json.loads((tmp_path / "report.json").read_text())["tests"]["made"]["metrics"]["f1"]
    assert (metric["value"], metric["baseline"]) == (0.9, 0.3)
    assert metric["ratio"] == pytest.approx(3)
    assert "f1" in page.read_text()


def test_missing_labels_are_left_out_of_the_mean_but_a_failure_leaves_no_mean():
    rows = {"a": {"key": list("wxyz"), "pa_mpjpe": [10.0, np.nan, np.inf, 20.0]}}
    content = report.make_report(rows, {})
    metric = content["tests"]["a"]["metrics"]["pa_mpjpe"]
    assert (metric["value"], metric["num_failed"], metric["num_unlabelled"]) == (None, 1, 1)
    labelled = report.make_report({"a": {"pa_mpjpe": [10.0, np.nan, 20.0]}}, {})
    assert labelled["tests"]["a"]["metrics"]["pa_mpjpe"]["value"] == 15.0
    assert metric["baseline"] is None
    assert "2 of 4, 1 FAILED" in report.format_table(content)


def test_a_metric_without_any_value_is_null_and_not_zero(tmp_path):
    rows = {"a": {"key": ["x"], "pve": [np.nan], "baseline_pve": [5.0]}}
    report.write_report(tmp_path, rows, {})
    metric = json.loads((tmp_path / "report.json").read_text())["tests"]["a"]["metrics"]["pve"]
    assert metric["value"] is None
    assert metric["ratio"] is None


def test_columns_of_different_length_are_refused():
    with pytest.raises(ValueError, match=r"test source 'a'.*equal length"):
        report.make_report({"a": {"key": ["x"], "pve": [1.0, 2.0]}}, {})


def test_table_is_aligned_and_says_protocol_and_baseline(tmp_path):
    report.write_report(tmp_path, made_rows(), made_meta())
    table = report.format_table(tmp_path / "report.json")
    lines = table.splitlines()
    assert len({len(line) for line in lines}) == 1
    assert re.search(r"made +\| PA-MPJPE +\| +\d+\.\d +\| +\d+\.\d", lines[3])
    assert "h36m14, mid hips" in lines[3]
    title = [cell.strip() for cell in lines[0].split("|")]
    cells = [[cell.strip() for cell in line.split("|")] for line in lines[2:]]
    error = np.mean(made_rows()["made"]["pa_mpjpe"])
    assert cells[1][title.index("stage 1")] == f"{1.1 * error:.1f}"
    assert cells[0][title.index("stage 1")] == "-"  # MPJPE has none
    assert table in (tmp_path / "report.md").read_text()


def test_per_person_rows_load_without_pickle(tmp_path):
    rows = made_rows()
    report.write_report(tmp_path, rows, made_meta())
    with np.load(tmp_path / "rows.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["made/pa_mpjpe"], rows["made"]["pa_mpjpe"])
        assert file["made/key"][3] == "sample-3"


def test_html_needs_nothing_from_outside_and_escapes_names(tmp_path):
    rows = {"<b>&made": made_rows()["made"]}
    rgb = np.random.default_rng(0).integers(0, 255, (40, 90, 3), dtype=np.uint8)
    shots = [(g, "<b>&made", "<i>caption", rgb) for g in ("worst", "median", "best")]
    path = report.write_report(tmp_path, rows, made_meta(), made_curves(), shots)
    page = path.read_text()
    for link in re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"'\s>)]+)""", page):
        assert link.startswith("data:image/jpeg;base64,")
    assert "http" not in page
    assert "<script" not in page
    assert "<b>&made" not in page
    assert "<i>caption" not in page
    assert "&lt;b&gt;&amp;made" in page
    assert page.count("<img") == 3
    assert "width: 16" in page  # the configuration


def test_learning_curves_show_the_baseline_and_skip_blanks(tmp_path):
    rows = made_rows()
    page = report.write_report(tmp_path, rows, made_meta(), made_curves()).read_text()
    assert "Training loss" in page
    assert "Validation PA-MPJPE" in page
    assert "Validation MPJPE" not in page  # it was not logged
    level = rows["made"]["baseline_pa_mpjpe"].mean()
    assert f"mean pose {level:.3g}" in page


def test_logged_baseline_beats_that_of_the_test_set(tmp_path):
    curves = [{**row, "val/baseline_pa_mpjpe": 77.0} for row in made_curves()]
    page = report.write_report(tmp_path, made_rows(), made_meta(), curves).read_text()
    assert "mean pose 77" in page


@pytest.fixture(scope="module")
def body():
    return free_body()


@pytest.fixture(scope="module")
def labelled(body):
    """A person whose silhouette is the picture, as a batch, and the perfect prediction for it."""
    person = body.mean_body(1)
    turn = axis_angle_to_rotmat(torch.tensor([[0.4, 0.5, 0.1]]))
    person.global_orient = turn @ person.global_orient
    person.transl = torch.tensor([[0.3, -0.1, 4.0]])
    mesh = body(person)
    camera = np.array([[420.0, 0, 190.0], [0, 420, 160], [0, 0, 1]])
    vertices = mesh.vertices[0].numpy()
    shape = (300, 400)
    alpha = render([vertices], body.faces.numpy(), camera, shape, backend="numpy").alpha
    image = np.repeat((255 * (alpha > 0.5))[..., None], 3, axis=2).astype(np.uint8)
    seen = vertices @ camera.T
    seen = seen[:, :2] / seen[:, 2:]
    rotations = torch.cat([person.global_orient[:, None], person.body_pose], dim=1)
    sample = {
        "key": "one",
        "source": "made",
        "joint_set": "smpl24",
        "images": [image],
        "intrinsics": camera[None].astype(np.float32),
        "world_to_camera": np.eye(4, dtype=np.float32)[None],
        "intrinsics_of_view": np.full((1, 3, 3), np.nan, np.float32),
        "image_of_view": np.zeros(1, np.int64),
        "person_of_view": np.zeros(1, np.int64),
        "box_img": np.concatenate([seen.min(0), seen.max(0)])[None].astype(np.float32),
        "keypoints_img": np.zeros((1, 24, 3), np.float32),
        "visible_fraction": np.ones(1, np.float32),
        "person_id": np.zeros(1, np.int64),
        "keypoints_world": np.zeros((1, 24, 4), np.float32),
        "pose": rotmat_to_axis_angle(rotations).numpy(),
        "betas": person.betas.numpy(),
        "transl": person.transl.numpy(),
        "has_pose": np.ones(1, bool),
        "has_betas": np.ones(1, bool),
        "gender": np.full(1, -1),
        "is_self_intersecting": np.zeros(1, bool),
        "time_s": np.full(1, np.nan, np.float32),
    }
    batch = collate([Crops([96, 96])(sample, 0, None)])
    crop_to_img = torch.cat([batch["crop_to_img"][0], torch.tensor([[0, 0, 1.0]])])
    intrinsics_crop = torch.linalg.inv(crop_to_img) @ torch.from_numpy(camera).float()
    prediction = Prediction(person, torch.zeros(1, 3), intrinsics_crop[None])
    return batch, prediction


def panels(picture):
    width = (picture.shape[1] + 4) // 4
    return [picture[:, i * width : i * width + width - 4].astype(int) for i in range(4)]


def test_prediction_and_label_are_drawn_where_the_person_is(labelled, body):
    batch, prediction = labelled
    crop, over, label, side = panels(report.sample_picture(batch, prediction, body, 0))
    silhouette = crop.mean(axis=2) > 127
    assert 0.1 < silhouette.mean() < 0.6
    for panel in (over, label):
        is_drawn = (np.abs(panel - crop).max(axis=2) > 20) | (np.ptp(panel, axis=2) > 12)
        union, both = (is_drawn | silhouette).sum(), (is_drawn & silhouette).sum()
        assert both / union > 0.94  # half a pixel of the 96 px input gives 0.87
    assert side.min() < 200


def test_picture_is_the_same_for_raw_and_normalised_images(labelled, body):
    batch, prediction = labelled
    normalised = {**batch, "image": normalize_image(batch["image"])}
    first = report.sample_picture(batch, prediction, body, 0)
    np.testing.assert_array_equal(first, report.sample_picture(normalised, prediction, body, 0))


def test_denormalising_gives_every_grey_value_back():
    image = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).repeat(1, 3, 1, 1)
    batch = {"image": normalize_image(image), "input_size": torch.tensor([[16, 16]])}
    expected = image[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(pictures.input_rgb(batch, 0), expected)


def test_picture_survives_a_missing_label_and_a_prediction_that_is_not_finite(labelled, body):
    batch, prediction = labelled
    unlabelled = {**batch, "has_pose": torch.tensor([False])}
    lost = Prediction(prediction.body, torch.full((1, 3), torch.nan), prediction.intrinsics_crop)
    crop, over, label, _ = panels(report.sample_picture(unlabelled, lost, body, 0))
    np.testing.assert_array_equal(over, crop)
    np.testing.assert_array_equal(label, crop)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_meshes_of_the_report_are_drawn_and_can_be_turned(tmp_path, body):
    mesh = body(body.mean_body(1)).vertices[0].numpy()

    def shown(size, fragment):
        figure = viewer.figure([size * mesh], body.faces.numpy(), names=["prediction"])
        folder = tmp_path / f"{size}{fragment}"
        figures = [("worst", "made", "sample-1: 200 mm", figure)]
        path = report.write_report(folder, made_rows(), made_meta(), figures=figures)
        return screenshot(path, (1200, 3400), fragment).astype(int)

    def differing(first, second):
        return np.abs(first - second).max(axis=2) > 40

    nothing, front, side = shown(1e-6, ""), shown(1.0, ""), shown(1.0, "yaw=90")
    drawn = differing(front, nothing)
    rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    assert drawn.sum() > 5000
    assert 150 < np.ptp(rows) < 1000  # one figure, and nothing else of the page
    assert np.ptp(rows) > 1.3 * np.ptp(columns)  # somebody who stands
    assert differing(side, front).sum() > 1000


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_html_opens_in_a_browser_without_network(tmp_path, labelled, body):
    picture = report.sample_picture(*labelled, body, 0)
    shots = [("worst", "made", "sample-1: 200 mm", picture)]
    path = report.write_report(tmp_path, made_rows(), made_meta(), made_curves(), shots)
    image = screenshot(path, (1200, 2400))
    assert image.shape[:2] == (2400, 1200)
    # Cards, charts, bars and the picture: many colours all the way down.
    for strip in np.array_split(image[:2200], 5):
        assert len(np.unique(strip.reshape(-1, 3), axis=0)) > 40
