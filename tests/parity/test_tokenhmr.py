"""TokenHMR and HMR2.0 against the authors' code: every case of a folder, by its kind."""

import pytest
import tokenhmr_data
import tokenhmr_data_tars
import tokenhmr_metrics
import tokenhmr_nets
from parity_case import Case


def test_case(case: Case, tmp_path):
    kinds = [kind for kind in KINDS if case.name.startswith(kind)]
    if not kinds:
        pytest.fail(f"unknown kind of case: {case.name} (known: {', '.join(KINDS)})")
    KINDS[kinds[0]](case, tmp_path)


KINDS = {
    "tokenhmr_forward": tokenhmr_nets.check_forward,
    "hmr2_forward": tokenhmr_nets.check_forward,
    "tokenhmr_train_loss": tokenhmr_nets.check_train_loss,
    "hmr2_train_loss": tokenhmr_nets.check_train_loss,
    "tokenizer": tokenhmr_nets.check_tokenizer,
    "data_npz_eval": tokenhmr_data.check_npz_eval,
    "data_demo_crop": tokenhmr_data.check_demo_crop,
    "data_augment": tokenhmr_data.check_augment,
    "data_tar": tokenhmr_data_tars.check_tar,
    "data_bedlam": tokenhmr_data_tars.check_bedlam,
    "geometry": tokenhmr_data.check_geometry,
    "eval_metrics": tokenhmr_metrics.check_eval_metrics,
}
