"""``pytest tests/parity/test_<m>.py --cases DIR``: the door through which unseen cases come."""

import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def run_door(folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pytest", str(HERE / "test_metahmr.py"), "-v"]
    return subprocess.run(
        [*command, "--cases", str(folder)], capture_output=True, text=True, check=False
    )


def test_every_json_is_one_test_chosen_by_the_kind_its_name_begins_with(tmp_path):
    for suffix in (".json", ".npz"):
        source = HERE / "cases" / "metahmr" / f"losses{suffix}"
        shutil.copy(source, tmp_path / f"losses_under_another_name{suffix}")
    (tmp_path / "dream_of_a_case.json").write_text('{"salt": "", "config": {}}')
    done = run_door(tmp_path)
    assert "[losses_under_another_name] PASSED" in done.stdout
    assert "[dream_of_a_case] FAILED" in done.stdout
    assert "unknown kind of case: dream_of_a_case" in done.stdout
    assert "1 failed, 1 passed" in done.stdout


def test_a_folder_without_cases_is_an_error(tmp_path):
    done = run_door(tmp_path)
    assert done.returncode != 0
    assert "no parity case" in done.stdout + done.stderr
