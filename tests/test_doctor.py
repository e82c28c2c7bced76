"""The doctor says what works here and what to do about the rest; other errors send people to it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from hmrkit.body.files import smpl_body
from hmrkit.body.free import write_smplx_pickle
from hmrkit.diagnosis import files, software
from hmrkit.render import pyrender_backend

ROOT = Path(__file__).parents[1]


def lines_of(done) -> dict[str, dict]:
    return {line["name"]: line for line in json.loads(done.stdout)["lines"]}


def break_module(folder: Path, name: str, error: str) -> None:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(f"raise {error}\n")


def test_a_bare_machine_works_and_every_gap_has_its_remedy(program):
    done = program("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Training, evaluation and the demo work here" in done.stdout
    assert re.search(r"ok +free +6890 vertices, CC0", done.stdout)
    assert re.search(r"WARN +SMPL neutral", done.stdout)
    assert "register at smpl.is.tue.mpg.de" in done.stdout


def test_what_is_broken_is_named_with_the_remedy(program, tmp_path: Path):
    """A torchvision that does not fit torch, no OpenGL, no video library, a damaged body."""
    fakes = tmp_path / "fakes"
    fakes.mkdir()
    break_module(fakes, "torchvision", "RuntimeError('operator torchvision::nms does not exist')")
    break_module(fakes, "pyrender", "ImportError('Unable to load EGL library')")
    break_module(fakes, "av", "ImportError('no av here')")
    (tmp_path / "bodies").mkdir()
    (tmp_path / "bodies" / "SMPL_MALE.pkl").write_bytes(b"not a pickle")
    done = program(
        "doctor",
        "json=true",
        "body_models=bodies",
        fresh=True,
        PYTHONPATH=f"{fakes}:{ROOT / 'src'}",
    )
    assert done.returncode == 1, done.stderr
    lines = lines_of(done)
    assert lines["torchvision"]["status"] == "fail"
    assert "torchvision::nms" in lines["torchvision"]["found"]
    assert "pip uninstall torchvision" in lines["torchvision"]["remedy"]
    assert lines["pictures"]["status"] == "ok"
    assert "NumPy" in lines["pictures"]["found"]
    assert lines["H.264"]["status"] == "fail"
    assert "pip install --force-reinstall av" in lines["H.264"]["remedy"]
    assert lines["SMPL male"]["status"] == "fail"
    assert "SMPL_MALE.pkl" in lines["SMPL male"]["found"]
    assert all(line["remedy"] for line in lines.values() if line["status"] != "ok")


def test_a_torch_that_cannot_be_imported_does_not_stop_the_page(program, tmp_path: Path):
    fakes = tmp_path / "fakes"
    fakes.mkdir()
    break_module(fakes, "torch", "OSError('libcudart.so.13: cannot open shared object file')")
    done = program("doctor", "json=true", fresh=True, PYTHONPATH=f"{fakes}:{ROOT / 'src'}")
    assert done.returncode == 1, done.stderr
    lines = lines_of(done)
    assert "libcudart" in lines["torch"]["found"]
    assert "pytorch.org" in lines["torch"]["remedy"]
    assert lines["Python"]["status"] == lines["JPEG"]["status"] == "ok"


def test_body_files_are_shown_with_family_version_and_hash(tmp_path: Path):
    write_smplx_pickle(tmp_path / "basicmodel_m_lbs_10_207_0_v1.1.0.pkl")
    np.save(tmp_path / "J_regressor_h36m.npy", np.zeros((17, 6890), np.float32))
    np.save(tmp_path / "J_regressor_extra.npy", np.zeros((9, 3), np.float32))
    lines = {line.name: line for line in files.check_bodies(tmp_path)}
    male = lines["SMPL male"]
    assert male.status == "ok"
    assert "SMPL 1.1.0, 10 betas" in male.found
    assert re.search(r"basicmodel_m.*MB, [0-9a-f]{12}$", male.found)
    assert lines["SMPL female"].status == "warn"
    assert lines["J_regressor_h36m.npy"].status == "ok"
    assert lines["J_regressor_extra.npy"].status == "fail"


def test_weights_of_recipes_are_found_by_name(tmp_path: Path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("a: ${paths.weights}/one.pth\nb: ${paths.weights}/two.ckpt # theirs\n")
    (tmp_path / "one.pth").write_bytes(b"weights")
    there, missing = files.check_weights(tmp_path, [recipe])
    assert (there.name, there.status) == ("one.pth", "ok")
    assert "mine" in there.found
    assert "two.ckpt" in missing.found
    assert missing.remedy


def test_weights_of_the_detector_are_looked_for_where_torchvision_keeps_them(
    tmp_path: Path, monkeypatch
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    (missing,) = files.check_detector(name)
    assert missing.status == "warn"
    assert "https://" in missing.remedy
    path = Path(missing.found.removeprefix("detector=torchvision: no "))
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    assert next(files.check_detector(name)).status == "ok"
    assert next(files.check_detector("no_such_net")).status == "warn"


def test_every_extra_for_users_is_looked_at():
    text = (ROOT / "pyproject.toml").read_text()
    table = re.search(r"\[project\.optional-dependencies\]\n(.*?)\n\[", text, re.DOTALL)[1]
    extras = set(re.findall(r"^(\w+) = ", table, re.MULTILINE)) - {"test", "dev"}
    assert extras == set(software.EXTRAS)


def test_a_missing_body_and_a_missing_opengl_send_to_the_doctor(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"python -m hmrkit\.doctor"):
        smpl_body(tmp_path)
    assert "python -m hmrkit.doctor" in pyrender_backend.REMEDY
