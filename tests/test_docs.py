"""The documentation says what is there: every command composes, every source has its row."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from hmrkit.configs import config_dir, load_config
from hmrkit.evaluation import build_protocol

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


def test_every_mix_is_on_the_data_page():
    mixes = {path.stem for path in (Path(config_dir()) / "mix").glob("*.yaml")}
    named = set(re.findall(r"`(\w+)`", DATA))
    made_up = {m for m in mixes if m.startswith(("quickstart", "synthetic")) or m.endswith("_tiny")}
    assert sorted(mixes - named - made_up) == []


@pytest.mark.parametrize("mix", sorted(p.stem for p in (Path(config_dir()) / "mix").glob("*.yaml")))
def test_every_source_that_a_mix_scores_says_how_and_shares_add_up(mix: str):
    nodes = load_config("train", ["model=hmr", f"mix={mix}", "run_dir=run"]).mix
    for split in ("val", "test"):
        for name, node in nodes[split].items():
            assert node.get("protocol") is not None, f"{split}.{name}"
    weights = [node.weight for node in nodes.train.values()]
    assert not weights or set(weights) == {"auto"} or sum(weights) == pytest.approx(1, abs=1e-3)


METHODS = (ROOT / "docs" / "methods.md").read_text()


def test_every_experiment_and_model_is_on_the_page_of_methods():
    named = set(re.findall(r"`(\w+)`", METHODS))
    for group in ("experiment", "model"):
        there = {path.stem for path in (Path(config_dir()) / group).glob("*.yaml")}
        assert sorted(there - named) == [], group


def test_recipes_name_the_files_they_begin_with():
    for path in (Path(config_dir()) / "experiment").glob("*.yaml"):
        for name in re.findall(r"\$\{paths\.weights\}/([\w.=-]+)", path.read_text()):
            stem = name.split("-PA")[0]  # the page abbreviates CLIFF's names
            assert stem in METHODS, f"{path.name}: {name}"


FAQ = (ROOT / "docs" / "faq.md").read_text()
ANSWERS = sorted(set(re.findall(r"^python -m hmrkit\.(\w+) (.*)$", FAQ, re.MULTILINE)))


@pytest.mark.parametrize(("program", "arguments"), ANSWERS)
def test_every_command_of_the_faq_composes(program: str, arguments: str):
    words = shlex.split(arguments)
    named = [f"shards={w}" if program == "inspect" and "=" not in w else w for w in words]
    load_config(program, named)


def test_the_faq_answers_fifteen_questions_and_its_links_lead_somewhere():
    assert re.findall(r"^## (\d+)\. ", FAQ, re.MULTILINE) == [str(n) for n in range(1, 16)]
    for target, anchor in re.findall(r"\]\(([^)#]+)(?:#([^)]+))?\)", FAQ):
        path = ROOT / "docs" / target
        assert path.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles]
            assert anchor in slugs, f"{target}#{anchor}"


@pytest.mark.parametrize("code", re.findall(r'^python -c "(.*)"$', FAQ, re.MULTILINE))
def test_the_faqs_one_liners_run(code: str, tmp_path: Path):
    np.savez(tmp_path / "photo.npz", pose=np.zeros(3))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


EVALUATION = (ROOT / "docs" / "evaluation.md").read_text()
PRESETS = sorted(path.stem for path in (Path(config_dir()) / "eval").glob("*.yaml"))


def test_every_protocol_has_its_row_on_the_page_of_evaluation():
    first = re.findall(r"^\| (`[^|]*`) \|", EVALUATION, re.MULTILINE)
    named = {name for cell in first for name in re.findall(r"`(\w+)`", cell)}
    assert sorted(named - {"eval"}) == PRESETS


@pytest.mark.parametrize("preset", PRESETS)
def test_every_protocol_composes_and_says_what_it_is(preset: str, tmp_path: Path):
    config = load_config("eval", [f"eval={preset}", "checkpoint=x", "run_dir=run"])
    tests = OmegaConf.to_container(config.mix.test, resolve=True, throw_on_missing=True)
    for node in tests.values():
        protocol = node["protocol"]
        if "regressor" in protocol:  # a file of HeatFormer's
            protocol["regressor"] = None
        words = build_protocol(protocol).words()
        assert str(protocol["joint_set"]) in words
        assert len(words) > 60
    if len(tests) == 1:
        title = (Path(config_dir()) / "eval" / f"{preset}.yaml").read_text().splitlines()[1]
        assert title.startswith("# ")
        assert len(title) > 30


def test_every_command_of_the_page_of_evaluation_composes():
    commands = re.findall(r"^python -m hmrkit\.eval ((?!-m)[^#\n]*)", EVALUATION, re.MULTILINE)
    assert len(commands) >= 3
    for command in commands:
        load_config("eval", [*command.split(), "run_dir=run"])
