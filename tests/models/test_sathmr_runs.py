"""SAT-HMR's small experiment as users run it, in processes of its own."""

import json
import pickle
import signal
import time
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import made_programs
from hmrkit.checkpoints import load_checkpoint

SMALL = [
    "experiment=sathmr_tiny",
    *(f"mix.{split}.scenes.synth.num={num}" for split, num in (("train", 8), ("test", 4))),
    "mix.val.scenes.synth.num=2",
    *(f"mix.{split}.scenes.synth.image_size=[56,112]" for split in ("train", "val", "test")),
    "model.net.long_side_px=112",
    "model.net.encoder.dim=32",
    "model.net.decoder.dim=32",
    "data.batch_size=2",
    "data.num_workers=0",
    "trainer.val_check_interval=2",
    "trainer.log_every_n_steps=1",
    "callbacks.checkpoint.every_n_train_steps=2",
    "num_pictures=1",
    "threads=1",
]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """Training that is killed in its midst, and then resumed."""
    folder = tmp_path_factory.mktemp("sathmr")
    first = made_programs.start("train", *SMALL, "trainer.max_steps=1000", cwd=folder)
    checkpoints = folder / "runs" / "sathmr_tiny" / "checkpoints"
    until = time.monotonic() + 120
    while not list(checkpoints.glob("step*.ckpt")) and time.monotonic() < until:
        time.sleep(0.01)
        assert first.poll() is None, first.read()
    first.send_signal(signal.SIGKILL)
    first.wait(timeout=60)
    (kept,) = checkpoints.glob("step*.ckpt")
    step = int(kept.stem.removeprefix("step"))
    arguments = [f"trainer.max_steps={step + 2}", "resume=true"]
    program(folder, "train", *SMALL, *arguments)
    return folder, step


def program(folder: Path, name: str, *arguments: str) -> str:
    done = made_programs.run(name, *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_a_killed_run_goes_on_and_is_scored(run_folder):
    folder, step = run_folder
    run = folder / "runs" / "sathmr_tiny"
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == step + 2
    assert last["state_dict"]["net.num_steps"] == step + 2
    report = json.loads((run / "report.json").read_text())
    metrics = report["tests"]["scenes"]["metrics"]
    assert report["method"] == "sathmr"
    assert {"mpjpe", "pa_mpjpe", "pve", "recall", "precision", "f1", "nmje", "nmve"} <= set(metrics)
    assert metrics["f1"]["value"] == 0.0  # nobody is found after so few steps


@pytest.fixture(scope="module")
def eager(run_folder):
    """The checkpoint with a network that believes to see somebody everywhere."""
    folder, _ = run_folder
    path = folder / "runs" / "sathmr_tiny" / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    content["state_dict"]["net.conf_head.bias"] += 8.0
    torch.save(content, folder / "eager.ckpt")
    return folder


def test_eval_scores_everybody_who_is_found_beside_the_mean_pose(eager):
    text = program(eager, "eval", "checkpoint=eager.ckpt", "output=scored", "num_pictures=1")
    test = json.loads((eager / "scored" / "report.json").read_text())["tests"]["scenes"]
    rows = np.load(eager / "scored" / "rows.npz")
    num_labels = int(np.isfinite(rows["scenes/recall"]).sum())
    assert test["num_samples"] == len(rows["scenes/recall"]) > num_labels  # nobodies are rows too
    assert 0 < test["metrics"]["recall"]["value"] <= 1
    assert test["metrics"]["pa_mpjpe"]["baseline"] > 50
    found = np.isfinite(rows["scenes/pa_mpjpe"])
    np.testing.assert_allclose(
        test["metrics"]["mpjpe"]["value"], rows["scenes/mpjpe"][found].mean(), rtol=1e-5
    )
    assert "| scenes | F1" in text
    assert "data:image" in (eager / "scored" / "report.html").read_text()


def test_demo_draws_everybody_in_each_picture_for_each_score_in_two_processes(eager):
    pictures = eager / "photos" / "party"
    pictures.mkdir(parents=True)
    noise = np.random.default_rng(0)
    for name, size in (("a.jpg", (80, 120)), ("b.png", (120, 60))):
        Image.fromarray(noise.integers(0, 255, (*size, 3), np.uint8)).save(pictures / name)
    (pictures / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    program(
        *(eager, "demo", "checkpoint=eager.ckpt", "input=photos", "output=seen"),
        *("min_score=[0.5,0.999]", "formats=[overlay,npz,glb,maps]", "processes=2"),
    )
    for name in ("a", "b"):
        many = np.load(eager / "seen" / "score_0.5" / "party" / f"{name}.npz")
        few = np.load(eager / "seen" / "score_0.999" / "party" / f"{name}.npz")
        assert len(many["pose"]) == 8
        assert len(few["pose"]) < 8
        assert many["vertices_cam"].shape == (8, 6890, 3)
        np.testing.assert_array_equal(  # the most certain first
            few["pose"], many["pose"][: len(few["pose"])]
        )
        for kind in ("tokens", "scale_map"):
            assert (eager / "seen" / "party" / f"{name}_{kind}.jpg").is_file()
        drawn = np.asarray(
            Image.open(eager / "seen" / "score_0.5" / "party" / f"{name}_overlay.jpg")
        )
        assert drawn.shape[:2] == tuple(many["image_size"])


def test_a_video_becomes_a_video_with_everybody_in_it(eager):
    path = eager / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (96, 64))
    noise = np.random.default_rng(2)
    for _ in range(3):
        writer.write(noise.integers(0, 255, (64, 96, 3), np.uint8))
    writer.release()
    program(
        *(eager, "demo", "checkpoint=eager.ckpt", "input=clip.avi", "output=film"),
        "formats=[overlay]",
    )
    made = cv2.VideoCapture(str(eager / "film" / "clip_overlay.mp4"))
    assert made.get(cv2.CAP_PROP_FPS) == pytest.approx(10.0)
    shapes = []
    while (frame := made.read())[0]:
        shapes.append(frame[1].shape)
    assert shapes == 3 * [(64, 96, 3)]


def test_agoras_archive_holds_everybody_of_every_image(eager):
    pictures = eager / "agora" / "test"
    pictures.mkdir(parents=True)
    noise = np.random.default_rng(1)
    for i in range(3):
        image = Image.fromarray(noise.integers(0, 255, (72, 128, 3), np.uint8))
        image.save(pictures / f"ag_{i}.png")
    program(eager, "prepare", "source=agora_test", "input=agora")
    program(eager, "eval", "checkpoint=eager.ckpt", "output=sent", "submission=agora")
    with zipfile.ZipFile(eager / "sent" / "agora_test.zip") as archive:
        names = archive.namelist()
        assert names == [f"predictions/ag_{i}_personId_{p}.pkl" for i in range(3) for p in range(8)]
        person = pickle.loads(archive.read(names[0]))
    assert person["joints"].shape == (24, 2)
    assert person["joints"].dtype == np.float32
    assert {n: v.shape for n, v in person["params"].items()} == {
        "transl": (1, 3),
        "betas": (1, 10),
        "global_orient": (1, 1, 3),
        "body_pose": (1, 23, 3),
    }


def test_a_checkpoint_of_another_size_of_network_is_named(eager):
    content = torch.load(eager / "eager.ckpt", weights_only=True)
    content["hyper_parameters"]["config"]["model"]["net"]["num_queries"] = 9
    torch.save(content, eager / "other.ckpt")
    with pytest.raises(ValueError, match=r"query_content.* is \(8, 32\) in the file but \(9, 32\)"):
        load_checkpoint(eager / "other.ckpt")
