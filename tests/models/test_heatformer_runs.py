"""HeatFormer as people run it: train, resume, evaluate, two processes, the demo of a rig."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from made_rig_folders import made_rig, write_rig

import made_programs

SOURCES = {"train.rigs": 12, "val.rigs": 2, **{f"test.views_{n}": 3 for n in (1, 2, 3, 4)}}
SMALL = [
    "experiment=heatformer_tiny",
    *(f"mix.{name}.synth.num={num}" for name, num in SOURCES.items()),
    *(f"mix.{name}.synth.image_size=64" for name in SOURCES),
    "data.num_workers=0",
    "data.cut.crops.input_size=[32,32]",
    "data.cut.crops.fit_aspect_hw=[1,1]",
    "data.cut.keypoint_crops.input_size=[32,32]",
    "model.net.input_size=[32,32]",
    "model.net.keypoint_size=[32,32]",
    "model.net.map_size=16",
    "model.net.backbone.image_size=[32,32]",
    "model.net.heatmapper.width=4",
    "initial_weights.heatmapper=null",
    "trainer.val_check_interval=2",
    "trainer.log_every_n_steps=1",
    "trainer.precision=32-true",
    "callbacks.checkpoint.every_n_train_steps=2",
    "num_pictures=1",
    "threads=1",
]
LAST = "runs/heatformer_tiny/checkpoints/last.ckpt"


def test_train_resume_eval_and_the_demo_of_a_rig(program, tmp_path: Path):
    steps = [*SMALL, "data.batch_size=2", "model.scheduler.total_steps=4"]
    done = program("train", *steps, "trainer.max_steps=2", "test=false")
    assert done.returncode == 0, done.stderr
    done = program("train", *steps, "trainer.max_steps=4", "resume=true")
    assert done.returncode == 0, done.stderr
    assert torch.load(tmp_path / LAST, weights_only=True)["global_step"] == 4
    trained = json.loads((tmp_path / "runs/heatformer_tiny/report.json").read_text())
    for num_views in (1, 2, 3, 4):
        test = trained["tests"][f"views_{num_views}"]
        assert test["num_samples"] == 3 * num_views
        entry = test["metrics"]["pa_mpjpe"]
        assert len(entry["stages"]) == 2
        assert entry["baseline"] > 50
        assert {"mpjpe", "pve", "person_pa_mpjpe", "world_mpjpe"} <= test["metrics"].keys()
    done = program("eval", f"checkpoint={LAST}", "output=scored", "num_pictures=0")
    assert done.returncode == 0, done.stderr
    scored = json.loads((tmp_path / "scored/report.json").read_text())
    for source, test in trained["tests"].items():
        for name, entry in test["metrics"].items():
            value = scored["tests"][source]["metrics"][name]["value"]
            assert value == pytest.approx(entry["value"], rel=1e-4), (source, name)
    write_rig(tmp_path / "rig", made_rig(num_instants=2))
    done = program(
        "demo", f"checkpoint={LAST}", "input=rig", "calibration=rig/cameras.json", "output=shown"
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "shown").glob("*/*_overlay.jpg"))) == 8
    with np.load(tmp_path / "shown/000001.npz") as people:
        vertices, faces = people["vertices_world"], people["faces"]
        assert people["cameras"].tolist() == ["cam0", "cam1", "cam2", "cam3"]
    mesh = trimesh.load(tmp_path / "shown/000001.glb", force="mesh")
    assert len(mesh.faces) == len(faces)
    np.testing.assert_allclose(mesh.bounds[0], vertices[0].min(axis=0), atol=1e-4)


def test_two_processes_train_as_one_with_twice_the_batch(tmp_path: Path):
    weights = []
    for devices, batch_size in ((1, 4), (2, 2)):
        name = f"devices_{devices}"
        start = made_programs.run if devices == 1 else made_programs.run_two
        done = start(
            "train",
            *SMALL,
            f"name={name}",
            f"trainer.devices={devices}",
            "trainer.accelerator=cpu",
            f"trainer.strategy={'auto' if devices == 1 else 'ddp'}",
            f"data.batch_size={batch_size}",
            "data.cut.min_views=null",
            "model.net.trainable=[initial,heat_encoder]",  # no norm over the batch
            "model.optimizer={_target_:torch.optim.SGD,_partial_:true,lr:1.0e-4}",
            "model.scheduler=null",
            "trainer.max_steps=2",
            "test=false",
            "+trainer.limit_val_batches=0",
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        content = torch.load(tmp_path / f"runs/{name}/checkpoints/last.ckpt", weights_only=True)
        weights.append(content["state_dict"])
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=1e-6, rtol=1e-4, msg=name)
