"""SAT-HMR against its authors' code: every case of a folder, by its kind."""

import pytest
import sathmr_data
from parity_case import Case


def test_case(case: Case, tmp_path):
    kinds = [kind for kind in KINDS if case.name.startswith(kind)]
    if not kinds:
        pytest.fail(f"unknown kind of case: {case.name} (known: {', '.join(KINDS)})")
    KINDS[kinds[0]](case, tmp_path)


KINDS = {"data": sathmr_data.check_data}
