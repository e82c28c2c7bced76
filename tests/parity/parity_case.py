"""One parity case: a json that says what was run, beside an npz of the authors' numbers."""

import gzip
import json
import re
from functools import cached_property
from pathlib import Path

import fill
import numpy as np
import torch

from hmrkit.body.smpl import SMPL, BodyData


class Case:
    """A case by its files; ``config`` and ``arrays`` are what it records."""

    def __init__(self, path: Path):
        self.path = path
        self.name = path.stem
        self.spec = json.loads(path.read_text())
        self.config = self.spec.get("config", {})
        self.salt = self.spec["salt"]

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.path.with_suffix(".npz"), allow_pickle=False) as npz:
            return dict(npz)

    def tensor(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[name])

    def named(self, prefix: str) -> list[str]:
        """Names of the arrays below ``prefix``, without it."""
        return [name.removeprefix(prefix) for name in self.arrays if name.startswith(prefix)]

    def check(self, name: str, actual: torch.Tensor, atol: float | None = None) -> None:
        """Compare ``actual`` with the recorded ``name`` (``x``, ``x@everyK`` or ``x@stats``)."""
        expected = self.arrays[name]
        if atol is None:
            atol = self.spec["arrays"][name]["atol"]
        actual = subsample(actual.detach().cpu().numpy(), name.partition("@")[2])
        assert actual.shape == expected.shape, f"{name}: {actual.shape}, not {expected.shape}"
        error = np.abs(actual.astype(np.float64) - expected).max(initial=0.0)
        assert error <= atol, f"{name} is off by {error:.3g}, allowed {atol:.3g}"

    def tolerance(self, word: str) -> float:
        """The number behind ``word`` in the case's sentence on tolerances."""
        match = re.search(rf"{word}\w* ([\d.]+e-\d+|[\d.]+)", self.spec["tolerance"])
        assert match, f"{self.name} states no tolerance for {word}"
        return float(match[1])

    def states(self) -> dict[str, dict[str, np.ndarray]]:
        """The filled networks of the authors' checkpoint, by entry of the file."""
        with gzip.open(self.path.with_name(self.spec["state"]), "rt") as lines:
            table = json.load(lines)
        mean = {
            "init_pose": mean_pose6d(self.salt)[None],
            "init_shape": mean_betas(self.salt)[None],
            "init_cam": np.array([[0.9, 0.0, 0.0]], np.float32),
        }
        networks = {}
        for entry in ("model", "model_aux"):
            networks[entry] = {
                key: mean[key] if key in mean else self._filled(entry, key, shape)
                for key, (shape, _) in table[entry].items()
            }
        return networks

    def _filled(self, entry: str, key: str, shape: list[int]) -> np.ndarray:
        value = fill.fill(f"{entry}.{key}", shape, self.salt)
        for rule in self.spec["fill"]["exceptions"]:
            if re.search(rule["search"], key) and rule.get("ndim", value.ndim) == value.ndim:
                value = value * np.float32(rule["multiply"])
        return value


def subsample(array: np.ndarray, how: str) -> np.ndarray:
    """``everyK``: each K-th value of the flat array; ``stats``: mean, std, min, max."""
    if not how:
        return array
    if how == "stats":
        wide = array.astype(np.float64)
        return np.array([wide.mean(), wide.std(), wide.min(), wide.max()])
    return array.reshape(-1)[:: int(how.removeprefix("every"))]


def mean_pose6d(salt: str) -> np.ndarray:
    """The 24 interleaved 6D rotations (144,) that stand for ``smpl_mean_params``."""
    identity = np.tile(np.float32([1, 0, 0, 1, 0, 0]), 24)
    return identity + np.float32(0.05) * fill.unit("mean_params.pose", (144,), salt)


def mean_betas(salt: str) -> np.ndarray:
    """The shape (10,) that stands for ``smpl_mean_params``."""
    return np.float32(0.05) * fill.unit("mean_params.shape", (10,), salt)


def body(salt: str, gender: str = "neutral") -> SMPL:
    """The nonsense body of the cases; ``gender`` is neutral, male or female."""
    own_salt = salt if gender == "neutral" else salt + gender
    arrays = fill.smpl(own_salt)
    parents = arrays["kintree_table"][0].astype(np.int64)
    parents[0] = -1
    return SMPL(
        BodyData(
            name=f"parity-{gender}",
            v_template=arrays["v_template"],
            shapedirs=arrays["shapedirs"],
            posedirs=arrays["posedirs"],
            weights=arrays["weights"],
            J_regressor=arrays["J_regressor"],
            faces=arrays["f"].astype(np.int64),
            parents=parents,
            mean_pose=np.tile(np.eye(3, dtype=np.float32), (24, 1, 1)),
            mean_betas=mean_betas(salt),
            J_regressor_extra=fill.joint_regressor("J_regressor_extra", 9, salt),
            J_regressor_h36m=fill.joint_regressor("J_regressor_h36m", 17, salt),
        )
    )
