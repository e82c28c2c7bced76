"""Synthetic shards, made once per session, and a way to run the programs as users do."""

import os
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from filelock import FileLock

import made_programs
from hmrkit.configs import load_config, to_plain
from made_quickstart import TINY, tiny_sizes


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A datasets folder with the sources of ``mix=quickstart``, a few small pictures each.

    The workers of pytest-xdist share it: the second finds the first one's.
    """
    from hmrkit.data.synth.shards import make_shards

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "datasets"
    for split, (num, seed) in TINY.items():
        name = "quickstart" if split == "train" else f"quickstart_{split}"
        where = ["run_dir=run", f"paths.datasets={folder}"]
        config = load_config("train", ["experiment=quickstart", *tiny_sizes(), *where])
        node = to_plain(config.mix)[split]["quickstart"]
        assert node["synth"]["num"] == num, name
        assert node["synth"]["seed"] == seed, name
        with FileLock(f"{folder}.lock"):
            make_shards(output=node["path"], workers=0, **node["synth"])
    return folder


@pytest.fixture(scope="session")
def tiny_overrides(tiny_shards: Path) -> list[str]:
    """The quick start on ``tiny_shards``, a few float32 steps in this process."""
    return [
        "experiment=quickstart",
        f"paths.datasets={tiny_shards}",
        *tiny_sizes(),
        "data.cut.input_size=[32,32]",
        "model.net.backbone.width=4",
        "data.batch_size=8",
        "data.num_workers=0",
        "trainer.max_steps=7",
        "trainer.val_check_interval=3",
        "trainer.log_every_n_steps=1",
        "trainer.precision=32-true",
        "callbacks.checkpoint.every_n_train_steps=2",
        "num_pictures=1",
        "threads=1",
    ]


def pytest_itemcollected(item: pytest.Item) -> None:
    """What workers share out: whole files; the parity tests, which fill 9 GB, go as one."""
    name = "parity" if item.path.parent.name == "parity" else item.path.name
    item.add_marker(pytest.mark.xdist_group(name))


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run ``python -m hmrkit.<name> ...`` in an empty folder."""
    return partial(made_programs.run, cwd=tmp_path)
