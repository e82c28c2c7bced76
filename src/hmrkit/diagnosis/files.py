"""The files that hmrkit cannot bring along: bodies, regressors, published weights."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from hmrkit.body import files, free
from hmrkit.diagnosis.line import Line, short_hash, size_text
from hmrkit.infer import detectors

_SIDE_FILES = {  # name -> what it is for, where it comes from
    "J_regressor_extra.npy": ("joints of SPIN's 49", "in SPIN's data archive"),
    "J_regressor_h36m.npy": (
        "Human3.6M's joints, by which 3DPW is scored",
        "in SPIN's data archive",
    ),
    "smpl_mean_params.npz": ("the mean pose that networks start from", "in SPIN's data archive"),
    "SMPL_to_J19.pkl": ("body=smpl_j19 (HMR2.0, TokenHMR)", "in 4D-Humans' data archive"),
}
_REGISTER = "register at smpl.is.tue.mpg.de"


def check_bodies(folder: Path) -> Iterator[Line]:
    """The free body, and which of SMPL's files lie in ``folder`` (``body=smpl``)."""
    packaged = Path(free.__file__).with_name("free_body.npz")
    try:
        body = free.free_body()
    except Exception as error:  # a damaged file can hold anything
        remedy = "reinstall hmrkit"
        yield Line("body files", "free", "fail", f"{packaged}: {error}", remedy)
    else:
        text = f"{body.num_vertices} vertices, CC0, {short_hash(packaged)} (body=free, the default)"
        yield Line("body files", "free", "ok", text)
    for gender in ("neutral", "male", "female"):
        found = files.model_files(folder, gender)
        if not found:
            remedy = f"{_REGISTER}, put the file as it is into {folder}; body=free works without"
            yield Line("body files", f"SMPL {gender}", "warn", f"none in {folder}", remedy)
        for number, path in enumerate(found):
            yield _body(path, folder, gender, is_used=number == 0)
    for name, (purpose, origin) in _SIDE_FILES.items():
        yield _side_file(folder / name, purpose, origin)


def _body(path: Path, folder: Path, gender: str, is_used: bool) -> Line:
    """One model file: family, version, size and hash."""
    name = f"SMPL {gender}" if is_used else "also there"
    about = f"{path.relative_to(folder)}, {size_text(path.stat().st_size)}, {short_hash(path)}"
    try:
        arrays = files.read_body_file(path)
        files.body_data(path.name, arrays)
    except (ValueError, OSError) as error:
        remedy = f"download it again ({_REGISTER}); hmrkit takes the files as they are"
        return Line("body files", name, "fail" if is_used else "warn", f"{about}: {error}", remedy)
    family = "SMPL" if arrays["weights"].shape[1] == 24 else "SMPL+H"
    version = re.search(r"v(\d\.\d\.\d)", path.name)
    text = f"{family}{f' {version[1]}' if version else ''}, {arrays['shapedirs'].shape[-1]} betas"
    return Line("body files", name, "ok", f"{text}: {about}")


def _side_file(path: Path, purpose: str, origin: str) -> Line:
    if not path.is_file():
        remedy = f"{origin}; put it into {path.parent}"
        return Line("body files", path.name, "warn", f"not there: {purpose}", remedy)
    about = f"{size_text(path.stat().st_size)}, {short_hash(path)}"
    try:
        shape = _shape(path)
    except (ValueError, OSError) as error:
        remedy = f"get it again, {origin}"
        return Line("body files", path.name, "fail", f"{about}: {error}", remedy)
    return Line("body files", path.name, "ok", f"{shape}: {about}")


def _shape(path: Path) -> str:
    """The shape of what a regressor or mean file holds.

    Raises:
        ValueError: if it is not what its name says.
    """
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as content:
            if not {"pose", "shape"} <= set(content.files):
                raise ValueError(f"it holds {content.files}, not pose and shape")
            return "pose and shape"
    return str(files.read_regressor(path, (9, 17, 19)).shape)


def check_weights(folder: Path, recipes: Sequence[Path]) -> Iterator[Line]:
    """Which of the published weights that recipes begin with lie in ``folder``.

    Args:
        folder: ``paths.weights``.
        recipes: YAML files that may name ``${paths.weights}/<file>``.
    """
    pattern = re.compile(r"\$\{paths\.weights\}/([^ }\]'\"\n]+)")
    users: dict[str, list[str]] = {}
    for recipe in recipes:
        for name in pattern.findall(recipe.read_text(encoding="utf-8")):
            users.setdefault(name, []).append(recipe.stem)
    there = {name: folder / name for name in users if (folder / name).is_file()}
    for name, path in sorted(there.items()):
        text = f"{size_text(path.stat().st_size)}, for {', '.join(sorted(set(users[name])))}"
        yield Line("weights", name, "ok", text)
    if missing := sorted(users.keys() - there.keys()):
        found = f"{len(missing)} of {len(users)} not in {folder}/: {', '.join(missing)}"
        remedy = "docs/methods.md says which recipe needs which; the _tiny ones need none"
        yield Line("weights", "of recipes", "warn", found, remedy)


def check_detector(name: str) -> Iterator[Line]:
    """Whether the weights of ``detector=torchvision`` are there; it downloads nothing unasked."""
    try:
        path, url = detectors.torchvision_weights(name)
    except ValueError as error:
        yield Line("weights", "detector", "warn", str(error), "boxes=<file> needs no detector")
        return
    if path.is_file():
        text = f"{path}, {size_text(path.stat().st_size)} (detector=torchvision)"
        yield Line("weights", "detector", "ok", text)
        return
    remedy = f"put {url} there, or allow it once with detector.download=true"
    yield Line("weights", "detector", "warn", f"detector=torchvision: no {path}", remedy)
