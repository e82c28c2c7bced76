"""The wheel carries what a user needs: built for real, unpacked, run from an empty folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content in a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    (sdist,) = folder.glob("*.tar.gz")
    assert wheel.stat().st_size < 3_000_000  # a body and two small networks are most of it
    assert sdist.stat().st_size < 3_000_000
    site = folder / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def run(installed: Path, cwd: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_wheel_composes_its_own_configs(installed: Path, tmp_path: Path):
    done = run(installed, tmp_path, "-m", "hmrkit.train", "experiment=quickstart", "--cfg", "job")
    assert done.returncode == 0, done.stderr
    assert "name: quickstart" in done.stdout
    where = run(installed, tmp_path, "-c", "import hmrkit.configs as c; print(c.config_dir())")
    assert where.stdout.strip() == str(installed / "hmrkit" / "configs_hydra")


def test_the_wheel_carries_the_body_and_its_licence(installed: Path, tmp_path: Path):
    code = "from hmrkit.body.free import free_body; print(free_body().num_vertices)"
    done = run(installed, tmp_path, "-c", code)
    assert done.stdout.strip() == "6890", done.stderr
    assert (installed / "hmrkit/body/free_body.LICENSE").is_file()


def test_console_scripts_point_at_the_programs(installed: Path, tmp_path: Path):
    (entry_points,) = installed.glob("*.dist-info/entry_points.txt")
    targets = [
        line.split("=")[1].strip() for line in entry_points.read_text().splitlines() if "=" in line
    ]
    assert "hmrkit.train:main" in targets
    for target in targets:
        module, function = target.split(":")
        done = run(installed, tmp_path, "-c", f"from {module} import {function}")
        assert done.returncode == 0, done.stderr
