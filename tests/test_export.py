"""Every method of crops becomes a graph that computes the same without hmrkit."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from hmrkit import graph
from hmrkit.body import joints
from hmrkit.checkpoints import save_checkpoint
from hmrkit.configs import config_dir
from made_networks import tiny_module

EXPERIMENTS = sorted(p.stem for p in Path(config_dir(), "experiment").glob("*_tiny.yaml"))
CROPS = ("cliff_tiny", "hmr2_tiny", "hmr_tiny", "metahmr_tiny", "pymaf_tiny", "tokenhmr_tiny")


def assert_same(made: graph.CropGraph, path: Path) -> None:
    """The file computes what PyTorch does, for batches that it was not traced with."""
    rows = graph.compare(made, graph.open_graph(path, 1), (1, 3))
    assert {row.output for row in rows} >= {"rotmat", "betas", "transl_cam", "intrinsics_crop"}
    assert not [row for row in rows if not row.is_within(1e-4)]


def test_every_recipe_of_crops_is_exported_here():
    looking = {"rigs": ("heatformer",), "scenes": ("sathmr",), "poses": ("tokenhmr_tokenizer",)}
    others = {f"{name}_tiny" for names in looking.values() for name in names}
    assert set(EXPERIMENTS) - others == set(CROPS)


@pytest.mark.slow
@pytest.mark.parametrize("experiment", CROPS)
def test_the_files_of_a_method_compute_the_same(experiment: str, tmp_path: Path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    joint_set = "coco17" if experiment == "hmr_tiny" else None  # the mesh is the same for all
    few = ["model.net.num_loops=2"] if experiment == "pymaf_tiny" else []
    made = graph.make_graph(tiny_module(experiment, *few), joint_set)
    program = graph.trace_graph(made)
    for name in ("x.pt2", "x.onnx"):
        graph.write_graph(made, program, tmp_path / name)
        assert_same(made, tmp_path / name)


def test_the_command_writes_mesh_and_named_joints_and_prints_parity_and_times(
    program, tmp_path: Path
):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    module = tiny_module("hmr_tiny", "data.cut.input_size=[32,32]", "model.net.backbone.width=4")
    save_checkpoint(module, tmp_path / "x.ckpt")
    options = ("joint_set=coco17", "batch_sizes=[1,2]", "repetitions=1")
    done = program("export", "checkpoint=x.ckpt", "output=out/x.onnx", *options)
    assert done.returncode == 0, done.stderr
    assert "| vertices |" in done.stdout
    assert "ms per crop" in done.stdout
    about = json.loads((tmp_path / "out" / "x.json").read_text())
    assert about["joint_names"] == list(joints.names("coco17"))
    assert np.shape(about["faces"]) == tuple(module.body.faces.shape)
    assert about["inputs"]["image"]["shape"] == [3, 32, 32]
    inputs = graph.example_inputs((32, 32), (), 5)
    outputs = graph.open_graph(tmp_path / "out" / "x.onnx", 1)(inputs)
    assert list(outputs) == list(about["outputs"])
    ours = graph.eager(graph.make_graph(module, "coco17"))(inputs)
    np.testing.assert_allclose(outputs["vertices"], ours["vertices"], atol=1e-5)
    np.testing.assert_allclose(outputs["joints"], ours["joints"], atol=1e-5)


def test_a_network_is_asked_what_it_reads():
    assert graph.make_graph(tiny_module("hmr_tiny"), None).extra_inputs == ()
    of_cliff = graph.make_graph(tiny_module("cliff_tiny"), None).extra_inputs
    assert of_cliff == ("crop_to_img", "full_size", "intrinsics_of_view")


def test_methods_that_see_whole_pictures_are_refused_by_name():
    with pytest.raises(ValueError, match="SATHMR"):
        graph.make_graph(tiny_module("sathmr_tiny"), None)


def test_an_unknown_ending_and_a_missing_package_are_answered(tmp_path: Path, monkeypatch):
    with pytest.raises(ValueError, match=r"\.onnx or \.pt2"):
        graph.check_output(tmp_path / "x.engine")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ValueError, match=r"hmrkit\[onnx\].*hmrkit\.doctor"):
        graph.check_output(tmp_path / "x.onnx")
    graph.check_output(tmp_path / "x.pt2")
