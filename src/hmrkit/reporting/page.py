"""report.html: one file that opens offline, in a light and a dark theme."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from hmrkit.render import viewer
from hmrkit.reporting import charts, columns
from hmrkit.reporting.breakdown_page import action_section, circumstance_section, joint_section
from hmrkit.reporting.parts import data_uri, facts, fill_page, section, table
from hmrkit.reporting.pictures import PANELS

_GROUPS = {"worst": "Worst samples", "median": "Median samples", "best": "Best samples"}


def render_page(
    report: Mapping[str, Any],
    rows: Mapping[str, Mapping[str, Any]],
    curves: Sequence[Mapping[str, Any]],
    pictures: Sequence[tuple[str, str, str, np.ndarray]],
    figures: Sequence[tuple[str, str, str, str]] = (),
) -> str:
    """The whole page.

    Args:
        report: what ``hmrkit.report.make_report`` returns.
        rows: per-person columns of each source, for the histograms.
        curves: rows of the CSV logger.
        pictures: (group, source, caption, (H, W, 3) uint8 RGB).
        figures: (group, source, caption, HTML of ``render.viewer.figure``).
    """
    title = f"{report['method'] or 'hmrkit'}: report"
    subtitle = f"checkpoint <code>{html.escape(report['checkpoint'] or 'not saved')}</code>"
    sections = [
        *(_headline(source, test) for source, test in report["tests"].items()),
        section("Numbers", _numbers(report)),
        section(
            "Protocols", facts({s: t["protocol_in_words"] for s, t in report["tests"].items()})
        ),
        section("By action", action_section(report)),
        section("Stages", _stages(report)),
        section("Test-time optimisation", _adaptation(report)),
        section("Learning curves", _curves(report, curves)),
        section("Error histograms", _histograms(rows)),
        section("By joint", joint_section(report)),
        section("By rarity of the pose, size, occlusion", circumstance_section(report)),
        section("To turn", _turntables(figures)),
        f'<p class="soft">Pictures below, left to right: {PANELS}.</p>' if pictures else "",
        *(_gallery(group, pictures) for group in _GROUPS),
        section("The run", facts({k: v for k, v in report["meta"].items() if k != "config"})),
        _config(report["meta"].get("config")),
        viewer.script() if figures else "",
    ]
    return fill_page(title, subtitle, sections)


def _headline(source: str, test: Mapping[str, Any]) -> str:
    """One card per metric: the number, and how it compares to the mean pose."""
    cards = []
    for name, entry in test["metrics"].items():
        metric = columns.metric(name)
        value = _number(entry["value"], metric.decimals)
        card = (
            f"<span>{html.escape(metric.title)}</span><b>{value} <small>{entry['unit']}</small></b>"
        )
        if entry["ratio"] is not None:
            baseline = _number(entry["baseline"], metric.decimals)
            style = "" if entry["ratio"] < 1 else ' class="bad"'
            width = f"{min(entry['ratio'], 1):.1%}"
            card += (
                f'<div class="meter"><i{style} style="width:{width}"></i></div>'
                f'<span class="soft">{entry["ratio"]:.2f} of the mean pose ({baseline})</span>'
            )
        cards.append(f'<div class="card">{card}</div>')
    num = test["num_samples"]
    title = (
        f"Test set <code>{html.escape(source)}</code>, {num} {'person' if num == 1 else 'people'}"
    )
    return f'<section><h2>{title}</h2><div class="cards">{"".join(cards)}</div></section>'


def _numbers(report: Mapping[str, Any]) -> str:
    header = [
        "source",
        "metric",
        "value",
        "median",
        "mean pose",
        "ratio",
        "unit",
        "samples",
        "protocol",
    ]
    lines = []
    for source, test in report["tests"].items():
        for name, entry in test["metrics"].items():
            metric = columns.metric(name)
            samples = columns.count_text(test["num_samples"], entry)
            numbers = [_number(entry[k], metric.decimals) for k in ("value", "median", "baseline")]
            ratio = _number(entry["ratio"], 2)
            protocol = test["protocol"] or "-"
            lines.append([source, metric.title, *numbers, ratio, entry["unit"], samples, protocol])
    note = (
        '<p class="soft">Means over people who have the label; a failed prediction leaves no mean. '
        "“Mean pose” is the error of the mean pose and shape on the same people: what a network "
        "scores that has learnt nothing.</p>"
    )
    return table(header, lines, numeric=(2, 3, 4, 5, 7)) + note


def _adaptation(report: Mapping[str, Any]) -> str:
    """The errors before and after, and the losses over the steps."""
    lines, figures = [], []
    for source, test in report["tests"].items():
        adaptation = test.get("adaptation", {"before": {}, "curves": {}})
        for name, before in adaptation["before"].items():
            metric = columns.metric(name)
            after = test["metrics"][name]["value"]
            values = [_number(v, metric.decimals) for v in (before, after)]
            lines.append([source, f"{metric.title} [{metric.unit}]", *values])
        for loss, values in adaptation["curves"].items():
            curve = np.array([np.nan if value is None else value for value in values])
            steps = np.flatnonzero(np.isfinite(curve))
            series = [(source, steps.astype(np.float64), curve[steps])]
            figures.append(charts.line_chart(series, "step", f"{loss} on {source}, mean of people"))
    if not lines and not figures:
        return ""
    body = f'<div class="grid2">{"".join(figures)}</div>'
    return table(["source", "metric", "before", "after"], lines, numeric=(2, 3)) + body


def _stages(report: Mapping[str, Any]) -> str:
    """A table of the mean error after each refinement stage; the last column is the result."""
    lines, most = [], 0
    for source, test in report["tests"].items():
        if "adaptation" in test:  # has a section of its own
            continue
        for name, entry in test["metrics"].items():
            if "stages" in entry:
                metric = columns.metric(name)
                values = [_number(v, metric.decimals) for v in (*entry["stages"], entry["value"])]
                lines.append([source, f"{metric.title} [{entry['unit']}]", *values])
                most = max(most, len(entry["stages"]))
    if not lines:
        return ""
    header = ["source", "metric", *(f"stage {i}" for i in range(most)), "result"]
    return table(header, lines, numeric=range(2, most + 3))


def _curves(report: Mapping[str, Any], curves: Sequence[Mapping[str, Any]]) -> str:
    """The training loss, then one chart per validation metric with the mean pose as dashed line."""
    if not curves:
        return ""
    names = list(dict.fromkeys(name for row in curves for name in row))
    loss = [n for n in names if n in ("train/loss", "train/loss_step", "train/loss_epoch")][:1]
    figures = [
        charts.line_chart([("loss", *_curve(curves, n)) for n in loss], "step", "Training loss")
    ]
    tests = report["tests"].values()
    for metric in dict.fromkeys(m for test in tests for m in test["metrics"]):
        found = [n for n in names if n.startswith("val/") and n.split("/")[-1] == metric]
        per_source = [n for n in found if n.count("/") > 1]
        chosen = per_source if len(per_source) > 1 else found[:1]
        series = [
            (n.removeprefix("val/").removesuffix(f"/{metric}"), *_curve(curves, n)) for n in chosen
        ]
        if len(series) == 1:
            series = [("validation", *series[0][1:])]
        known = columns.metric(metric)
        baseline = _curve(curves, f"val/baseline_{metric}")[1]
        level = float(baseline[-1]) if len(baseline) else _test_baseline(report, metric)
        title = f"Validation {known.title} [{known.unit}]"
        figures.append(charts.line_chart(series, "step", title, ("mean pose", level)))
    body = "".join(figures)
    return f'<div class="grid2">{body}</div>' if body else ""


def _curve(curves: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one column of the log, without its blanks."""
    pairs = [(row.get("step"), row.get(name)) for row in curves]
    filled = [(x, y) for x, y in pairs if x not in (None, "") and y not in (None, "")]
    points = np.asarray(filled, dtype=np.float64).reshape(-1, 2)
    points = points[np.isfinite(points).all(axis=1)]
    return points[:, 0], points[:, 1]


