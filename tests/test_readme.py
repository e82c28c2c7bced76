"""README's commands are real: the set-up lines are CI's, the others compose."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split(" #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if "hmrkit." in line
]


def test_ci_runs_readmes_test_command():
    ci = (ROOT / ".ci/run").read_text()
    install, test = (
        'pip install -e ".[test]"',
        'bin/pytest -n 2 --dist loadgroup -m "not full_size"',
    )
    assert install in README
    assert install.split(" ", 1)[1].split('"')[1] in ci
    assert README.count(test) >= 1
    assert test.replace("pytest", 'pytest"', 1) in ci


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_is_understood(program, command: str, tmp_path: Path):
    words = shlex.split(command.split("&&")[-1])
    module = words[words.index("-m") + 1]
    arguments = words[words.index("-m") + 2 :]
    if "-m" in arguments:  # a sweep: its first job
        arguments = [re.sub(r"=interval\((\S+?),.*|=([^,]+),.*", r"=\1\2", a) for a in arguments]
        arguments.remove("-m")
    checkpoint = tmp_path / "runs/quickstart/checkpoints/last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    done = program(module.removeprefix("hmrkit."), *arguments, "--cfg", "job")
    assert done.returncode == 0, done.stderr


def test_every_file_that_readme_links_to_exists():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
