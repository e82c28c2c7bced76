"""The data module: one sequence of samples for any workers and ranks, resumed bit for bit."""

import hashlib
import itertools
import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from hmrkit.data import images
from hmrkit.data.crops import Crops
from hmrkit.data.datamodule import DataModule
from hmrkit.data.machine import auto_workers, num_cores
from hmrkit.data.shards import write_shard
from made_sources import Tagged, make_rigs, make_source

STEPS = 12  # per epoch


class Tiny(pl.LightningModule):
    """A model whose weights depend on every image, every augmentation and their order."""

    def __init__(self, seen=None, stop_at=None):
        super().__init__()
        self.layer = torch.nn.Sequential(torch.nn.Linear(768, 4), torch.nn.BatchNorm1d(4))
        for i, p in enumerate(self.parameters()):
            torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(i))
        self.seen, self.stop_at = [] if seen is None else seen, stop_at

    def training_step(self, batch, batch_idx):
        if self.trainer.global_step == self.stop_at:
            raise KeyError("stopped by the test")
        self.seen.append(tuple(batch["key"]))
        return (
            self.layer(batch["image"].flatten(1)).sum(1) * (batch["body"].betas[:, 0] + 2)
        ).sum()

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("val", self.layer(batch["image"].flatten(1)).sum())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("sources")
    return {name: make_source(root / name, num) for name, num in (("a", 70), ("b", 31), ("v", 21))}


def make_data(sources, batch_size=4, **options):
    train = {"a": {"path": sources["a"], "weight": 3.0}, "b": {"path": sources["b"]}}
    options = {"num_workers": 0, "steps_per_epoch": STEPS, "seed": 5, **options}
    val = {"v": {"path": sources["v"]}}
    return DataModule(Tagged(), batch_size, train=train, val=val, test=val, **options)


def make_trainer(folder, epochs=3, every=None, **options):
    callbacks = []
    if every:
        callbacks.append(
            ModelCheckpoint(folder, "{step}", every_n_train_steps=every, save_top_k=-1)
        )
    options = {"enable_checkpointing": bool(every), "limit_val_batches": 0, **options}
    return pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        logger=False,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,
    )


def weights(model):
    state = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
    return hashlib.sha256(state).hexdigest()


@pytest.fixture(scope="module")
def uninterrupted(sources, tmp_path_factory):
    """One run without a stop: its weights, the keys of each batch, and checkpoints on the way."""
    folder = tmp_path_factory.mktemp("run")
    model = Tiny()
    make_trainer(folder, every=5).fit(model, make_data(sources))
    return {"weights": weights(model), "seen": model.seen, "folder": folder}


# Resume


@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize("step", [5, 20, 30])
def test_a_resumed_run_ends_with_the_same_weights_bit_for_bit(
    sources, uninterrupted, tmp_path, num_workers, step
):
    model = Tiny()
    checkpoint = uninterrupted["folder"] / f"step={step}.ckpt"
    data = make_data(sources, num_workers=num_workers)
    make_trainer(tmp_path).fit(model, data, ckpt_path=checkpoint, weights_only=True)
    assert model.seen == uninterrupted["seen"][step:]
    assert weights(model) == uninterrupted["weights"]


def test_resume_at_the_edge_of_an_epoch_and_twice_in_one(sources, uninterrupted, tmp_path):
    first = Tiny()
    make_trainer(tmp_path, epochs=1, every=STEPS).fit(first, make_data(sources))
    edge = tmp_path / f"step={STEPS}.ckpt"
    second = Tiny()
    trainer = make_trainer(tmp_path, every=7, max_steps=21)
    trainer.fit(second, make_data(sources), ckpt_path=edge, weights_only=True)
    third = Tiny()
    # By steps: Lightning 2.6 miscounts the epochs of a run resumed at an edge and then once more.
    trainer = make_trainer(tmp_path, epochs=-1, max_steps=3 * STEPS)
    trainer.fit(third, make_data(sources), ckpt_path=tmp_path / "step=21.ckpt", weights_only=True)
    assert first.seen + second.seen + third.seen == uninterrupted["seen"]
    assert weights(third) == uninterrupted["weights"]


