"""PyMAF through the programs: train, resume, evaluate, show; two stages; two processes."""

import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from made_pymaf import tiny_overrides

import made_programs
from hmrkit.body import joints
from hmrkit.configs import load_config, to_plain

Program = Callable[..., subprocess.CompletedProcess]
LAST = "checkpoints/last.ckpt"


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def losses(run: Path) -> list[float]:
    with (run / "csv/version_0/metrics.csv").open(newline="") as lines:
        return [float(line["train/loss"]) for line in csv.DictReader(lines) if line["train/loss"]]


def test_train_resume_evaluate_and_show(program: Program, tiny_shards: Path, tmp_path: Path):
    tiny = tiny_overrides(tiny_shards)
    done = program("train", *tiny, "name=whole", "model.net.dropout=0.5")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "runs/whole/report.json").read_text())
    metric = report["tests"]["quickstart"]["metrics"]["pa_mpjpe"]
    assert len(metric["stages"]) == 2  # the loops before the last
    assert metric["baseline"] > 50
    assert (tmp_path / "runs/whole/checkpoints/best.ckpt").is_file()

    part = [*tiny, "name=part", "model.net.dropout=0.5", "test=false"]
    part.append("model.scheduler.total_steps=7")
    assert program("train", *part, "trainer.max_steps=4").returncode == 0
    resumed = program("train", *part, "resume=true")
    assert resumed.returncode == 0, resumed.stderr
    ours, theirs = (weights(tmp_path / "runs" / name / LAST) for name in ("part", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

    scored = program("eval", f"checkpoint=runs/whole/{LAST}", "output=scored")
    assert scored.returncode == 0, scored.stderr
    again = json.loads((tmp_path / "scored/report.json").read_text())
    again = again["tests"]["quickstart"]["metrics"]["pa_mpjpe"]
    assert again["value"] == pytest.approx(metric["value"], rel=1e-5)
    assert again["stages"] == pytest.approx(metric["stages"], rel=1e-5)

    cv2.imwrite(str(tmp_path / "photo.jpg"), np.full((80, 60, 3), 128, np.uint8))
    shown = program("demo", f"checkpoint=runs/whole/{LAST}", "input=photo.jpg", "output=shown")
    assert shown.returncode == 0, shown.stderr
    assert {path.name for path in (tmp_path / "shown").iterdir()} >= {
        "photo.npz",
        "photo.glb",
        "photo_overlay.jpg",
    }


def write_coco(download: Path, datasets: Path, num: int = 3) -> None:
    """A made-up validation set of COCO, one person per image, and its annotations."""
    rng = np.random.default_rng(0)
    (download / "val2014").mkdir(parents=True)
    (datasets / "coco/annotations").mkdir(parents=True)
    order = [joints.index(name, "spin24") for name in joints.names("coco17")]
    names, part, annotations = [], np.zeros((num, 24, 3)), []
    for i in range(num):
        names.append(f"val2014/COCO_val2014_{i + 1:012d}.jpg")
        cv2.imwrite(str(download / names[-1]), rng.integers(0, 255, (120, 160, 3), np.uint8))
        points = np.column_stack([rng.uniform(30, 90, (17, 2)), np.ones(17)])
        part[i, order] = points
        row = {"id": i + 1, "image_id": i + 1, "iscrowd": 0, "area": 2000.0, "num_keypoints": 17}
        row |= {"bbox": [30.0, 30, 60, 60], "keypoints": points.ravel().tolist()}
        annotations.append(row)
    rows = {"center": np.full((num, 2), 60.0), "scale": np.full(num, 0.36)}
    np.savez(download / "coco_2014_val.npz", imgname=names, part=part, **rows)
    content = {"images": [{"id": i + 1} for i in range(num)], "annotations": annotations}
    path = datasets / "coco/annotations/person_keypoints_val2014.json"
    path.write_text(json.dumps(content))


def test_the_official_test_sets_are_scored_as_far_as_they_are_there(
    program: Program, tiny_shards: Path, tmp_path: Path
):
    tiny = [*tiny_overrides(tiny_shards), "test=false", "trainer.max_steps=1"]
    assert program("train", *tiny).returncode == 0
    write_coco(tmp_path / "download", tmp_path / "datasets")
    done = program("prepare", "source=coco_2014_spin_val", "input=download")
    assert done.returncode == 0, done.stderr
    run = [f"checkpoint=runs/pymaf_tiny/{LAST}", "eval=pymaf", "output=scored", "threads=1"]
    refused = program("eval", *run)
    assert refused.returncode == 2
    assert "source=3dpw_spin_test" in refused.stderr  # the command that makes it
    done = program("eval", *run, "mix.allow_missing=true")
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "scored/report.json").read_text())["tests"]["coco_ap_pymaf"]
    assert scores["num_samples"] == 3
    assert scores["metrics"]["ap"]["unit"] == "%"
    assert 0 <= scores["metrics"]["ap"]["value"] <= 100


