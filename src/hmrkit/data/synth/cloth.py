"""Fabrics: colours, patterns and folds as functions of the place on the body in its T pose."""

from dataclasses import dataclass

import numpy as np

_CLOTH = np.array(
    [[0.93, 0.93, 0.92], [0.08, 0.08, 0.09], [0.32, 0.33, 0.35], [0.60, 0.61, 0.62],
     [0.12, 0.16, 0.30], [0.22, 0.33, 0.52], [0.45, 0.57, 0.72], [0.78, 0.70, 0.56],
     [0.42, 0.38, 0.26], [0.36, 0.24, 0.17], [0.50, 0.10, 0.14]]
)  # fmt: skip


@dataclass(frozen=True)
class Cloth:
    """One fabric: colours, pattern and folds."""

    colors: np.ndarray  # (2, 3)
    pattern: str
    waves: np.ndarray  # (3, 3) rad/m, wave vectors of the pattern
    phase: np.ndarray  # (3,) rad
    fold: float  # strength of the folds
    thickness: float  # m

    def paint(self, rest: np.ndarray) -> np.ndarray:
        """Colours (N, 3) at places (N, 3)."""
        if self.pattern == "plain":
            share = np.zeros(len(rest), np.float32)
        else:
            wave = np.sin(rest @ self.waves.T.astype(np.float32) + self.phase.astype(np.float32))
            share = {
                "stripes": lambda: wave[:, 0] > 0.2,
                "checks": lambda: 0.5 * (wave[:, 0] > 0) + 0.5 * (wave[:, 1] > 0),
                "blobs": lambda: wave.sum(axis=1) > 0.4,
                "melange": lambda: 0.3 + 0.12 * wave.sum(axis=1),
                "block": lambda: wave[:, 0] > 0.55,
            }[self.pattern]().astype(np.float32)
        first, second = self.colors.astype(np.float32)
        return first + share[:, None] * (second - first)

    def shade(self, rest: np.ndarray) -> np.ndarray:
        """Brightness (N, 1) of the folds, around 1."""
        tilted = rest @ (_FOLD_WAVES * (1 + 0.2 * np.sin(self.phase))).astype(np.float32)
        folds = np.sin(tilted[:, :1] + 2.0 * np.sin(tilted[:, 1:2] + self.phase[0]))
        return 1 + np.float32(self.fold) * folds


_FOLD_WAVES = np.array([[38.0, 9.0, 0.0], [46.0, 25.0, 0.0], [31.0, 14.0, 0.0]])


def draw_color(rng: np.random.Generator) -> np.ndarray:
    """A cloth colour: a usual one, slightly off, or anything of middling saturation."""
    if rng.random() < 0.55:
        color = _CLOTH[rng.integers(len(_CLOTH))] + rng.normal(0, 0.03, 3)
    else:
        hue, saturation, value = rng.random(), rng.uniform(0.25, 0.9), rng.uniform(0.25, 0.95)
        ramp = np.clip(np.abs((hue * 6 + np.array([0.0, 4, 2])) % 6 - 3) - 1, 0, 1)
        color = value * (1 - saturation * (1 - ramp))
    return np.clip(color, 0.03, 0.97)


def draw_cloth(rng: np.random.Generator, plain: float, thickness: tuple[float, float]) -> Cloth:
    """One fabric; ``plain`` is the probability of no pattern."""
    kinds = ("stripes", "checks", "blobs", "melange", "block")
    pattern = "plain" if rng.random() < plain else str(rng.choice(kinds))
    per_metre = {"stripes": 90, "checks": 75, "blobs": 45, "melange": 160, "block": 11}
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    if pattern in ("stripes", "checks", "block") and rng.random() < 0.75:
        turn = np.eye(3)[[1, 0, 2] if rng.random() < 0.7 else [0, 1, 2]]  # along the body
    waves = turn * per_metre.get(pattern, 1) * rng.uniform(0.6, 1.5)
    return Cloth(
        colors=np.stack([draw_color(rng), draw_color(rng)]),
        pattern=pattern,
        waves=waves,
        phase=rng.uniform(0, 2 * np.pi, 3),
        fold=rng.uniform(0.02, 0.13),
        thickness=rng.uniform(*thickness),
    )