def test_a_batch_that_an_exception_interrupts_is_given_again(sources, uninterrupted, tmp_path):
    callback = ModelCheckpoint(tmp_path, "stopped", save_on_exception=True)
    trainer = make_trainer(tmp_path, enable_checkpointing=True)
    trainer.callbacks.append(callback)
    seen = []
    with pytest.raises(KeyError):
        trainer.fit(Tiny(seen, stop_at=8), make_data(sources))
    (checkpoint,) = tmp_path.glob("*.ckpt")
    model = Tiny(seen)
    make_trainer(tmp_path).fit(model, make_data(sources), ckpt_path=checkpoint, weights_only=True)
    assert seen == uninterrupted["seen"]
    assert weights(model) == uninterrupted["weights"]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_validation_in_the_middle_of_an_epoch_changes_nothing(
    sources, uninterrupted, tmp_path, num_workers
):
    model = Tiny()
    data = make_data(sources, num_workers=num_workers)
    trainer = make_trainer(tmp_path, limit_val_batches=1.0, val_check_interval=5)
    trainer.fit(model, data)
    assert model.seen == uninterrupted["seen"]


def test_fewer_batches_per_epoch_go_on_where_the_last_epoch_ended(sources, uninterrupted, tmp_path):
    model = Tiny()
    trainer = make_trainer(tmp_path, epochs=4, limit_train_batches=9)
    trainer.fit(model, make_data(sources, num_workers=2))
    assert model.seen == uninterrupted["seen"]


def test_another_batch_size_goes_on_at_the_same_sample(sources, uninterrupted, tmp_path):
    model = Tiny()
    data = make_data(sources, batch_size=2, steps_per_epoch=2 * STEPS)
    checkpoint = uninterrupted["folder"] / "step=5.ckpt"
    trainer = make_trainer(tmp_path, max_steps=15)
    trainer.fit(model, data, ckpt_path=checkpoint, weights_only=True)
    assert sum(model.seen, ()) == sum(uninterrupted["seen"][5:10], ())


def test_the_checkpoint_holds_one_position_and_no_python_objects(uninterrupted):
    checkpoint = torch.load(uninterrupted["folder"] / "step=20.ckpt", weights_only=True)
    state = checkpoint["DataModule"]
    assert (state["step"], state["sample"], state["seed"]) == (20, 80, 5)


@pytest.mark.parametrize("change", ["seed", "weight", "content"])
def test_resume_on_other_data_is_refused_by_name(sources, uninterrupted, tmp_path, change):
    data = make_data(sources, seed=6) if change == "seed" else make_data(sources)
    if change == "weight":
        data.nodes["train"]["b"] = {"path": sources["b"], "weight": 2.0}
    if change == "content":
        data.nodes["train"]["b"] = {"path": make_source(tmp_path / "b", 31, seed=1)}
    checkpoint = uninterrupted["folder"] / "step=5.ckpt"
    with pytest.raises(ValueError, match=r"data are not those of the checkpoint.*allow_changed"):
        make_trainer(tmp_path).fit(Tiny(), data, ckpt_path=checkpoint, weights_only=True)
    data.allow_changed_data = True
    trainer = make_trainer(tmp_path, max_steps=7)
    trainer.fit(Tiny(), data, ckpt_path=checkpoint, weights_only=True)


def test_loading_does_not_touch_the_random_state(sources):
    data = make_data(sources, num_workers=1)
    data.setup("fit")
    torch.manual_seed(0)
    before = torch.get_rng_state()
    next(iter(data.train_dataloader()))
    assert torch.equal(torch.get_rng_state(), before)


# One sequence


