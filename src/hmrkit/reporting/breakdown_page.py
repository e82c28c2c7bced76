"""The parts of a test set as charts and tables of the report's page."""

import html
from collections.abc import Mapping
from typing import Any

import numpy as np

from hmrkit.reporting import charts, columns
from hmrkit.reporting.breakdown import CIRCUMSTANCES
from hmrkit.reporting.parts import bars, table


def joint_section(report: Mapping[str, Any]) -> str:
    """Error of every joint, a list of bars per test set."""
    figures = [
        bars(f"MPJPE by joint on {source}", test["breakdown"]["joints"], "mm")
        for source, test in report["tests"].items()
        if test["breakdown"].get("joints")
    ]
    return f'<div class="grid2">{"".join(figures)}</div>' if figures else ""


def circumstance_section(report: Mapping[str, Any]) -> str:
    """Error over rarity of the pose, size of the box, occlusion; share of hits over confidence."""
    figures = []
    for source, test in report["tests"].items():
        for name, circumstance in CIRCUMSTANCES.items():
            bins = test["breakdown"].get(name, [])
            metrics = [m for m in ("mpjpe", "pa_mpjpe", "kpl2") if bins and m in bins[0]]
            series = [(columns.metric(m).title, *_points(bins, m)) for m in metrics]
            label = f"{circumstance.title}, {circumstance.unit}"
            unit = columns.metric(metrics[0]).unit if metrics else ""
            figures.append(charts.line_chart(series, label, f"Error on {source}, {unit}"))
        if bins := test["breakdown"].get("confidence"):
            seen = [one for one in bins if one["score"] is not None]
            score, share = (np.array([one[k] for one in seen]) for k in ("score", "share"))
            series = [("found people", score, share), ("calibrated", score, score)]
            title = f"Share of people found who are somebody on {source}"
            figures.append(charts.line_chart(series, "score", title))
    body = "".join(figures)
    return f'<div class="grid2">{body}</div>' if body else ""


def action_section(report: Mapping[str, Any]) -> str:
    """A table by action of every test set that has actions."""
    parts = []
    for source, test in report["tests"].items():
        if header_and_lines := action_table(test["breakdown"]):
            header, lines = header_and_lines
            numeric = range(1, len(header))
            parts.append(f"<h3>{html.escape(source)}</h3>{table(header, lines, numeric)}")
    return "".join(parts)


def action_table(breakdown: Mapping[str, Any]) -> tuple[list[str], list[list[str]]] | None:
    """Header and lines: every action, then the mean over actions; None without actions."""
    actions = breakdown.get("actions")
    if not actions:
        return None
    names = [name for name in next(iter(actions.values())) if name != "num"]
    names = [name for name in names if any(one[name] is not None for one in actions.values())]
    header = ["action", "samples", *(f"{columns.metric(n).title} [mm]" for n in names)]
    lines = [
        [action, str(one["num"]), *(_number(one[name]) for name in names)]
        for action, one in actions.items()
    ]
    values = [[one[name] for one in actions.values()] for name in names]
    means = [None if None in known else float(np.mean(known)) for known in values]
    return header, [*lines, ["mean of actions", "", *(_number(value) for value in means)]]


def _points(bins: list[dict[str, Any]], metric: str) -> tuple[np.ndarray, np.ndarray]:
    known = [one for one in bins if one[metric] is not None]
    middle = np.array([(one["low"] + one["high"]) / 2 for one in known])
    return middle, np.array([one[metric] for one in known])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
