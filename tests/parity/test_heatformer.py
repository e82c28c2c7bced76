"""HeatFormer's code: every case of a folder, by its kind."""

import heatformer_data
import pytest
from parity_case import Case


def test_case(case: Case, tmp_path):
    kinds = [kind for kind in KINDS if case.name.startswith(kind)]
    if not kinds:
        pytest.fail(f"unknown kind of case: {case.name} (known: {', '.join(KINDS)})")
    KINDS[kinds[0]](case, tmp_path)


KINDS = {
    "data_h36m": heatformer_data.check_data,
    "data_mpii3d": heatformer_data.check_data,
    "data_behave": heatformer_data.check_data,
}