def test_the_second_stage_begins_with_the_best_weights_of_the_first(
    program: Program, tiny_shards: Path, tmp_path: Path
):
    tiny = [*tiny_overrides(tiny_shards), "test=false", "trainer.max_steps=1"]
    first = [*tiny, "name=first", "trainer.val_check_interval=1"]
    assert program("train", *first).returncode == 0
    best = "runs/first/checkpoints/best.ckpt"
    second = [*tiny, "name=second", f"initial_weights.all={best}", "model.optimizer.lr=1e-12"]
    second += ["model.optimizer.weight_decay=0"]
    done = program("train", *second)
    assert done.returncode == 0, done.stderr
    ours, theirs = weights(tmp_path / "runs/second" / LAST), weights(tmp_path / best)
    for name, value in theirs.items():
        if "running" not in name and "batches" not in name:  # a step moves the statistics
            torch.testing.assert_close(ours[name], value, atol=1e-9, rtol=0)
    done = program("train", *tiny, "name=third", "initial_weights.all=nowhere.ckpt")
    assert done.returncode == 2
    assert "nowhere.ckpt" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_atlas_is_named_before_the_first_step(
    program: Program, tiny_shards: Path, tmp_path: Path
):
    done = program("train", *tiny_overrides(tiny_shards), "model.loss.atlas=nowhere.mat")
    assert done.returncode == 2
    assert "nowhere.mat: UV_Processed.mat is in DensePose's UV data" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs/pymaf_tiny" / LAST).exists()


def test_two_processes_train_like_one_with_twice_the_batch(
    program: Program, tiny_shards: Path, tmp_path: Path
):
    # Batch statistics differ between processes, so the network here has none.
    tiny = [*tiny_overrides(tiny_shards), "model.net._target_=made_pymaf.WithoutNorm"]
    tiny += ["test=false", "trainer.max_steps=3"]
    where = {"PYTHONPATH": str(Path(__file__).parent)}
    one = program("train", *tiny, "data.batch_size=16", "name=one", **where)
    assert one.returncode == 0, one.stderr
    ddp = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    ddp += ["name=two", "trainer.sync_batchnorm=false"]
    two = made_programs.run_two("train", *tiny, *ddp, cwd=tmp_path, **where)
    assert two.returncode == 0, two.stderr
    ours, theirs = (losses(tmp_path / "runs" / name) for name in ("two", "one"))
    assert len(theirs) == 3
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "before", "part"),
    [
        ("pymaf_stage1", "resnet50-19c8e357.pth", "backbone"),
        ("pymaf", "pymaf_stage1/checkpoints/best.ckpt", "all"),
        ("pymaf_eft_stage1", "pose_resnet_50_256x192.pth.tar", "backbone"),
        ("pymaf_eft", "pymaf_eft_stage1/checkpoints/best.ckpt", "all"),
    ],
)
def test_every_stage_says_what_it_begins_with_and_what_it_draws(name, before, part):
    config = to_plain(load_config("train", [f"experiment={name}", "run_dir=run"]))
    start = {key: path for key, path in config["initial_weights"].items() if path is not None}
    assert set(start) == ({part} if part == "all" else {part, "surface"})
    assert start[part].endswith(before)
    assert config["model"]["loss"]["atlas"].endswith("UV_Processed.mat")
    assert config["body"]["_target_"].endswith("smpl_body")
    shares = sum(source["weight"] for source in config["mix"]["train"].values())
    assert shares == pytest.approx(1, abs=1e-3)
    assert config["data"]["cut"]["half_resolution_sources"] == ["pw3d"]
    assert config["model"]["scheduler"] is None
    assert config["callbacks"]["best"]["monitor"] == "val/pa_mpjpe"
