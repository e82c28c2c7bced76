"""``--cases DIR`` and one test per case: every json of a case folder, whatever its name."""

from pathlib import Path

import pytest
from parity_case import Case

HERE = Path(__file__).parent


def pytest_addoption(parser):
    parser.addoption(
        "--cases", action="append", help="folder of parity cases to run instead of the method's own"
    )


def pytest_generate_tests(metafunc):
    if "case" not in metafunc.fixturenames:
        return
    method = Path(metafunc.module.__file__).stem.removeprefix("test_")
    folders = metafunc.config.getoption("cases", default=None) or [HERE / "cases" / method]
    paths = [path for folder in folders for path in sorted(Path(folder).glob("*.json"))]
    if not paths:
        raise pytest.UsageError(f"no parity case (*.json) in {', '.join(map(str, folders))}")
    metafunc.parametrize("case", [Case(path) for path in paths], ids=[p.stem for p in paths])
