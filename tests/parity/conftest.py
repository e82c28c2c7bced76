"""``--cases DIR`` and one test per case: every json of a case folder, whatever its name."""

import re
from pathlib import Path

import pytest
from parity_case import Case

HERE = Path(__file__).parent
# Networks of the official size in up to 15 steps: half a minute to three, up to 9 GB.
FULL_SIZE = re.compile(r"forward_full|train_full|tto_\w+_(resnet50|hrnet48)|train_cliff_hrnet48")


def pytest_addoption(parser):
    parser.addoption(
        "--cases", action="append", help="folder of parity cases to run instead of the method's own"
    )


def _parameter(path):
    marks = [pytest.mark.full_size] if FULL_SIZE.search(path.stem) else []
    return pytest.param(Case(path), id=path.stem, marks=marks)


def pytest_generate_tests(metafunc):
    if "case" not in metafunc.fixturenames:
        return
    method = Path(metafunc.module.__file__).stem.removeprefix("test_")
    folders = metafunc.config.getoption("cases", default=None) or [HERE / "cases" / method]
    paths = [path for folder in folders for path in sorted(Path(folder).glob("*.json"))]
    if not paths:
        raise pytest.UsageError(f"no parity case (*.json) in {', '.join(map(str, folders))}")
    metafunc.parametrize("case", [_parameter(path) for path in paths])
