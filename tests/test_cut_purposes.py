"""One set of crops for training, another for evaluation, another for the demo."""

import numpy as np

from hmrkit import configs
from hmrkit.configs import load_config, to_plain
from hmrkit.runs import build_datamodule
from made_records import make_record


def side_px(cut) -> float:
    """Of the region that is shown of a box of 200 x 100 px."""
    sample = {**make_record(), "box_img": np.array([[100.0, 100.0, 300.0, 200.0]], np.float32)}
    crop_to_img = cut(sample)["crop_to_img"][0]
    return 2 * float(np.linalg.norm(crop_to_img[:, 0]))


def test_training_evaluation_and_demo_cut_as_their_config_says(tmp_path):
    plain = to_plain(
        load_config("train", ["experiment=hmr2_tiny", f"run_dir={tmp_path}"]),
    )
    datamodule = build_datamodule(plain)
    # 4D-Humans widens boxes to 192:256 in evaluation alone; its demo leaves no margin.
    assert np.isclose(side_px(datamodule.cut), 1.2 * 200)
    assert np.isclose(side_px(datamodule.eval_cut), 1.2 * 200 * 256 / 192)
    demo = configs.cut_node(plain["data"], "eval", "demo")
    assert demo["box_scale"] == 1.0
    assert demo["fit_aspect_hw"] == [256, 192]
    assert demo["antialias_filter"] == "gaussian"


def test_without_changes_there_is_one_cut(tmp_path):
    plain = to_plain(load_config("train", ["experiment=quickstart", f"run_dir={tmp_path}"]))
    assert configs.cut_node(plain["data"], "eval", "demo") == plain["data"]["cut"]
