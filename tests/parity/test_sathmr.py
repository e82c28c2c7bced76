"""SAT-HMR against its authors' code: every case of a folder, by its kind."""

import pytest
import sathmr_nets
import sathmr_pieces
from parity_case import Case


def test_case(case: Case, tmp_path):
    kinds = [kind for kind in KINDS if case.name.startswith(kind)]
    if not kinds:
        pytest.fail(f"unknown kind of case: {case.name} (known: {', '.join(KINDS)})")
    KINDS[kinds[0]](case, tmp_path)


KINDS = {
    "data": sathmr_pieces.check_data,
    "forward": sathmr_nets.check_forward,
    "train": sathmr_nets.check_train,
    "criterion": sathmr_nets.check_criterion,
    "sat_tokens": sathmr_pieces.check_sat_tokens,
    "pieces": sathmr_pieces.check_pieces,
    "eval": sathmr_pieces.check_evaluation,
    "visualize": sathmr_pieces.check_pictures,
}
