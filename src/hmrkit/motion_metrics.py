"""Errors of videos: acceleration and jitter, of rows that were measured frame by frame."""

import re
from collections.abc import Mapping

import numpy as np

_MM = 1000.0


def acceleration_errors_mm(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Mean distance of the joints' accelerations (Kanazawa et al. 2019, HMMR), mm per frame^2.

    Args:
        points: (T, K, 3) metres, consecutive frames of one person.
        target: (T, K, 4) metres and confidence.

    Returns:
        (T,) of the middle one of three frames; NaN at the ends and where a label is missing in one
        of the three, infinite where a prediction is not finite.
    """
    error = np.linalg.norm(_difference(points, 2) - _difference(target[..., :3], 2), axis=-1)
    has_label = target[..., 3] > 0
    is_scored = has_label[2:] & has_label[1:-1] & has_label[:-2]
    return _in_the_middle(_mean(error, is_scored), len(points), 1)


def jitter_mm(points: np.ndarray) -> np.ndarray:
    """Mean third difference of the joints (jerk; Yi et al. 2021, TransPose), mm per frame^3.

    Args:
        points: (T, K, 3) metres, consecutive frames of one person.

    Returns:
        (T,) of the second of four frames; NaN where there are no four.
    """
    jerk = np.linalg.norm(_difference(points, 3), axis=-1)
    return _in_the_middle(_mean(jerk, np.ones(jerk.shape, bool)), len(points), 1)


def motion_columns(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """``accel`` and ``jitter`` of every row, with those of a still body and of the labels.

    Frames follow each other if they are of one person in one video and their numbers differ by as
    much as most of the set's do.

    Args:
        columns: ``key`` with the number of the frame at its end, ``sequence``, ``_person_id``,
            ``_joints`` and ``_label_joints``.

    Returns:
        ``accel``, ``baseline_accel`` (a body that stands still has the acceleration of the label as
        its error), ``jitter`` and ``label_jitter``, (N,) each.
    """
    num = len(columns["key"])
    names = ("accel", "baseline_accel", "jitter", "label_jitter")
    found = {name: np.full(num, np.nan) for name in names}
    for rows in _runs(columns):
        points, target = columns["_joints"][rows], columns["_label_joints"][rows]
        found["accel"][rows] = acceleration_errors_mm(points, target)
        found["baseline_accel"][rows] = acceleration_errors_mm(np.zeros_like(points), target)
        found["jitter"][rows] = jitter_mm(points)
        labelled = np.where((target[..., 3:] > 0).all(axis=1, keepdims=True), target, np.nan)
        label_jitter = jitter_mm(labelled[..., :3])
        found["label_jitter"][rows] = np.where(np.isinf(label_jitter), np.nan, label_jitter)
    return found


def _runs(columns: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Rows of consecutive frames of one person, in their order."""
    numbers = [re.search(r"(\d+)\D*$", str(key)) for key in columns["key"]]
    frame = np.array([int(match[1]) if match else -1 for match in numbers])
    person = columns.get("_person_id", np.full(len(frame), -1))
    _, video = np.unique(columns["sequence"], return_inverse=True)
    order = np.lexsort((frame, person, video))
    order = order[frame[order] >= 0]
    step = np.diff(frame[order])
    is_same = (np.diff(video[order]) == 0) & (np.diff(person[order]) == 0) & (step > 0)
    if not is_same.any():
        return []
    usual = np.bincount(np.minimum(step[is_same], 1000)).argmax()
    breaks = np.flatnonzero(~(is_same & (step == usual))) + 1
    return [rows for rows in np.split(order, breaks) if len(rows) > 2]


def _difference(points: np.ndarray, order: int) -> np.ndarray:
    return _MM * np.diff(np.asarray(points, np.float64), n=order, axis=0)


def _mean(values: np.ndarray, is_scored: np.ndarray) -> np.ndarray:
    """Row means (T,) of (T, K): NaN where nothing counts, infinite where a value is not finite."""
    values = np.where(np.isfinite(values), values, np.inf)
    total = np.where(is_scored, values, 0.0).sum(axis=1)
    count = is_scored.sum(axis=1)
    return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)


def _in_the_middle(values: np.ndarray, num: int, before: int) -> np.ndarray:
    full = np.full(num, np.nan)
    full[before : before + len(values)] = values
    return full
