"""Where a method errs: means by joint, action, box size, rarity of the pose and occlusion.

Groups of people have a mean each; as everywhere, somebody without a label does not count and a
failed prediction leaves no mean. A pose is as rare as the mean pose is far from it: the PA-MPJPE
that the baseline has on the same person.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_ERRORS = ("mpjpe", "pa_mpjpe", "pve", "kpl2")
_NUM_BINS = 6
_MIN_PEOPLE = 12  # of a set that is cut into bins


@dataclass(frozen=True)
class Circumstance:
    """A column that people are binned by.

    Attributes:
        column: its name.
        title: what it is.
        unit: its unit.
        edges: of the bins; none for bins of about equally many people.
    """

    column: str
    title: str
    unit: str
    edges: tuple[float, ...] = ()


CIRCUMSTANCES = {
    "rarity": Circumstance("baseline_pa_mpjpe", "rarity of the pose", "mm from the mean pose"),
    "box_size": Circumstance("_box_px", "size of the box", "px"),
    "occlusion": Circumstance(
        "_visible", "seen share of the person", "%", (0, 40, 60, 80, 95, 100)
    ),
}


def breakdown(columns: Mapping[str, Any], joint_names: Sequence[str] = ()) -> dict[str, Any]:
    """Means of the parts of one test set.

    Args:
        columns: its rows, see ``hmrkit.report``.
        joint_names: of the columns of ``_joint_mm``.

    Returns:
        What there is of ``joints`` ``{name: mm}``; ``actions`` ``{name: {"num", metric: mean}}``;
        each of ``CIRCUMSTANCES`` and ``confidence``, a list of bins ``{"low", "high", "num",
        metric: mean}``. A mean over nothing, or with a failure, is None.
    """
    table = {name: np.asarray(column) for name, column in columns.items()}
    errors = [name for name in _ERRORS if name in table]
    parts: dict[str, Any] = {}
    joint_mm = table.get("_joint_mm")
    if joint_mm is not None and joint_mm.ndim == 2 and joint_mm.shape[1] == len(joint_names):
        parts["joints"] = {n: mean(joint_mm[:, i]) for i, n in enumerate(joint_names)}
    if "action" in table:
        parts["actions"] = {
            str(name): _means(table, errors, table["action"] == name)
            for name in np.unique(table["action"])
            if name
        }
    for name, circumstance in CIRCUMSTANCES.items():
        if errors and circumstance.column in table:
            values = np.asarray(table[circumstance.column], np.float64)
            values = 100 * values if circumstance.unit == "%" else values
            if bins := _bins(table, errors, values, circumstance.edges):
                parts[name] = bins
    if "_score" in table and "precision" in table:
        parts["confidence"] = _confidence(table)
    return parts


def mean(values: Any) -> float | None:
    """Mean over the labelled ones; None if there are none, or if a prediction failed.

    A failure has no number, and leaving it out would reward failing.
    """
    values = np.asarray(values, dtype=np.float64)
    labelled = values[~np.isnan(values)]
    return float(labelled.mean()) if len(labelled) and np.isfinite(labelled).all() else None


def _means(
    table: Mapping[str, np.ndarray], errors: Sequence[str], rows: np.ndarray
) -> dict[str, Any]:
    return {"num": int(rows.sum())} | {name: mean(table[name][rows]) for name in errors}


def _bins(
    table: Mapping[str, np.ndarray],
    errors: Sequence[str],
    values: np.ndarray,
    edges: Sequence[float],
) -> list[dict[str, Any]]:
    """Bins of people who have a value and an error; with ``edges`` () of about equally many."""
    is_known = np.isfinite(values) & ~np.isnan(np.asarray(table[errors[0]], np.float64))
    if is_known.sum() < _MIN_PEOPLE:
        return []
    if np.ptp(values[is_known]) == 0:  # everybody is alike
        return []
    if not len(edges):
        edges = np.unique(np.quantile(values[is_known], np.linspace(0, 1, _NUM_BINS + 1)))
    place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    return [
        {"low": float(edges[i]), "high": float(edges[i + 1])}
        | _means(table, errors, is_known & (place == i))
        for i in range(len(edges) - 1)
        if (is_known & (place == i)).any()
    ]


def _confidence(table: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Bins of the score of found people: its mean, and the share who are somebody."""
    is_found = ~np.isnan(np.asarray(table["precision"], np.float64))
    score, is_right = table["_score"][is_found], table["precision"][is_found]
    place = np.clip((score * 10).astype(int), 0, 9)
    return [
        {
            "low": i / 10,
            "high": (i + 1) / 10,
            "num": int((place == i).sum()),
            "score": mean(score[place == i]),
            "share": mean(is_right[place == i]),
        }
        for i in range(10)
        if (place == i).any()
    ]
