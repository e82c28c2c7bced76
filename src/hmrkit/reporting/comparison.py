"""Several reports side by side: each metric of each test set, and how sure a difference is.

A difference is paired: the same people, scored in two reports. Its confidence interval is the
percentile bootstrap of the mean difference (Efron and Tibshirani 1993, chapter 13), over whole
videos where rows say of which one they are, since frames of a video err alike, else over people.
Numbers of a whole set (F1, AP, a PCK over joints) have no rows and so no interval.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from hmrkit.reporting import columns

SCHEMA_VERSION = 1
_BATCH = 64  # resamples in memory at a time


@dataclass(frozen=True)
class Scored:
    """One report and its rows.

    Attributes:
        folder: where they lie.
        report: the content of report.json.
        rows: source -> column -> values.
    """

    folder: Path
    report: Mapping[str, Any]
    rows: Mapping[str, Mapping[str, np.ndarray]]


def read_scored(path: str | Path) -> Scored:
    """Read the report of a run or an evaluation.

    Args:
        path: its folder, or a file in it, such as report.json.

    Raises:
        FileNotFoundError: if there is no report.
        ValueError: if it is damaged.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no report at {path}: give the folder that holds report.json")
    folder = path if path.is_dir() else path.parent
    for name in ("report.json", "rows.npz"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"no {name} in {folder}: give the folder of a report that hmrkit.train or "
                "hmrkit.eval wrote"
            )
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        rows: dict[str, dict[str, np.ndarray]] = {source: {} for source in report["tests"]}
        with np.load(folder / "rows.npz", allow_pickle=False) as arrays:
            for name in arrays.files:
                source, _, column = name.rpartition("/")
                rows[source][column] = arrays[name]
    except (ValueError, KeyError, OSError) as error:
        raise ValueError(f"the report in {folder} is damaged: {error!r}") from error
    return Scored(folder, report, rows)


