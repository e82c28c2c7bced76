"""PyMAF's code: every case of a folder, by its kind."""

import pymaf_data
import pymaf_nets
import pymaf_scores
import pytest
from parity_case import Case


def test_case(case: Case, tmp_path):
    kinds = [kind for kind in KINDS if case.name.startswith(kind)]
    if not kinds:
        pytest.fail(f"unknown kind of case: {case.name} (known: {', '.join(KINDS)})")
    KINDS[kinds[0]](case, tmp_path)


def check_demo(case: Case, tmp_path):
    pymaf_data.check_demo_crops(case, tmp_path)
    pymaf_scores.check_demo_cameras(case)


KINDS = {
    "forward": pymaf_nets.check_forward,
    "train_loss": pymaf_nets.check_train_loss,
    "maf_sampling": pymaf_nets.check_maf_sampling,
    "iuv_losses": pymaf_nets.check_iuv_losses,
    "iuv_render": pymaf_nets.check_iuv_render,
    "geometry": pymaf_nets.check_geometry,
    "data_path": pymaf_data.check_data,
    "fits_dict": pymaf_data.check_fits,
    "demo_prepost": check_demo,
    "eval_metrics": pymaf_scores.check_eval_metrics,
    "eval_coco": pymaf_scores.check_eval_coco,
    "hmr_forward": pymaf_scores.check_hmr_forward,
}
