"""Record i of a made-up source: a pure function of (kind, options, seed, i).

Crops, scenes and rigs are the same people before one or more cameras; only who stands where and
which camera looks differ (crops.py, scenes.py, rigs.py). Motion has no camera (motion.py).
"""

import numpy as np

from hmrkit.data.synth.cast import Studio
from hmrkit.data.synth.crops import draw_crop
from hmrkit.data.synth.motion import draw_motion
from hmrkit.data.synth.recipe import Recipe
from hmrkit.data.synth.rigs import draw_rig
from hmrkit.data.synth.scenes import draw_scene
from hmrkit.types import Sample

_DRAW = {"crops": draw_crop, "scenes": draw_scene, "rigs": draw_rig, "motion": draw_motion}
KINDS = tuple(_DRAW)


def draw_record(
    kind: str, studio: Studio, recipe: Recipe, size_hw: tuple[int, int], seed: int, index: int
) -> Sample:
    """Make record ``index`` of the source of this ``kind`` and ``seed``."""
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, index])))
    sample = _DRAW[kind](rng, studio, recipe, size_hw)
    return {**sample, "key": f"{kind}-{seed}-{index:07d}", "source": f"synthetic_{kind}"}
