"""Evaluations that are killed, gone on with, written down and scored again."""

import io
import json
import os
import pickle
import re
import signal
import subprocess
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch

import made_programs
from hmrkit.body.free import free_body
from hmrkit.geometry.rotations import axis_angle_to_rotmat
from hmrkit.layers.resnet import ResNet
from hmrkit.models.hmr.model import HMR
from hmrkit.scene_evaluation import detected
from hmrkit.scoring.archives import read_agora_archive, read_phalp
from hmrkit.types import Body
from made_quickstart import tiny_sizes

Program = Callable[..., "subprocess.CompletedProcess[str]"]
LAST = "runs/quickstart/checkpoints/last.ckpt"
QUIET = ["num_pictures=0", "threads=1"]


@pytest.fixture
def trained(program: Program, tiny_overrides: list[str], tmp_path: Path) -> Path:
    done = program("train", *tiny_overrides, "test=false", "trainer.max_steps=2")
    assert done.returncode == 0, done.stderr
    return tmp_path


def rows(folder: Path) -> dict[str, np.ndarray]:
    table = np.load(folder / "rows.npz")
    return {name: table[name] for name in table.files if not name.endswith("_ms")}


def assert_same(first: Path, second: Path, atol: float = 0.0):
    ours, theirs = rows(first), rows(second)
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(ours[name], values, rtol=0, atol=atol, err_msg=name)
        else:
            np.testing.assert_array_equal(ours[name], values, err_msg=name)


