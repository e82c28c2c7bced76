"""Meta-HMR as it is trained: several processes, bfloat16, compiled backbones, whole runs."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from made_batches import labelled_crops, placed_in_images
from PIL import Image
from torch import distributed, multiprocessing

import made_programs
from hmrkit.adapt.adapt import Adapt
from hmrkit.adapt.loss import Evidence, InnerLoss
from hmrkit.body import joints
from hmrkit.body.free import free_body
from hmrkit.initial_weights import set_initial_weights
from hmrkit.layers.convnet import ConvNet
from hmrkit.layers.hrnet import PoseHRNet
from hmrkit.models.hmr.cliff import CLIFF
from hmrkit.models.hmr.loss import HMRLoss
from hmrkit.models.metahmr.model import MetaHMR
from hmrkit.models.metahmr.module import MetaHMRModule
from hmrkit.types import Body
from made_networks import PooledLinear

Program = Callable[..., "subprocess.CompletedProcess[str]"]

SIZE = (32, 32)
LAST = "runs/metahmr_tiny/checkpoints/last.ckpt"


def make_module(body_model, backbone=PooledLinear, **options) -> MetaHMRModule:
    torch.manual_seed(0)

    def make(body_model) -> CLIFF:
        return CLIFF(backbone(), body_model, SIZE, num_iterations=2, num_hidden=16, dropout=0.0)

    return MetaHMRModule(
        MetaHMR(make, make, body_model),
        HMRLoss(),
        body_model,
        partial(torch.optim.SGD, lr=0.1),
        None,
        {},
        InnerLoss(Evidence(), vertices=0.0),
        **{"inner_lr": 0.1, "auxiliary_optimizer": {"lr": 0.1}, **options},
    )


def make_batch(body_model, rows: slice = slice(None), dtype=torch.float32) -> dict:
    batch = placed_in_images(labelled_crops(body_model, SIZE))

    def picked(value):
        value = value[rows]
        return value.to(dtype) if value.is_floating_point() else value

    tensors = {name: picked(value) for name, value in batch.items() if torch.is_tensor(value)}
    number = torch.arange(len(tensors["image"]))
    label = Body(*(picked(value) for value in vars(batch["body"]).values()))
    return {**tensors, "body": label, "image_of_view": number, "person_of_view": number}


def step(body_model, rows: slice, first_order: bool) -> tuple[float, np.ndarray]:
    """Loss and gradient of a training step on some people, in float64."""
    module = make_module(body_model, first_order=first_order).double().train()
    batch = make_batch(body_model, rows, torch.float64)
    terms = module.loss(module(batch), batch, module.body)
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    grads = [p.grad.flatten() for p in module.net.parameters() if p.grad is not None]
    return total.item(), torch.cat(grads).numpy()


def _half(rank: int, folder: str, queue) -> None:
    """One process of two, with two of the four people."""
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meet"
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    rows = slice(2 * rank, 2 * rank + 2)
    queue.put([step(free_body(), rows, first_order) for first_order in (True, False)])
    distributed.barrier()
    distributed.destroy_process_group()


def test_two_processes_take_the_meta_step_of_one_with_twice_the_batch(tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    workers = multiprocessing.start_processes(
        _half, (str(tmp_path), queue), nprocs=2, join=False, start_method="spawn"
    )
    halves = [queue.get() for _ in range(2)]
    workers.join()
    alone = step(free_body(), slice(0, 2), True)[0]
    for order, first_order in enumerate((True, False)):
        loss, grad = step(free_body(), slice(None), first_order)
        losses, grads = zip(*(half[order] for half in halves), strict=True)
        assert np.mean(losses) == pytest.approx(loss, rel=1e-9)
        np.testing.assert_allclose(np.mean(grads, axis=0), grad, rtol=1e-6, atol=1e-9)
        assert alone not in losses  # each steps with the other's people, too


@pytest.mark.parametrize("first_order", [True, False])
def test_bfloat16_autocast_gives_the_loss_and_gradient_within_its_precision(first_order):
    body_model = free_body()
    results = []
    for is_rough in (False, True):
        module = make_module(body_model, first_order=first_order, inner_lr=1e-2).train()
        batch = make_batch(body_model)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_rough):
            terms = module.loss(module(batch), batch, body_model)
            total = torch.stack(list(terms.values())).sum()
        total.backward()
        grads = [p.grad.flatten() for p in module.net.main.parameters()]
        results.append((total.item(), torch.cat(grads)))
    (loss, grad), (rough, rough_grad) = results
    assert rough == pytest.approx(loss, rel=0.02)
    assert torch.nn.functional.cosine_similarity(grad, rough_grad, dim=0) > 0.98


@pytest.mark.parametrize("first_order", [True, False])
def test_compiled_backbones_change_neither_loss_nor_gradient_nor_adaptation(first_order):
    body_model = free_body()
    results = []
    for is_compiled in (False, True):
        adapt = Adapt(InnerLoss(Evidence(), with_unlabelled=True), num_steps=2, chunk_size=2)
        backbone = partial(ConvNet, SIZE, width=4, num_channels=8, num_features=16)
        module = make_module(body_model, backbone, first_order=first_order, adapt=adapt).train()
        calls = []
        if is_compiled:
            module.net.compile(backend=partial(_eager, calls))
        batch = make_batch(body_model)
        terms = module.loss(module(batch), batch, body_model)
        total = torch.stack(list(terms.values())).sum()
        total.backward()
        grads = [p.grad.flatten() for p in module.net.main.parameters()]
        adapted = module.eval().predict(batch).body.body_pose
        results.append((total.detach(), torch.cat(grads), adapted))
        assert bool(calls) == is_compiled
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def _eager(calls: list, graph, inputs):
    """A compiler that counts what it is given and leaves it as it is."""
    calls.append(graph)
    return graph.forward


def test_a_pose_network_begins_with_a_file_that_lacks_its_last_convolutions(tmp_path):
    small = {"width": 8, "num_modules": (1, 1, 1), "num_blocks": 1}
    official = PoseHRNet(**small)
    without = ["downsample_stage_"]
    state = {n: v for n, v in official.state_dict().items() if not n.startswith(*without)}
    torch.save(state, tmp_path / "pose_hrnet.pth")
    net = torch.nn.ModuleDict({"backbone": PoseHRNet(**small)})
    own = {n: v.clone() for n, v in net["backbone"].state_dict().items()}
    node = {"file": str(tmp_path / "pose_hrnet.pth"), "without": without}
    set_initial_weights(net, {"backbone": node})
    for name, value in net["backbone"].state_dict().items():
        assert torch.equal(value, (own if name.startswith(*without) else state)[name])
    with pytest.raises(ValueError, match="downsample_stage_"):
        set_initial_weights(net, {"backbone": node["file"]})


# ---------------------------------------------------------------------------------- the programs


@pytest.fixture
def overrides(tiny_shards: Path) -> list[str]:
    """The tiny experiment on a few small pictures."""
    sizes = {"train": 192, "val": 24, "test": 32}
    return [
        "experiment=metahmr_tiny",
        f"paths.datasets={tiny_shards}",
        *(f"mix.{split}.quickstart.synth.num={num}" for split, num in sizes.items()),
        *(f"mix.{split}.quickstart.synth.image_size=64" for split in sizes),
        *(f"mix.{s}.quickstart.path={tiny_shards}/quickstart_{s}" for s in ("train", "test")),
        "data.cut.input_size=[32,32]",
        "model.net.main.backbone.width=4",
        "model.net.auxiliary.backbone.width=4",
        "model.module.adapt.num_steps=3",
        "data.batch_size=8",
        "data.num_workers=0",
        "trainer.max_steps=4",
        "trainer.val_check_interval=2",
        "trainer.log_every_n_steps=1",
        "trainer.limit_test_batches=1",
        "callbacks.checkpoint.every_n_train_steps=1",
        "num_pictures=1",
        "threads=1",
    ]


def write_keypoints(path: Path) -> None:
    """A standing person in a picture of 64 x 64 px."""
    found = np.zeros((len(joints.names("openpose25")), 3))
    found[:, 0] = 32 + 8 * np.sin(np.arange(25))
    found[:, 1] = np.linspace(6, 60, 25)
    found[:, 2] = 1
    people = [{"pose_keypoints_2d": found.ravel().tolist()}]
    path.write_text(json.dumps({"people": people}))


def test_it_trains_adapts_in_its_test_resumes_and_shows_people(
    program: Program, overrides: list[str], tmp_path: Path
):
    done = program("train", *overrides)
    assert done.returncode == 0, done.stderr
    assert "before adaptation" in done.stdout + done.stderr
    folder = tmp_path / "runs/metahmr_tiny"
    trained = json.loads((folder / "report.json").read_text())["tests"]["quickstart"]
    assert len(trained["adaptation"]["curves"]["keypoints2d"]) == 4
    assert (folder / "report.html").read_text().count("Test-time optimisation") == 1

    done = program("eval", f"checkpoint={LAST}", "output=scored", "trainer.limit_test_batches=1")
    assert done.returncode == 0, done.stderr
    scored = json.loads((tmp_path / "scored/report.json").read_text())["tests"]["quickstart"]
    for name, entry in trained["metrics"].items():
        assert scored["metrics"][name]["value"] == pytest.approx(entry["value"], rel=1e-3)
    done = program("eval", f"checkpoint={LAST}", "output=plain", "adapt=none")
    assert done.returncode == 0, done.stderr
    plain = json.loads((tmp_path / "plain/report.json").read_text())["tests"]["quickstart"]
    assert "adaptation" not in plain

    Image.effect_noise((64, 64), 60).convert("RGB").save(tmp_path / "a.png")
    write_keypoints(tmp_path / "a_keypoints.json")
    done = program("demo", f"checkpoint={LAST}", "input=a.png", "keypoints=.", "output=shown")
    assert done.returncode == 0, done.stderr
    (person,) = json.loads((tmp_path / "shown/a_adapt.json").read_text())["people"]
    assert len(person["loss"]) == 4
    assert person["error_after_px"] < person["error_before_px"]
    assert (tmp_path / "shown/a_overlay.jpg").is_file()
    done = program("demo", f"checkpoint={LAST}", "input=a.png", "output=wrong", "adapt=per_sample")
    assert done.returncode != 0
    assert "keypoints=" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_killed_run_resumes_to_the_weights_of_an_uninterrupted_one(
    program: Program, overrides: list[str], tmp_path: Path
):
    steps = [*overrides, "trainer.max_steps=16", "trainer.val_check_interval=8", "test=false"]
    whole = program("train", *steps, "name=whole")
    assert whole.returncode == 0, whole.stderr
    process = made_programs.start("train", *steps, cwd=tmp_path)
    deadline = time.monotonic() + 120
    while not (tmp_path / LAST).is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=60) == -signal.SIGKILL
    resumed = program("train", *steps, "resume=true")
    assert resumed.returncode == 0, resumed.stderr
    ours, theirs = (
        torch.load(tmp_path / path, weights_only=True)["state_dict"]
        for path in (LAST, LAST.replace("metahmr_tiny", "whole"))
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_any_checkpoint_can_be_adapted(program: Program, tiny_overrides: list[str], tmp_path: Path):
    done = program("train", *tiny_overrides, "trainer.max_steps=1", "test=false")
    assert done.returncode == 0, done.stderr
    options = ["adapt=noisy_labels", "adapt.num_steps=3", "adapt.lr=1e-4"]
    for batch_size in (8, 16):
        done = program(
            "eval",
            "checkpoint=runs/quickstart/checkpoints/last.ckpt",
            f"output=by{batch_size}",
            f"+data.batch_size={batch_size}",
            f"trainer.limit_test_batches={16 // batch_size}",
            *options,
        )
        assert done.returncode == 0, done.stderr
    first, second = (np.load(tmp_path / f"by{size}/rows.npz") for size in (8, 16))
    np.testing.assert_allclose(first["quickstart/mpjpe"], second["quickstart/mpjpe"], rtol=1e-3)
    np.testing.assert_array_equal(first["quickstart/index"], np.arange(16))
    assert (first["quickstart/curve3_keypoints2d"] < first["quickstart/curve0_keypoints2d"]).all()
