"""HMR2.0 and TokenHMR as people run them, small: train, resume, evaluate, show, in processes."""

import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import made_programs
from made_quickstart import tiny_sizes

Program = Callable[..., "subprocess.CompletedProcess[str]"]
VIT = [
    "backbone@model.net.backbone=vit_h",
    *(f"model.net.backbone.{key}" for key in ("dim=32", "depth=2", "num_heads=2", "drop_path=0.0")),
]


def overrides(method: str, shards: Path, *more: str) -> list[str]:
    """A tiny experiment in seconds, on the shards of the quick start's tests."""
    prior = ["mix.prior.synthetic.synth.num=2"] if method == "hmr2" else []
    return [
        f"experiment={method}_tiny",
        "mix=quickstart",
        f"paths.datasets={shards}",
        *tiny_sizes(),
        *prior,
        "data.cut.input_size=[32,32]",
        "model.net.backbone.image_size=[32,16]",
        "data.batch_size=8",
        "data.num_workers=0",
        "trainer.max_steps=4",
        "trainer.val_check_interval=2",
        "trainer.log_every_n_steps=1",
        "trainer.precision=32-true",
        "callbacks.checkpoint.every_n_train_steps=3",
        "num_pictures=1",
        "threads=1",
        *more,
    ]


def losses(run: Path) -> list[float]:
    lines = csv.DictReader((run / "csv/version_0/metrics.csv").open(newline=""))
    return [float(line["train/loss"]) for line in lines if line["train/loss"]]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["hmr2", "tokenhmr"])
def test_train_resume_evaluate_and_show(
    program: Program, tiny_shards: Path, tmp_path: Path, method: str
):
    options = overrides(method, tiny_shards)
    done = program("train", *options)
    assert done.returncode == 0, done.stderr
    run = tmp_path / f"runs/{method}_tiny"
    report = json.loads((run / "report.json").read_text())
    metric = report["tests"]["quickstart"]["metrics"]["pa_mpjpe"]
    assert metric["baseline"] > 50
    last = run / "checkpoints/last.ckpt"
    uninterrupted = torch.load(last, weights_only=True)["state_dict"]
    last.unlink()  # as if it had been killed after step 3

    done = program("train", *options, "resume=true", "test=false")
    assert done.returncode == 0, done.stderr
    resumed = torch.load(last, weights_only=True)["state_dict"]
    assert all(torch.equal(resumed[name], value) for name, value in uninterrupted.items())

    done = program("eval", f"checkpoint={last}", "output=scored")
    assert done.returncode == 0, done.stderr
    scored = json.loads((tmp_path / "scored/report.json").read_text())
    value = scored["tests"]["quickstart"]["metrics"]["pa_mpjpe"]["value"]
    assert value == pytest.approx(metric["value"], rel=1e-5)

    picture = np.random.default_rng(0).integers(0, 255, (90, 60, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "photo.jpg"), picture)
    done = program("demo", f"checkpoint={last}", "input=photo.jpg", "output=shown")
    assert done.returncode == 0, done.stderr
    assert "the whole picture is taken for one person" in done.stdout + done.stderr
    assert {p.name for p in (tmp_path / "shown").iterdir()} >= {"photo_overlay.jpg", "photo.npz"}


def test_the_tokenizer_of_a_run_can_come_from_stage_one(
    program: Program, tiny_shards: Path, tmp_path: Path
):
    made = [f"mix.{split}.synthetic.synth.num=2" for split in ("train", "val", "test")]
    small = ["trainer.max_steps=2", "trainer.val_check_interval=2", "data.num_workers=0"]
    small += ["trainer.precision=32-true", "num_pictures=0", "data.batch_size=1"]
    options = [f"paths.datasets={tmp_path}/motion", *made, *small]
    done = program("train", "experiment=tokenhmr_tokenizer_tiny", *options)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs/tokenhmr_tokenizer_tiny"
    metrics = json.loads((run / "report.json").read_text())["tests"]["synthetic"]["metrics"]
    assert 1 <= metrics["codes_used"]["value"] <= 256
    assert 1 <= metrics["perplexity"]["value"] <= metrics["codes_used"]["value"] + 0.01
    assert "_code_index" not in (run / "report.json").read_text()

    first = run / "checkpoints/last.ckpt"
    path = f"+initial_weights={{head.tokenizer:{{path:{first}}}}}"
    done = program("train", *overrides("tokenhmr", tiny_shards, path[1:], "test=false"))
    assert done.returncode == 0, done.stderr
    theirs = torch.load(first, weights_only=True)["state_dict"]
    ours = torch.load(tmp_path / "runs/tokenhmr_tiny/checkpoints/last.ckpt", weights_only=True)
    prefix = "net.tokenizer."
    for name in (n for n in theirs if n.startswith(prefix)):
        kept = ours["state_dict"][f"net.head.tokenizer.{name.removeprefix(prefix)}"]
        assert torch.equal(kept, theirs[name]), name  # frozen


@pytest.mark.slow
def test_two_processes_share_a_step_as_one_with_twice_the_batch(
    program: Program, tiny_shards: Path, tmp_path: Path
):
    plain = overrides("tokenhmr", tiny_shards, *VIT, "test=false")
    one = program("train", *plain, "data.batch_size=16", "name=one")
    assert one.returncode == 0, one.stderr
    again = ["trainer.max_steps=4", "trainer.val_check_interval=2", "trainer.log_every_n_steps=1"]
    again += ["trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true"]
    for kind in ("ddp", "fsdp"):
        two = [f"trainer={kind}", *again, f"name={kind}"]
        done = made_programs.run_two("train", *plain, *two, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    one, ddp, fsdp = (tmp_path / "runs" / name for name in ("one", "ddp", "fsdp"))
    assert len(losses(one)) == 4
    np.testing.assert_allclose(losses(ddp), losses(one), rtol=1e-4)
    np.testing.assert_allclose(losses(fsdp), losses(ddp), rtol=1e-5)  # sharded, the same sums
    shared, whole = (
        torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for run in (fsdp, ddp)
    )
    assert shared.keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(shared[name], value, atol=1e-6, rtol=1e-5)


@pytest.mark.slow
def test_half_precision_and_checkpointing_train_the_same(
    program: Program, tiny_shards: Path, tmp_path: Path
):
    plain = overrides("tokenhmr", tiny_shards, *VIT, "test=false")
    frugal = ["model.net.backbone.grad_checkpointing=true", "trainer.precision=bf16-mixed"]
    for name, more in (("plain", []), ("frugal", frugal)):
        done = program("train", *plain, *more, f"name={name}")
        assert done.returncode == 0, done.stderr
    ours, theirs = (losses(tmp_path / "runs" / name) for name in ("frugal", "plain"))
    np.testing.assert_allclose(ours, theirs, rtol=0.02)


def test_a_recipe_names_the_weights_it_begins_with(program: Program, tmp_path: Path):
    done = program("train", "experiment=tokenhmr", "body=free", "model.net.backbone.depth=1")
    assert done.returncode == 2
    assert "weights/vitpose_backbone.pth" in done.stderr
    assert "initial_weights.backbone" in done.stderr
    assert "Traceback" not in done.stderr
