"""The programs as people run them: train, interrupt, resume, evaluate, sweep, and make mistakes."""

import csv
import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import made_programs

Program = Callable[..., "subprocess.CompletedProcess[str]"]
LAST = "runs/quickstart/checkpoints/last.ckpt"


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def test_train_then_eval_give_the_same_numbers(
    program: Program, tiny_overrides: list[str], tmp_path: Path
):
    done = program("train", *tiny_overrides)
    assert done.returncode == 0, done.stderr
    assert "PA-MPJPE" in done.stderr + done.stdout
    folder = tmp_path / "runs/quickstart"
    trained = json.loads((folder / "report.json").read_text())
    metric = trained["tests"]["quickstart"]["metrics"]["pa_mpjpe"]
    assert trained["tests"]["quickstart"]["num_samples"] == 32
    assert metric["unit"] == "mm"
    assert metric["baseline"] > 50
    assert "data:image" in (folder / "report.html").read_text()
    rows = np.load(folder / "rows.npz")
    assert np.isclose(rows["quickstart/pa_mpjpe"].mean(), metric["value"])
    assert list(rows["quickstart/index"]) == list(range(32))

    assert torch.load(tmp_path / LAST, weights_only=True)["global_step"] == 7
    done = program("eval", f"checkpoint={LAST}", "output=scored")
    assert done.returncode == 0, done.stderr
    scored = json.loads((tmp_path / "scored/report.json").read_text())
    scores = scored["tests"]["quickstart"]["metrics"]
    for name, entry in trained["tests"]["quickstart"]["metrics"].items():
        assert scores[name]["value"] == pytest.approx(entry["value"], rel=1e-5)
        assert scores[name]["baseline"] == pytest.approx(entry["baseline"], rel=1e-5)
    assert scored["meta"]["checkpoint_sha256"]


def test_checkpoints_hold_tensors_and_plain_containers_only(
    program: Program, tiny_overrides: list[str], tmp_path: Path
):
    done = program("train", *tiny_overrides, "test=false", "callbacks=ema")
    assert done.returncode == 0, done.stderr
    assert torch.serialization.get_unsafe_globals_in_checkpoint(tmp_path / LAST) == []
    content = torch.load(tmp_path / LAST, weights_only=True)
    assert not [name for name in content["state_dict"] if name.startswith("body.")]
    assert content["hyper_parameters"]["config"]["model"]["net"]["_target_"].endswith("HMR")


@pytest.fixture(scope="module")
def uninterrupted(
    tiny_overrides: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[str], dict[str, torch.Tensor]]:
    """A longer run's options and last weights."""
    steps = [*tiny_overrides, "trainer.max_steps=41", "trainer.val_check_interval=20", "test=false"]
    steps.append("model.net.dropout=0.5")
    folder = tmp_path_factory.mktemp("uninterrupted")
    done = made_programs.run("train", *steps, cwd=folder)
    assert done.returncode == 0, done.stderr
    return steps, weights(folder / LAST)


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_resumes_to_the_weights_of_an_uninterrupted_one(
    program: Program, uninterrupted, tmp_path: Path, stop: signal.Signals
):
    steps, theirs = uninterrupted
    process = made_programs.start("train", *steps, cwd=tmp_path)
    deadline = time.monotonic() + 120
    while not (tmp_path / LAST).is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(stop)
    code = process.wait(timeout=60)
    if code == 0:  # it was faster than the signal
        pytest.skip("the run ended before the signal")
    expected = {signal.SIGTERM: 143, signal.SIGINT: 1, signal.SIGKILL: -9}
    assert code == expected[stop]
    assert torch.load(tmp_path / LAST, weights_only=True)["global_step"] < 41

    resumed = program("train", *steps, "resume=true")
    assert resumed.returncode == 0, resumed.stderr
    ours = weights(tmp_path / LAST)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_second_run_of_one_name_is_refused_and_loses_nothing(
    program: Program, tiny_overrides: list[str], tmp_path: Path
):
    assert program("train", *tiny_overrides, "test=false").returncode == 0
    before = weights(tmp_path / LAST)
    again = program("train", *tiny_overrides, "test=false")
    assert again.returncode == 2
    assert "resume=true" in again.stderr
    assert "Traceback" not in again.stderr
    after = weights(tmp_path / LAST)
    assert all(torch.equal(before[name], after[name]) for name in before)
    replaced = program("train", *tiny_overrides, "test=false", "seed=2", "overwrite=true")
    assert replaced.returncode == 0, replaced.stderr
    after = weights(tmp_path / LAST)
    assert not all(torch.equal(before[name], after[name]) for name in before)
    assert len(list((tmp_path / LAST).parent.iterdir())) == 2


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["experiment=quickstart", "trainer.max_step=3"], ["trainer.max_step", "max_steps"]),
        (["experiment=quickstart", "model.optimizer.lr=fast"], ["model.optimizer.lr", "float"]),
        (["experiment=quickstrat"], ["quickstrat", "quickstart"]),
        ([], ["model"]),
        (["experiment=quickstart", "data.batch_size=0"], ["batch_size"]),
        (["experiment=quickstart", "body=smpl"], ["SMPL", "body=free"]),
        (
            ["experiment=quickstart", "~mix.train.quickstart.synth", "paths.datasets=nowhere"],
            ["quickstart", "nowhere"],
        ),
        (
            ["experiment=quickstart", "mix.test.quickstart.protocol.joint_set=smpl25"],
            ["smpl25", "smpl24"],
        ),
    ],
)
def test_a_mistake_gets_one_message_before_any_work(
    program: Program, overrides: list[str], words: list[str], tmp_path: Path
):
    done = program("train", *overrides)
    assert done.returncode != 0
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "datasets").exists()
    assert not (tmp_path / "nowhere").exists()