def _test_baseline(report: Mapping[str, Any], metric: str) -> float:
    """The mean pose's error, averaged over the test sources; NaN if unknown."""
    values = [t["metrics"].get(metric, {}).get("baseline") for t in report["tests"].values()]
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else float("nan")


def _histograms(rows: Mapping[str, Mapping[str, Any]]) -> str:
    figures = []
    for source, values in rows.items():
        for name in columns.metric_names(values):
            metric = columns.metric(name)
            series = [("s0", "prediction", np.asarray(values[name], dtype=np.float64))]
            if f"baseline_{name}" in values:
                baseline = np.asarray(values[f"baseline_{name}"], dtype=np.float64)
                series.insert(0, ("base", "mean pose", baseline))
            title = f"{metric.title} on {source}, people per bin"
            figures.append(charts.histogram(series, metric.unit, title))
    body = "".join(figures)
    return f'<div class="grid2">{body}</div>' if body else ""


def _gallery(group: str, pictures: Sequence[tuple[str, str, str, np.ndarray]]) -> str:
    shots = [
        f'<figure><img alt="{group} sample" src="{data_uri(rgb)}"><figcaption>'
        f'<span>{html.escape(caption)}</span><span class="soft">{html.escape(source)}</span>'
        "</figcaption></figure>"
        for of_group, source, caption, rgb in pictures
        if of_group == group
    ]
    return section(_GROUPS[group], f'<div class="shots">{"".join(shots)}</div>' if shots else "")


def _turntables(figures: Sequence[tuple[str, str, str, str]]) -> str:
    """Prediction and label of one person of each group, about the pelvis, turned by hand."""
    shots = [
        f"<figure>{figure}<figcaption><span>{group}: {html.escape(caption)}</span>"
        f'<span class="soft">{html.escape(source)}</span></figcaption></figure>'
        for group, source, caption, figure in figures
    ]
    return f'<div class="turn">{"".join(shots)}</div>' if shots else ""


def _config(config: Mapping[str, Any] | None) -> str:
    if not config:
        return ""
    text = html.escape(OmegaConf.to_yaml(OmegaConf.create(dict(config))))
    return f"<details><summary>The resolved configuration</summary><pre>{text}</pre></details>"


def _number(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"