def compare(
    scored: Sequence[Scored], num_resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> dict[str, Any]:
    """Join reports; the first is what the others are compared with.

    Args:
        scored: two or more. Reports of the same checkpoint on different sets become one column.
        num_resamples: of the bootstrap.
        level: of the confidence intervals.
        seed: of the resampling.

    Returns:
        ``{"schema_version", "level", "num_resamples", "columns": [{"label", "method", "checkpoint",
        "reports"}], "lines": [{"source", "protocol", "protocol_in_words", "metric", "unit",
        "values", "num_samples", "differences"}]}``. ``values`` has an entry per column, None where
        there is no number; ``differences`` likewise, ``{"value", "low", "high", "num_pairs",
        "resampled", "num_resampled"}`` of column minus first column, ends None where there is no
        interval.
    """
    groups = _by_checkpoint(scored)
    labels = _labels([group[0] for group in groups])
    lines = []
    for source, protocol, metric in _line_names(scored):
        found = [_find(group, source, protocol, metric) for group in groups]
        entries = [one.report["tests"][source]["metrics"][metric] if one else {} for one in found]
        known = next(one for one in found if one)
        test = known.report["tests"][source]
        values = [entry.get("value") for entry in entries]
        lines.append(
            {
                "source": source,
                "protocol": protocol,
                "protocol_in_words": test.get("protocol_in_words", ""),
                "metric": metric,
                "unit": columns.metric(metric).unit,
                "values": values,
                "num_samples": [
                    one.report["tests"][source]["num_samples"] if one else None for one in found
                ],
                "differences": [
                    _difference(found[0], one, source, metric, (num_resamples, level, seed))
                    if one is not found[0]
                    else None
                    for one in found
                ],
            }
        )
    return {
        "schema_version": SCHEMA_VERSION,
        "level": level,
        "num_resamples": num_resamples,
        "columns": [
            {
                "label": label,
                "method": group[0].report.get("method"),
                "checkpoint": group[0].report.get("checkpoint"),
                "reports": [str(one.folder) for one in group],
            }
            for label, group in zip(labels, groups, strict=True)
        ],
        "lines": lines,
    }


def difference_interval(
    first: np.ndarray,
    second: np.ndarray,
    groups: np.ndarray | None = None,
    num_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Confidence interval of the mean of ``second - first``, whose rows are the same people.

    Args:
        first: (N,) finite values.
        second: (N,) likewise.
        groups: (N,) what is drawn as a whole, such as names of videos; None draws people.
        num_resamples: number of resamples.
        level: of the interval.
        seed: of the draws.

    Returns:
        Its ends; NaN where fewer than two groups are left.
    """
    group = np.arange(len(first)) if groups is None else np.unique(groups, return_inverse=True)[1]
    total = np.bincount(group, weights=np.asarray(second, np.float64) - first)
    count = np.bincount(group).astype(np.float64)
    if len(total) < 2:
        return math.nan, math.nan
    if np.ptp(total / count) == 0:  # scipy has no interval for a constant
        return float(total[0] / count[0]), float(total[0] / count[0])
    interval = stats.bootstrap(
        (total, count),
        lambda t, c, axis: t.sum(axis=axis) / c.sum(axis=axis),
        n_resamples=num_resamples,
        batch=_BATCH,
        paired=True,
        vectorized=True,
        confidence_level=level,
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def _by_checkpoint(scored: Sequence[Scored]) -> list[list[Scored]]:
    """Reports that make one column: the same weights and options, no test set twice."""
    groups: list[list[Scored]] = []
    for one in scored:
        for group in groups:
            taken = {_set_of(other, source) for other in group for source in other.report["tests"]}
            is_new = taken.isdisjoint({_set_of(one, source) for source in one.report["tests"]})
            if is_new and _identity(one) == _identity(group[0]):
                group.append(one)
                break
        else:
            groups.append([one])
    return groups


def _identity(one: Scored) -> tuple:
    meta = one.report.get("meta", {})
    options = json.dumps(meta.get("options"), sort_keys=True)
    return one.report.get("checkpoint"), meta.get("checkpoint_sha256"), options


def _set_of(one: Scored, source: str) -> tuple[str, str]:
    return source, one.report["tests"][source].get("protocol") or ""


def _line_names(scored: Sequence[Scored]) -> list[tuple[str, str, str]]:
    """Source, protocol, metric of every line, in the order of their first appearance."""
    names: dict[tuple[str, str], dict[str, None]] = {}
    for one in scored:
        for source, test in one.report["tests"].items():
            names.setdefault(_set_of(one, source), {}).update(dict.fromkeys(test["metrics"]))
    return [(source, protocol, m) for (source, protocol), found in names.items() for m in found]


def _find(group: Sequence[Scored], source: str, protocol: str, metric: str) -> Scored | None:
    for one in group:
        test = one.report["tests"].get(source)
        if test and (test.get("protocol") or "") == protocol and metric in test["metrics"]:
            return one
    return None


def _difference(
    first: Scored | None,
    other: Scored | None,
    source: str,
    metric: str,
    options: tuple[int, float, int],
) -> dict[str, Any] | None:
    """How much larger the other one's number is; None where one of them is missing."""
    if first is None or other is None:
        return None
    tables = first.rows[source], other.rows[source]
    if any(metric not in table for table in tables):
        values = [one.report["tests"][source]["metrics"][metric]["value"] for one in (first, other)]
        if None in values:
            return None
        return _entry(values[1] - values[0], (math.nan, math.nan), 0, "", 0)
    picked = _shared_rows(*tables)
    left, right = (
        np.asarray(table[metric], np.float64)[rows]
        for table, rows in zip(tables, picked, strict=True)
    )
    is_scored = ~(np.isnan(left) | np.isnan(right))
    left, right = left[is_scored], right[is_scored]
    if not len(left) or not np.isfinite([left, right]).all():  # a failure has no number
        return None
    videos = tables[0].get("sequence")
    groups = None if videos is None else np.asarray(videos)[picked[0]][is_scored]
    if groups is not None and len(np.unique(groups)) < 2:
        groups = None
    unit = "people" if groups is None else "videos"
    num_units = len(left) if groups is None else len(np.unique(groups))
    interval = difference_interval(left, right, groups, *options)
    return _entry(float((right - left).mean()), interval, len(left), unit, num_units)


def _entry(
    value: float, interval: tuple[float, float], num_pairs: int, unit: str, num_units: int
) -> dict[str, Any]:
    low, high = (end if math.isfinite(end) else None for end in interval)
    return {
        "value": value,
        "low": low,
        "high": high,
        "num_pairs": num_pairs,
        "resampled": unit,
        "num_resampled": num_units,
    }


def _shared_rows(
    first: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of both tables that are about the same labelled person, in the same order."""
    _, left, right = np.intersect1d(_who(first), _who(other), return_indices=True)
    is_somebody = np.asarray(first["person"])[left] >= 0
    return left[is_somebody], right[is_somebody]


def _who(table: Mapping[str, np.ndarray]) -> np.ndarray:
    """A name (N,) of every row: record, person, and which of the rows about that person."""
    names = [
        f"{key}/{unit}/{person}"
        for key, unit, person in zip(table["key"], table["index"], table["person"], strict=True)
    ]
    seen: dict[str, int] = {}
    for place, name in enumerate(names):
        seen[name] = seen.get(name, -1) + 1
        names[place] = f"{name}/{seen[name]}"
    return np.array(names)


def _labels(firsts: Sequence[Scored]) -> list[str]:
    """Short names that tell the columns apart: what differs in the checkpoints' paths."""
    paths = [Path(str(one.report.get("checkpoint") or one.folder)).parts for one in firsts]
    if len(set(paths)) < len(paths):
        paths = [one.folder.resolve().parts for one in firsts]
    start = _num_shared(paths)
    end = _num_shared([path[start:][::-1] for path in paths])
    parts = ["/".join(path[start : len(path) - end]) for path in paths]
    return [part or path[-1] for part, path in zip(parts, paths, strict=True)]


def _num_shared(paths: Sequence[Sequence[str]]) -> int:
    if len(paths) == 1:
        return max(0, len(paths[0]) - 1)
    shared = 0
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared += 1
    return shared
