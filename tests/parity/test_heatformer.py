"""HeatFormer's code: every case of a folder, by its kind."""

import heatformer_data
import heatformer_nets
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
    "rotations": heatformer_nets.check_rotations,
    "positional_encoding": heatformer_nets.check_positional_encoding,
    "heatmap_render": heatformer_nets.check_heatmap_render,
    "heatmap_fusion": heatformer_nets.check_heatmap_fusion,
    "smpl_projection": heatformer_nets.check_smpl_projection,
    "encoders": heatformer_nets.check_encoders,
    "single_step": heatformer_nets.check_single_step,
    "loss_terms": heatformer_nets.check_loss_terms,
    "train_loss": heatformer_nets.check_train_loss,
    "metrics": heatformer_nets.check_metrics,
    "forward": heatformer_nets.check_forward,
}