def test_workers_started_by_spawn_give_the_same_batches(sources, uninterrupted):
    data = make_data(sources, num_workers=1, start_method="spawn")
    data.setup("fit")
    batches = iter(data.train_dataloader())
    assert [tuple(next(batches)["key"]) for _ in range(3)] == uninterrupted["seen"][:3]
    del batches


TWO_RANKS = """
import sys
import torch
from test_datamodule import *
pl.seed_everything(0, workers=True, verbose=False)
folder, a, b, v = sys.argv[1:]
model = Tiny()
data = make_data({"a": a, "b": b, "v": v}, batch_size=2, num_workers=1)
trainer = pl.Trainer(max_epochs=2, accelerator="cpu", devices=2, strategy="ddp", logger=False,
    enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    default_root_dir=folder)
trainer.fit(model, data)
val = [batch["index"].tolist() for batch in data.val_dataloader()[0]]
torch.save({"seen": model.seen, "val": val}, f"{folder}/{trainer.global_rank}.pt")
"""


def test_two_processes_see_the_samples_of_one(sources, uninterrupted, tmp_path):
    """Also: validation with 21 records on two ranks, BatchNorm in the model, does not hang."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = tmp_path / "two.py"
    script.write_text(TWO_RANKS)
    environment = {**os.environ, "MASTER_PORT": str(port), "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, str(script), str(tmp_path), *sources.values()]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=120)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    steps = [one + two for one, two in zip(ranks[0]["seen"], ranks[1]["seen"], strict=True)]
    assert steps == uninterrupted["seen"][: 2 * STEPS]
    assert len(ranks[0]["val"]) == len(ranks[1]["val"])
    indices = [i for rank in ranks for batch in rank["val"] for i in batch]
    assert sorted(indices) == list(range(21))


def test_an_epoch_is_one_pass_over_the_sources_by_default(sources):
    data = make_data(sources, steps_per_epoch=None)
    data.setup("fit")
    assert len(data.train_dataloader()) == (70 + 31) // 4


# People of one image


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """25 images of four people."""
    return make_source(tmp_path_factory.mktemp("crowd") / "crowd", 25, people=4)


def make_crowd(crowd, **options):
    options = {"num_workers": 0, "steps_per_epoch": 50, "seed": 3, "group_views": True, **options}
    return DataModule(Tagged(), 4, train={"crowd": {"path": crowd}}, val={}, test={}, **options)


def drawn(data):
    data.setup("fit")
    return [(b["key"], b["body"].betas[:, 0].tolist()) for b in data.train_dataloader()]


def count_decodes(monkeypatch):
    """How often each image file is decoded, from now on."""
    decoded = Counter()
    decode = images._Stored._decode

    def counted(self, *form):
        decoded.update([self.file])
        return decode(self, *form)

    monkeypatch.setattr(images._Stored, "_decode", counted)
    return decoded


def test_people_of_one_image_are_drawn_together_and_decoded_once(crowd, monkeypatch):
    decoded = count_decodes(monkeypatch)
    batches = drawn(make_crowd(crowd, steps_per_epoch=25))
    assert all(len(set(keys)) == 1 for keys, _ in batches)
    assert len({keys[0] for keys, _ in batches}) == 25  # a pass
    assert set(decoded.values()) == {1}
    assert len({draw for _, draws in batches for draw in draws}) == 100  # each augmented anew


def test_cameras_of_a_rig_are_not_drawn_together(tmp_path):
    path = make_rigs(tmp_path / "rigs")  # ten moments, two people in two images each
    data = make_crowd(str(path), steps_per_epoch=10)
    data.cut = Crops([16, 16])
    data.setup("fit")
    keys = [key for batch in data.train_dataloader() for key in batch["key"]]
    assert Counter(keys) == {key: 4 for key in set(keys)}  # a pass
    assert len(set(keys)) == 10
    neighbours = sum(a == b for a, b in itertools.pairwise(keys))
    assert neighbours < 10  # 30 if the views of a moment stayed together


def test_grouped_batches_depend_on_seed_and_step_only(crowd, tmp_path):
    batches = drawn(make_crowd(crowd))
    assert drawn(make_crowd(crowd, num_workers=2)) == batches
    assert drawn(make_crowd(crowd, seed=4)) != batches
    first, second = Tiny(), Tiny()
    make_trainer(tmp_path, epochs=1, every=7).fit(first, make_crowd(crowd))
    resumed = make_crowd(crowd, num_workers=1)
    trainer = make_trainer(tmp_path, epochs=1)
    trainer.fit(second, resumed, ckpt_path=tmp_path / "step=7.ckpt", weights_only=True)
    assert second.seen == first.seen[7:]
    assert weights(second) == weights(first)


def test_a_run_does_not_resume_with_another_grouping(crowd, tmp_path):
    make_trainer(tmp_path, every=7, max_steps=7).fit(Tiny(), make_crowd(crowd))
    other = make_crowd(crowd, group_views=False)
    with pytest.raises(ValueError, match=r"not those of the checkpoint: {'group_views': True}"):
        make_trainer(tmp_path).fit(
            Tiny(), other, ckpt_path=tmp_path / "step=7.ckpt", weights_only=True
        )


def test_samples_that_wait_for_their_batch_hold_no_source_images(crowd):
    data = make_crowd(crowd)
    data.setup("fit")
    assert "images" not in data.train_dataloader().dataset.sample(0)


def test_evaluation_decodes_an_image_of_several_people_once(crowd, monkeypatch):
    decoded = count_decodes(monkeypatch)
    data = DataModule(Tagged(), 3, train={}, val={}, test={"c": {"path": crowd}}, num_workers=0)
    data.setup("test")
    assert sum(len(batch["key"]) for batch in data.test_dataloader()[0]) == 100
    assert len(decoded) == 25
    assert set(decoded.values()) == {1}


# Evaluation


@pytest.mark.parametrize(
    ("world_size", "batch_size", "num_workers"),
    [(1, 4, 0), (1, 4, 2), (2, 4, 0), (2, 4, 2), (3, 1, 0), (5, 5, 0), (21, 4, 0)],
)
def test_evaluation_gives_every_unit_once(
    sources, monkeypatch, world_size, batch_size, num_workers
):
    data = make_data(sources, batch_size=batch_size, num_workers=num_workers)
    data.setup("test")
    indices, lengths = [], set()
    for rank in range(world_size):
        monkeypatch.setattr(data, "_rank", lambda rank=rank: (rank, world_size))
        (loader,) = data.test_dataloader()
        batches = list(loader)
        assert len(batches) == len(loader)
        lengths.add(len(batches))
        indices += [i for batch in batches for i in batch["index"].tolist()]
    assert sorted(indices) == list(range(21))
    assert len(lengths) == 1


def test_more_processes_than_records_is_refused(sources, monkeypatch):
    data = make_data(sources)
    data.setup("test")
    monkeypatch.setattr(data, "_rank", lambda: (0, 22))
    with pytest.raises(ValueError, match=r"source 'v': 21 units for 22 processes"):
        data.test_dataloader()


def test_chosen_samples_can_be_read_again(sources):
    data = make_data(sources)
    data.setup("test")
    batch = next(iter(data.test_dataloader()[0]))
    again = data.test_batch("v", [2, 0])
    assert again["key"] == [batch["key"][2], batch["key"][0]]
    assert again["index"].tolist() == [2, 0]
    assert again["image"].dtype == torch.float32
    normalised = data.on_after_batch_transfer(batch, 0)["image"]
    assert torch.equal(again["image"][0], normalised[2])
    assert batch["image"].dtype == torch.uint8


def test_persons_of_one_record_are_units_of_their_own(tmp_path):
    path = make_source(tmp_path / "crowd", 5, people=3)
    node = {"crowd": {"path": path}}
    data = DataModule(Tagged(), 4, train={}, val={}, test=node, num_workers=0)
    data.setup("test")
    (loader,) = data.test_dataloader()
    keys = Counter(key for batch in loader for key in batch["key"])
    assert set(keys.values()) == {3}
    with pytest.raises(ValueError, match="no training source"):
        data.train_dataloader()


# Checks before the first step


def test_a_source_without_the_labels_of_the_run_is_named(sources):
    data = make_data(sources, required_labels=["betas", "pose"])
    with pytest.raises(ValueError, match=r"source 'a': .* carries no pose, .* it has \['betas'\]"):
        data.setup("fit")
    make_data(sources, required_labels=["betas"]).setup("fit")


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"path": "/nowhere"}, "source 'x': /nowhere does not exist"),
        ({"path": "shards", "wieght": 1}, r"source 'x': unknown keys \['wieght'\]"),
        ({"weight": 1.0}, "source 'x': no `path`"),
        (
            {"path": "nosuch://x.tar"},
            "source 'x': cannot read 'nosuch://x.tar': Protocol not known",
        ),
        ({"path": "shards", "weight": "lots"}, "source 'x': weight='lots' is neither a number"),
    ],
)
def test_a_wrong_source_is_named_before_the_first_step(node, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        DataModule(Tagged(), 4, train={"x": node}, val={}, test={}).setup("fit")


def test_a_weight_of_zero_is_refused(sources):
    train = {"a": {"path": sources["a"], "weight": 0}}
    with pytest.raises(ValueError, match=r"source 'a': weight 0.0 must be > 0 \(~mix.train.a"):
        DataModule(Tagged(), 4, train=train, val={}, test={}).setup("fit")


def test_a_cut_of_views_refuses_motion(tmp_path):
    clip = {"key": "walk", "pose": np.zeros((3, 24, 3), np.float32), "has_pose": np.ones(3, bool)}
    write_shard(tmp_path / "a.tar", [clip], "smpl24")
    data = DataModule(Tagged(), 4, train={"m": {"path": str(tmp_path)}}, val={}, test={})
    with pytest.raises(ValueError, match=r"source 'm': .* has no views, which is what Tagged"):
        data.setup("fit")


def test_a_cut_that_fails_names_the_record(sources):
    data = make_data(sources)
    data.cut.crops = None  # calling it raises a TypeError: a bug, passed on as it is
    data.setup("fit")
    with pytest.raises(TypeError):
        next(iter(data.train_dataloader()))

    def fail(sample, view, rng):
        raise ValueError("no box")

    data.cut.crops = fail
    with pytest.raises(RuntimeError, match=r"source '[ab]', record '[ab]\d+', view 0.*no box"):
        next(iter(data.train_dataloader()))


def test_synthetic_sources_are_made_once_and_never_mixed_up(tmp_path):
    def prepare(num):
        options = {"num": num, "image_size": 32, "workers": 0}
        node = {"people": {"path": str(tmp_path / "made" / "people"), "synth": options}}
        data = DataModule(Tagged(), 2, train=node, val={}, test={}, num_workers=0)
        data.prepare_data()
        data.setup("fit")
        return data

    batch = next(iter(prepare(4).train_dataloader()))
    assert batch["source"] == ["people"] * 2
    tar = next((tmp_path / "made" / "people").glob("*.tar"))
    before = tar.stat().st_mtime_ns
    prepare(4)
    assert tar.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"source 'people': .* was made with num=4, now num=5"):
        prepare(5)


@pytest.mark.parametrize(
    ("is_cpu", "expected"),
    [(False, {1: 0, 2: 1, 6: 5, 64: 8}), (True, {1: 0, 2: 1, 6: 2, 64: 8})],
)
def test_auto_workers_leave_cores_for_the_training(is_cpu, expected):
    assert {cores: auto_workers(cores, is_cpu) for cores in expected} == expected
    assert num_cores() >= 1
