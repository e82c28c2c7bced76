"""The documentation says what is there: every command composes, every source has its row."""

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from hmrkit.configs import config_dir, load_config

ROOT = Path(__file__).parents[1]
DATA = (ROOT / "docs" / "data.md").read_text()
COMMANDS = sorted(set(re.findall(r"python -m hmrkit\.prepare ([^`\n#]*)", DATA)))
SOURCES = sorted((Path(config_dir()) / "source").glob("*.yaml"))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_data_page_composes(command: str):
    config = load_config("prepare", command.split())
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert plain["source"]["prepare"]["_target_"].startswith("hmrkit.data.sources.")


def test_every_source_that_can_be_prepared_is_on_the_data_page():
    prepared = {path.stem for path in SOURCES if "prepare:" in path.read_text()}
    named = set(re.findall(r"`(\w+)`", DATA))
    assert sorted(prepared - named) == []
    assert len(prepared) > 80


def test_every_source_bears_the_name_of_its_file():
    for path in SOURCES:
        if "prepare:" in path.read_text():
            config = load_config("prepare", [f"source={path.stem}", "input=x"])
            assert config.source.name == path.stem


def test_every_mix_is_on_the_data_page():
    mixes = {path.stem for path in (Path(config_dir()) / "mix").glob("*.yaml")}
    named = set(re.findall(r"`(\w+)`", DATA))
    made_up = {"quickstart", "synthetic", "synthetic_motion"}
    assert sorted(mixes - named - made_up) == []
