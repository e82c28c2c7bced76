"""Every file of the configuration tree composes, and every target in it can be imported."""

from pathlib import Path

import pytest
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from hmrkit.configs import config_dir, load_config
from hmrkit.data.nodes import check_node

TREE = Path(config_dir())
EXPERIMENTS = sorted(p.stem for p in (TREE / "experiment").glob("*.yaml"))
OPTIONS = sorted(
    (p.parent.name, p.stem)
    for group in ("model", "data", "mix", "body", "trainer", "callbacks", "logger")
    for p in (TREE / group).glob("*.yaml")
)
SOURCES = sorted(p.stem for p in (TREE / "source").glob("*.yaml"))
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


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_composes_with_prepare_and_its_targets_exist(name: str):
    config = load_config("prepare", [f"source={name}", "input=download"])
    check(config)
    check_node(name, config.source)
    assert config.output == config.source.path
    if "prepare" in config.source:
        assert config.source.name == name
        assert config.source.path.startswith("datasets/")


def test_every_source_can_be_added_to_a_mix():
    extra = [f"+source@mix.train.extra_{name}={name}" for name in SOURCES]
    mix = load_config("train", ["model=hmr", RUN_DIR, *extra]).mix
    check(mix)
    for name in SOURCES:
        check_node(name, mix.train[f"extra_{name}"])


@pytest.mark.parametrize("name", sorted(p.stem for p in TREE.glob("*.yaml")))
def test_every_program_has_a_config_that_composes(name: str):
    overrides = {
        "train": ["model=hmr", RUN_DIR],
        "convert": ["model=hmr"],
        "prepare": ["source=synthetic"],
        "eval": [RUN_DIR],
        "demo": [RUN_DIR],
    }
    config = load_config(name, overrides.get(name, []))
    assert len(config) > 0


def keys(node: object) -> list[str]:
    if isinstance(node, dict):
        return [str(key) for key in node] + [k for value in node.values() for k in keys(value)]
    return [k for value in node for k in keys(value)] if isinstance(node, list) else []


def test_every_key_is_lower_case():
    for path in TREE.rglob("*.yaml"):
        for key in keys(OmegaConf.to_container(OmegaConf.load(path), resolve=False)):
            assert key == key.lower(), f"{path}: {key}"
