"""Every file of the configuration tree composes, and every target in it can be imported."""

from pathlib import Path

import pytest
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from hmrkit.configs import config_dir, load_config

TREE = Path(config_dir())
EXPERIMENTS = sorted(p.stem for p in (TREE / "experiment").glob("*.yaml"))
OPTIONS = sorted(
    (p.parent.name, p.stem)
    for group in ("model", "data", "mix", "body", "trainer", "callbacks", "logger")
    for p in (TREE / group).glob("*.yaml")
)
RUN_DIR = "run_dir=run"


def targets(node: object) -> list[str]:
    found = []
    if isinstance(node, dict):
        found += [node["_target_"]] if "_target_" in node else []
        for value in node.values():
            found += targets(value)
    elif isinstance(node, list):
        for value in node:
            found += targets(value)
    return found


def check(config: DictConfig) -> None:
    plain = OmegaConf.to_container(config, resolve=True)  # fails where an interpolation dangles
    for target in targets(plain):
        assert callable(get_object(target)), target


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_its_targets_exist(name: str):
    check(load_config("train", [f"experiment={name}", RUN_DIR]))


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_its_targets_exist(group: str, option: str):
    overrides = ["model=hmr"] if group != "model" else []
    config = load_config("train", [*overrides, f"{group}={option}", RUN_DIR])
    check(config[group])


@pytest.mark.parametrize("name", sorted(p.stem for p in TREE.glob("*.yaml")))
def test_every_program_has_a_config_that_composes(name: str):
    overrides = {
        "train": ["model=hmr", RUN_DIR],
        "convert": ["model=hmr"],
        "eval": [RUN_DIR],
        "demo": [RUN_DIR],
    }
    config = load_config(name, overrides.get(name, []))
    assert len(config) > 0


def test_every_yaml_is_lower_case():
    for path in TREE.rglob("*.yaml"):
        for line in path.read_text().splitlines():
            key = line.split(":")[0].strip()
            if not line.strip().startswith("#") and key and " " not in key and "/" not in key:
                assert key == key.lower(), f"{path}: {key}"