def test_a_killed_evaluation_goes_on_where_it_was(program: Program, trained: Path):
    whole = program("eval", f"checkpoint={LAST}", "output=whole", *QUIET)
    assert whole.returncode == 0, whole.stderr
    arguments = [f"checkpoint={LAST}", "output=killed", "save_every_s=0", *QUIET]
    process = made_programs.start("eval", *arguments, "+data.batch_size=1", cwd=trained)
    parts, deadline = trained / "killed/rows_parts", time.monotonic() + 120
    while len(list(parts.glob("*.npz"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    if process.wait(timeout=60) == 0:  # it was faster than the signal
        pytest.skip("the evaluation ended before the signal")
    num_kept = len(list(parts.glob("*.npz")))
    assert 3 <= num_kept < 32
    other = program("eval", *arguments, "resume=true", "+data.batch_size=2")
    assert other.returncode == 2
    assert "another evaluation (options" in other.stderr
    done = program("eval", *arguments, "resume=true", "+data.batch_size=1")
    assert done.returncode == 0, done.stderr
    assert f"{num_kept} rows are there already" in done.stdout + done.stderr
    assert not parts.exists()
    assert_same(trained / "killed", trained / "whole", atol=1e-3)  # mm; batches differ
    again = program("eval", *arguments, "resume=true", "+data.batch_size=1")  # from rows alone
    assert again.returncode == 0, again.stderr
    assert_same(trained / "killed", trained / "whole", atol=1e-3)


def test_predictions_that_were_written_down_score_as_the_network_did(
    program: Program, trained: Path
):
    one = program("eval", f"checkpoint={LAST}", "output=one", "predictions_out=said.npz", *QUIET)
    assert one.returncode == 0, one.stderr
    where = json.loads((trained / "one/report.json").read_text())["meta"]["config"]
    datasets = Path(where["mix"]["test"]["quickstart"]["path"]).parent
    sizes = ["mix.test.quickstart.synth.num=32", "mix.test.quickstart.synth.image_size=64"]
    preset = ["eval=quickstart", f"paths.datasets={datasets}", *sizes]
    two = program("eval", "predictions=said.npz", *preset, "output=two", *QUIET)
    assert two.returncode == 0, two.stderr
    assert_same(trained / "two", trained / "one")
    other = ["eval=synthetic", "mix.test.synthetic.synth.num=2", "output=three"]
    wrong = program("eval", "predictions=said.npz", *other, *QUIET)
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr


@pytest.mark.slow
def test_an_authors_file_scores_as_what_it_is_converted_to(
    program: Program, tiny_shards: Path, tmp_path: Path
):
    torch.manual_seed(0)
    weights = HMR(ResNet([1, 1, 1, 1]), free_body(), (224, 224)).state_dict()
    weights = {k.removeprefix("backbone.").removeprefix("head."): v for k, v in weights.items()}
    torch.save({"model": weights}, tmp_path / "official.pt")
    square = "+options.input_size=[224,224]"
    made = ["convert", "model=hmr", "checkpoint=official.pt", "output=ours.ckpt", "body=free"]
    done = program(*made, square)
    assert done.returncode == 0, done.stderr
    sizes = [size for size in tiny_sizes() if size.startswith("mix.test.")]
    test = ["eval=quickstart", f"paths.datasets={tiny_shards}", *sizes, *QUIET]
    for name, of in (("a", ["official.pt", "official=hmr", square]), ("b", ["ours.ckpt"])):
        body = ["body=free"] if name == "a" else []
        done = program("eval", f"checkpoint={of[0]}", *of[1:], *body, *test, f"output={name}")
        assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "a", tmp_path / "b")


def test_two_processes_measure_what_one_does(program: Program, trained: Path):
    uneven = [f"checkpoint={LAST}", "+data.batch_size=3", *QUIET]
    one = program("eval", *uneven, "output=one")
    assert one.returncode == 0, one.stderr
    ddp = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    two = made_programs.run_two("eval", *uneven, "output=two", *ddp, cwd=trained)
    assert two.returncode == 0, two.stderr
    reports = [json.loads((trained / n / "report.json").read_text()) for n in ("one", "two")]
    first, second = (report["tests"]["quickstart"] for report in reports)
    assert first["num_samples"] == second["num_samples"] == 32
    for name, entry in first["metrics"].items():
        assert second["metrics"][name]["value"] == pytest.approx(entry["value"], rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give checkpoint="),
        (["checkpoint=a.ckpt", "predictions=b.npz"], "give checkpoint="),
        (["predictions=lost.npz"], "lost.npz"),
        (["checkpoint=lost.ckpt"], "lost.ckpt"),
        (["predictions=notes.txt"], "expected .npz"),
        (["checkpoint=a.ckpt", "eval=3dwp"], "3dpw"),
    ],
)
def test_a_mistake_gets_one_message(program: Program, tmp_path: Path, arguments, words):
    (tmp_path / "notes.txt").write_text("x")
    done = program("eval", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_predictions_cannot_name_code(program: Program, tmp_path: Path):
    config = {"body": {"_target_": "os.system", "command": "touch owned"}, "data": {}}
    np.savez(tmp_path / "bad.npz", config=np.array(json.dumps(config)))
    done = program("eval", "predictions=bad.npz", "eval=quickstart")
    assert done.returncode == 2
    assert "os.system" in done.stderr
    assert not (tmp_path / "owned").exists()


def agora_person(angle: float) -> dict:
    return {
        "joints": np.full((24, 2), 1920.0, np.float32),
        "params": {
            "transl": np.zeros((1, 3)),
            "betas": np.full((1, 10), angle, np.float32),
            "global_orient": np.zeros((1, 1, 3), np.float32),
            "body_pose": np.full((1, 23, 3), angle, np.float32),
        },
    }


def test_an_archive_for_agora_is_read_without_running_it(tmp_path: Path):
    path = tmp_path / "pred.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, angle in (("a_personId_0", 0.1), ("b_personId_0", 0.2), ("b_personId_1", 0.3)):
            content = pickle.dumps(agora_person(angle))
            archive.writestr(f"predictions/{name}.pkl", content)
    people = read_agora_archive(path)
    rows = people.rows_of("b")
    np.testing.assert_allclose(people.betas[rows, 0], [0.2, 0.3])
    sizes = np.array([[720, 1280], [720, 1280]]), np.array([[362, 644], [362, 644]])
    prediction = people.prediction(rows, np.array([0, 0]), *sizes, "cpu")
    np.testing.assert_allclose(prediction.extra["joints_px"], 322.0)  # the middle of 644
    assert people.rows_of("c") is None

    class Evil:
        def __reduce__(self):
            return os.system, ("touch owned",)

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("predictions/a_personId_0.pkl", pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="system"):
        read_agora_archive(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("predictions/a_personId_0.pkl", pickle.dumps({"joints": 3}))
    with pytest.raises(ValueError, match="a_personId_0"):
        read_agora_archive(path)


def write_archive(path: Path, people: dict[str, dict]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in people.items():
            archive.writestr(f"predictions/{name}.pkl", pickle.dumps(content))
    return path


def test_both_kinds_of_an_agora_archive_score_the_same(tmp_path: Path):
    """Parameters, rotation matrices in their place, and the mesh they make."""
    body_model = free_body()
    vectors = agora_person(0.2)
    turns = axis_angle_to_rotmat(torch.full((24, 3), 0.2))
    turns[0] = torch.eye(3)
    params = vectors["params"] | {
        "global_orient": turns[None, :1].numpy(),
        "body_pose": turns[None, 1:].numpy(),
    }
    posed = body_model(
        Body(turns[None, 0], turns[None, 1:], torch.full((1, 10), 0.2), torch.ones(1, 3))
    )
    mesh = {"verts": posed.vertices[0].numpy(), "allSmplJoints3d": posed.joints[0].numpy()}
    kinds = {
        "vectors": vectors,
        "matrices": vectors | {"params": params, "pose2rot": False},
        "mesh": {"joints": vectors["joints"]} | mesh,
    }
    sizes = np.array([[720, 1280]]), np.array([[362, 644]])
    for kind, content in kinds.items():
        people = read_agora_archive(write_archive(tmp_path / "a.zip", {"a_personId_0": content}))
        prediction = people.prediction(np.array([0]), np.array([0]), *sizes, "cpu")
        found = detected(prediction, 0.5)
        own = found.mesh or body_model(found.body)
        assert (found.mesh is not None) == (kind == "mesh")
        for points, expected in ((own.vertices, posed.vertices), (own.joints, posed.joints)):
            pelvis, other = own.joints[:, :1], posed.joints[:, :1]
            torch.testing.assert_close(points - pelvis, expected - other, atol=1e-5, rtol=0)


def test_what_an_agora_archive_lacks_is_named(tmp_path: Path):
    person = agora_person(0.1)
    verts = np.zeros((6890, 3), np.float32)
    mistakes = [
        ({"a_personId_0": {"joints": person["joints"], "verts": verts}}, "allSmplJoints3d"),
        ({"a_personId_0": person | {"kid_flag": True}}, "child"),
        ({"a_personId_0": person | {"pose2rot": False}}, "a_personId_0"),
        ({"a_personId_0": {"params": person["params"]}}, "joints"),
        (
            {
                "a_personId_0": person,
                "b_personId_0": {
                    "joints": person["joints"],
                    "verts": verts,
                    "allSmplJoints3d": verts[:24],
                },
            },
            "several kinds",
        ),
    ]
    for people, words in mistakes:
        with pytest.raises(ValueError, match=words):
            read_agora_archive(write_archive(tmp_path / "a.zip", people))


def test_a_result_of_4d_humans_is_read_without_ghosts(tmp_path: Path):
    eye = np.tile(np.eye(3, dtype=np.float32), (23, 1, 1))
    smpl = [
        {"global_orient": eye[:1], "body_pose": eye, "betas": np.full(10, i, np.float32)}
        for i in range(3)
    ]
    frame = {
        "smpl": smpl,
        "camera": [np.array([0.0, 0.0, 10.0 + i]) for i in range(3)],
        "tracked_time": [0, 4, 0],
        "conf": [0.9, 0.8, 0.7],
    }
    nobody = {"smpl": [], "camera": [], "tracked_time": [], "conf": []}
    content = {"out/walk_00/image_00001.jpg": frame, "out/walk_00/image_00002.jpg": nobody}
    joblib.dump(content, tmp_path / "walk.pkl", compress=3)
    people = read_phalp(tmp_path / "walk.pkl")
    for key in ("walk_00-image_00001", "image_00001"):
        np.testing.assert_allclose(people.betas[people.rows_of(key), 0], [0, 2])
    assert len(people.rows_of("walk_00-image_00002")) == 0
    rows = people.rows_of("image_00001")
    prediction = people.prediction(
        rows, np.array([0, 0]), np.array([[720, 1280]] * 2), np.array([[362, 644]] * 2), "cpu"
    )
    focal = prediction.intrinsics_crop[0, 0, 0] * 1280 / 2
    assert float(focal) == pytest.approx(5000 / 256 * 1280)
    np.testing.assert_allclose(prediction.transl_cam[:, 2], [10, 12])
    np.testing.assert_allclose(prediction.score, [0.9, 0.7])
    (tmp_path / "other.pkl").write_bytes(pickle.dumps({"a": {"pose": 1}}))
    with pytest.raises(ValueError, match="no result of 4D-Humans"):
        read_phalp(tmp_path / "other.pkl")


def test_an_archive_is_scored_from_the_command_line(program: Program, tmp_path: Path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("predictions/a_personId_0.pkl", pickle.dumps(agora_person(0.1)))
    (tmp_path / "pred.zip").write_bytes(buffer.getvalue())
    sizes = ["mix.test.scenes.synth.num=2", "mix.test.scenes.synth.image_size=[64,96]"]
    sizes += ["+data.num_workers=0"]
    scene = ["eval=synthetic_scenes", "body=free", *sizes, *QUIET]
    done = program("eval", "predictions=pred.zip", *scene)
    assert done.returncode == 2
    assert "names none of the images" in done.stderr
    key = re.search(r"none of the images ([\w-]+)", done.stderr)[1]
    with zipfile.ZipFile(tmp_path / "pred.zip", "w") as archive:  # of one of the two images
        archive.writestr(f"predictions/{key}_personId_0.pkl", pickle.dumps(agora_person(0.1)))
    done = program("eval", "predictions=pred.zip", *scene, "output=scored")
    assert done.returncode == 0, done.stderr
    test = json.loads((tmp_path / "scored/report.json").read_text())["tests"]["scenes"]
    assert test["metrics"]["f1"]["value"] < 1
    assert test["metrics"]["recall"]["value"] < 0.6
