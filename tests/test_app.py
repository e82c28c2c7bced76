"""The page in the browser: what its button does, with and without Gradio."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import trimesh

from hmrkit import api, web
from hmrkit.checkpoints import save_checkpoint
from made_networks import tiny_module

IMAGE = np.full((60, 50, 3), 200, np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> api.Model:
    path = tmp_path_factory.mktemp("checkpoint") / "x.ckpt"
    small = ("data.cut.input_size=[32,32]", "model.net.backbone.width=4")
    save_checkpoint(tiny_module("hmr_tiny", *small), path)
    return api.load(path, device="cpu")


def test_a_picture_gives_overlay_model_and_files(model: api.Model):
    overlay, glb, files, said = web.show(model, IMAGE, "5 5 40 55\n1, 1, 20, 30", 0, 0.5)
    assert overlay.shape == IMAGE.shape
    assert len(trimesh.load(glb).geometry) == 2
    assert [Path(name).suffix for name in files] == [".npz", ".glb", ".obj"]
    assert re.match(r"2 found, at [\d.]+ m, [\d.]+ m", said)


@pytest.mark.parametrize(
    ("image", "boxes", "message"),
    [(None, "", "choose a picture"), (IMAGE, "5 5 40", "'5 5 40'"), (IMAGE, "a b c d", "pixels")],
)
def test_wrong_inputs_are_answered(model: api.Model, image, boxes, message):
    with pytest.raises(ValueError, match=message):
        web.show(model, image, boxes, 0, 0.5)


def test_without_gradio_the_remedy_is_named(model: api.Model, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ValueError, match=r'pip install "hmrkit\[app\]".*hmrkit\.doctor'):
        web.build_page(model)


def test_the_page_is_built_and_its_button_answers(model: api.Model):
    pytest.importorskip("gradio")
    page = web.build_page(model)
    (button,) = [f for f in page.fns.values() if f.api_name == "predict"]
    overlay, glb, files, said = button.fn(IMAGE, "", 500, 0.5)
    assert files[1] == glb
    assert overlay.shape == IMAGE.shape
    assert said.startswith("1 found")
    with pytest.raises(Exception, match="choose a picture"):
        button.fn(None, "", 0, 0.5)
