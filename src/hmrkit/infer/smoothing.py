"""Jitter out of tracks, without lag: filters that look both ways, on rotations as rotations.

A filter is called with what moves and the frame rate. Rotations are never averaged as numbers of
an axis-angle or a matrix: the Gaussian takes the rotation nearest to the weighted mean of matrices,
the one-euro filter goes along the shortest way from one rotation to the next.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import roma
import torch
from torch import Tensor


class Filter(Protocol):
    """Smooths one stretch of frames without gaps."""

    def points(self, points: Tensor, fps: float) -> Tensor:
        """(T, ..., 3) m to the same."""
        ...

    def rotations(self, rotations: Tensor, fps: float) -> Tensor:
        """(T, ..., 3, 3) to the same."""
        ...


@dataclass(frozen=True)
class Gaussian:
    """Mean over neighbouring frames, weighted by a Gaussian of time.

    Attributes:
        sigma_s: its standard deviation, seconds; larger is smoother.
    """

    sigma_s: float = 0.05

    def points(self, points: Tensor, fps: float) -> Tensor:
        """(T, ..., 3) m to the same."""
        return torch.einsum("st,t...->s...", self._weights(len(points), fps).to(points), points)

    def rotations(self, rotations: Tensor, fps: float) -> Tensor:
        """(T, ..., 3, 3) to the same: chordal means (Hartley et al. 2013, section 5.3)."""
        return roma.special_procrustes(self.points(rotations, fps))

    def _weights(self, num: int, fps: float) -> Tensor:
        time = torch.arange(num, dtype=torch.float64) / fps
        weights = torch.exp(-0.5 * ((time[:, None] - time) / self.sigma_s) ** 2)
        return weights / weights.sum(dim=1, keepdim=True)


@dataclass(frozen=True)
class OneEuro:
    """A low pass whose cutoff rises with speed (Casiez et al. 2012), run forwards and backwards.

    Rest is smoothed much, fast motion little. The mean of both directions cancels the lag.

    Attributes:
        min_cutoff_hz: of what rests; smaller is smoother.
        cutoff_per_speed: added to it in Hz for each m/s or rad/s; larger follows faster.
        speed_cutoff_hz: low pass of the speed itself.
    """

    min_cutoff_hz: float = 1.0
    cutoff_per_speed: float = 1.0
    speed_cutoff_hz: float = 1.0

    def points(self, points: Tensor, fps: float) -> Tensor:
        """(T, ..., 3) m to the same."""
        ways = [self._points(p, fps) for p in (points, points.flip(0))]
        return (ways[0] + ways[1].flip(0)) / 2

    def rotations(self, rotations: Tensor, fps: float) -> Tensor:
        """(T, ..., 3, 3) to the same."""
        ways = [self._rotations(r, fps) for r in (rotations, rotations.flip(0))]
        return _towards(ways[0], ways[1].flip(0), torch.tensor(0.5, dtype=rotations.dtype))

    def _points(self, points: Tensor, fps: float) -> Tensor:
        state, speed, result = points[0], torch.zeros_like(points[0]), [points[0]]
        for point, last in zip(points[1:], points[:-1], strict=True):
            speed = torch.lerp(speed, (point - last) * fps, _share(self.speed_cutoff_hz, fps))
            state = state + (point - state) * self._share_at(speed, fps)
            result.append(state)
        return torch.stack(result)

    def _rotations(self, rotations: Tensor, fps: float) -> Tensor:
        state, result = rotations[0], [rotations[0]]
        speed = torch.zeros_like(rotations[0][..., 0])
        for rotation, last in zip(rotations[1:], rotations[:-1], strict=True):
            turned = roma.rotmat_to_rotvec(rotation @ last.transpose(-1, -2)) * fps
            speed = torch.lerp(speed, turned, _share(self.speed_cutoff_hz, fps))
            state = _towards(state, rotation, self._share_at(speed, fps))
            result.append(state)
        return torch.stack(result)

    def _share_at(self, speed: Tensor, fps: float) -> Tensor:
        """How far to go towards the new value, (..., 1), at a speed (..., 3)."""
        cutoff = self.min_cutoff_hz + self.cutoff_per_speed * speed.norm(dim=-1, keepdim=True)
        return 1 / (1 + fps / (2 * np.pi * cutoff))


def _share(cutoff_hz: float, fps: float) -> float:
    return 1 / (1 + fps / (2 * np.pi * cutoff_hz))


def _towards(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """Part of the shortest way between rotations (..., 3, 3); share (..., 1) from 0 to 1."""
    step = roma.rotmat_to_rotvec(end @ start.transpose(-1, -2)) * share
    return roma.rotvec_to_rotmat(step) @ start


def fill_gaps(values: Tensor, is_seen: np.ndarray, max_gap: int) -> tuple[Tensor, np.ndarray]:
    """Interpolate between the frames around a gap: rotations on the shortest way, points straight.

    Args:
        values: (T, ..., 3, 3) rotations or (T, D) points; anything where nothing was seen.
        is_seen: (T,) bool.
        max_gap: longer gaps, in frames, stay.

    Returns:
        The filled values, and in which frames there is one now.
    """
    filled, is_there = values.clone(), is_seen.copy()
    seen = np.flatnonzero(is_seen)
    for begin, end in pairwise(seen):
        if not 1 < end - begin <= max_gap + 1:
            continue
        share = torch.arange(1, end - begin, dtype=values.dtype) / (end - begin)
        if values.ndim > 2:
            share = share.view(-1, *[1] * (values.ndim - 2))
            filled[begin + 1 : end] = _towards(values[begin], values[end], share)
        else:
            filled[begin + 1 : end] = torch.lerp(values[begin], values[end], share[:, None])
        is_there[begin + 1 : end] = True
    return filled, is_there


def stretches(is_there: np.ndarray) -> list[slice]:
    """The runs of frames without a gap."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], is_there.astype(int), [0]])))
    return [slice(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def acceleration(joints: Tensor, is_there: np.ndarray, fps: float) -> float:
    """Mean length of the second difference of joints (T, K, 3) m, in m/s^2; NaN for short tracks.

    The measure of jitter of VIBE and its followers, of joints about the pelvis.
    """
    parts = [joints[s] for s in stretches(is_there)]
    second = [(p[2:] - 2 * p[1:-1] + p[:-2]).norm(dim=-1).flatten() for p in parts if len(p) > 2]
    return float(torch.cat(second).mean() * fps**2) if second else float("nan")
