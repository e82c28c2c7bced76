"""The numbers that decide how hard made-up data is; every one can be set in YAML."""

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """Options of the generator. Pairs are (lowest, highest), drawn uniformly."""

    # people
    pose_noise: float = 1.0  # factor on the pose sampler's disturbance
    max_pose_tries: int = 5  # poses drawn until one does not intersect itself; the last is kept
    shape_sd: float = 1.0  # standard deviation of betas
    shape_limit: float = 2.5  # largest absolute beta
    yaw_deg: float = 180.0  # turn away from the camera, at most
    # camera
    pitch_mean_deg: float = 5.0  # downward tilt, normal
    pitch_sd_deg: float = 12.0
    roll_sd_deg: float = 6.0
    focal: tuple[float, float] = (0.9, 3.0)  # focal length over the side of the full image
    coverage: tuple[float, float] = (0.35, 0.9)  # height of the person over that of the full image
    crop_margin: tuple[float, float] = (1.3, 1.5)  # crops: side of the image over that of the box
    truncation_probability: float = 0.12  # crops: only the upper body is inside the box
    # surroundings
    max_shapes: int = 11  # things on the backdrop, at most
    ground_probability: float = 0.6  # crops: a floor with shadows; scenes and rigs always have one
    occluder_probability: float = 0.5  # something in front of the person
    max_occluders: int = 3
    ambient: tuple[float, float] = (0.2, 0.55)  # light from everywhere; 1 is white
    max_noise: float = 9.0  # standard deviation of the pixel noise, of 255, at most
    max_gain: float = 0.22  # change of exposure, contrast and colour balance, at most
    # scenes, rigs and motion
    num_people: tuple[int, int] = (2, 6)  # in a scene
    distance: tuple[float, float] = (0.9, 2.6)  # scenes: 1 shows 0.8 of a standing person's height
    num_people_rig: tuple[int, int] = (1, 1)
    num_cameras: int = 4  # of a rig
    num_frames: int = 64  # of a motion clip
    frames_per_second: float = 30.0

    def plain(self) -> dict[str, Any]:
        """Options as plain numbers and lists, as YAML and JSON have them."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def to_recipe(options: "Mapping[str, Any] | Recipe | None") -> Recipe:
    """A recipe from named options; what is not named keeps its default.

    Raises:
        ValueError: naming an unknown option and the nearest known one, or a value of a wrong form.
    """
    if isinstance(options, Recipe):
        return options
    known = {f.name: f.default for f in fields(Recipe)}
    values = {}
    for name, value in (options or {}).items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise ValueError(f"recipe has no option {name!r}; {hint}")
        values[name] = _checked(name, value, known[name])
    return Recipe(**values)


def _checked(name: str, value: Any, default: Any) -> Any:
    """``value`` in the form of ``default``, or an error that says what is expected."""
    is_pair = isinstance(default, tuple)
    numbers = list(value) if is_pair and not isinstance(value, (int, float, str)) else [value]
    kind = type(default[0] if is_pair else default)
    is_right = len(numbers) == (2 if is_pair else 1) and all(
        isinstance(n, (int, float)) and not isinstance(n, bool) and n == kind(n) for n in numbers
    )
    if not is_right or (is_pair and numbers[0] > numbers[1]):
        form = "[lowest, highest]" if is_pair else kind.__name__
        raise ValueError(f"recipe option {name}={value!r}: expected {form} such as {default!r}")
    if name != "pitch_mean_deg" and min(numbers) < 0:
        raise ValueError(f"recipe option {name}={value!r} is negative; use 0 or more")
    if name.endswith("_probability") and numbers[0] > 1:
        raise ValueError(f"recipe option {name}={value!r} is above 1; use 0 to 1")
    return tuple(kind(n) for n in numbers) if is_pair else kind(value)