def test_a_sweep_runs_every_job_in_its_own_folder(
    program: Program, tiny_overrides: list[str], tmp_path: Path
):
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    done = program("train", "-m", *tiny_overrides, "seed=1,2", *launcher, fresh=True)
    assert done.returncode == 0, done.stderr
    reports = sorted((tmp_path / "runs/sweeps/quickstart").glob("*/*/report.json"))
    assert [path.parent.name for path in reports] == ["0", "1"]
    values = [
        json.loads(path.read_text())["tests"]["quickstart"]["metrics"]["pa_mpjpe"]["value"]
        for path in reports
    ]
    assert values[0] != values[1]


def test_a_sweeper_minimises_the_metric(
    program: Program, tiny_overrides: list[str], tmp_path: Path
):
    done = program(
        "train",
        "-m",
        *tiny_overrides,
        "num_pictures=0",
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=2",
        "hydra.sweeper.n_jobs=1",
        "model.optimizer.lr=interval(0.0001,0.01)",
    )
    assert done.returncode == 0, done.stderr
    best = next((tmp_path / "runs/sweeps/quickstart").glob("*/optimization_results.yaml"))
    assert "best_evaluated_value" in best.read_text() or "best_value" in best.read_text()


def test_two_processes_train_like_one_with_twice_the_batch(
    program: Program, tiny_overrides: list[str], tmp_path: Path
):
    # Batch statistics differ between processes, so the network here has none.
    plain = [
        *tiny_overrides,
        "~model.net.backbone",
        "+model.net.backbone._target_=made_networks.PooledLinear",
        "test=false",
    ]
    where = {"PYTHONPATH": str(Path(__file__).parent)}
    one = program("train", *plain, "data.batch_size=16", "name=one", **where)
    assert one.returncode == 0, one.stderr
    ddp = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    two = program("train", *plain, "name=two", *ddp, "trainer.sync_batchnorm=false", **where)
    assert two.returncode == 0, two.stderr
    ours, theirs = (losses(tmp_path / "runs" / name) for name in ("two", "one"))
    assert len(theirs) == 7
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def losses(run: Path) -> list[float]:
    lines = csv.DictReader((run / "csv/version_0/metrics.csv").open(newline=""))
    return [float(line["train/loss"]) for line in lines if line["train/loss"]]


def test_a_damaged_newest_checkpoint_is_passed_over(
    program: Program, tiny_overrides: list[str], tmp_path: Path
):
    assert program("train", *tiny_overrides, "test=false").returncode == 0
    (tmp_path / LAST).write_bytes((tmp_path / LAST).read_bytes()[:5000])
    done = program("train", *tiny_overrides, "test=false", "resume=true")
    assert done.returncode == 0, done.stderr
    assert "trying the checkpoint before it" in done.stderr + done.stdout
    assert weights(tmp_path / LAST)


def test_a_body_that_the_labels_do_not_describe_is_refused(
    program: Program, tiny_overrides: list[str], tmp_path: Path
):
    from hmrkit.body.free import write_smplx_pickle

    (tmp_path / "models").mkdir()
    write_smplx_pickle(tmp_path / "models/SMPL_NEUTRAL.pkl")
    done = program("train", *tiny_overrides, "body=smpl", "body.folder=models")
    assert done.returncode == 2
    assert "body=free" in done.stderr
    assert "Traceback" not in done.stderr
