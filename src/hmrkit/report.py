"""Per-person rows in, the report of a run out: report.json, report.md, report.html and rows.npz.

The rows of one test source are columns of equal length:

- ``key``, ``index``, ``person``: which sample, its position in the test set, who in it;
- ``<metric>``: the error of the prediction, e.g. ``pa_mpjpe``;
- ``baseline_<metric>``: the error of the mean pose on the same sample;
- ``stage<i>_<metric>``: the error of refinement stage i, for methods that have stages;
- ``curve<i>_<loss>``: a loss before step i of test-time optimisation, the last one after it.

As in ``hmrkit.metrics``, NaN means that a person has no label for a metric and infinity that the
prediction failed. Unlabelled persons are left out of a mean, a failure leaves no mean; both are
counted and shown.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from hmrkit.reporting import columns, page
from hmrkit.reporting.breakdown import breakdown, mean
from hmrkit.reporting.breakdown_page import action_table
from hmrkit.reporting.pictures import sample_picture as sample_picture

SCHEMA_VERSION = 1

Rows = Mapping[str, Mapping[str, np.ndarray | list]]
Picture = tuple[str, str, str, np.ndarray]


def write_report(
    folder: Path | str,
    rows: Rows,
    meta: Mapping[str, Any],
    curves: Sequence[Mapping[str, Any]] = (),
    pictures: Sequence[Picture] = (),
    summaries: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
    figures: Sequence[tuple[str, str, str, str]] = (),
) -> Path:
    """Write the report of one run or one evaluation.

    Args:
        folder: made if absent; the four files in it are replaced.
        rows: source -> column -> values, see the module.
        meta: facts about the run as plain values. ``method``, ``checkpoint`` and ``protocols``
            (source -> name) have a place of their own, as have ``protocols_in_words`` and
            ``joint_names`` (source -> names of the columns of ``_joint_mm``); ``config`` is folded
            away; everything else (``checkpoint_sha256``, ``seed``, ``versions`` ...) is listed.
        curves: rows of the CSV logger: ``step``, ``train/...``, ``val/...``; blanks allowed.
        pictures: (group, source, caption, (H, W, 3) uint8 RGB), group ``worst``, ``median`` or
            ``best``.
        summaries: source -> metric -> number of the whole source, with ``baseline_<metric>``.
        figures: (group, source, caption, HTML of ``render.viewer.figure``).

    Returns:
        The path of ``report.html``, one file that needs nothing else.

    Raises:
        ValueError: if columns of one source differ in length or a source has no metric.
    """
    folder = Path(folder)
    report = make_report(rows, meta, summaries)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=2, allow_nan=False, default=str)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    (folder / "report.md").write_text(_markdown(report), encoding="utf-8")
    np.savez_compressed(
        folder / "rows.npz",
        **{f"{s}/{c}": np.asarray(v) for s, table in rows.items() for c, v in table.items()},
    )
    html = page.render_page(report, rows, curves, pictures, figures)
    (folder / "report.html").write_text(html, encoding="utf-8")
    return folder / "report.html"


def make_report(
    rows: Rows,
    meta: Mapping[str, Any],
    summaries: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
) -> dict[str, Any]:
    """The content of report.json.

    Args:
        rows: source -> column -> values, see the module.
        meta: see ``write_report``.
        summaries: see ``write_report``.

    Returns:
        ``{"schema_version", "method", "checkpoint", "tests": {source: {"num_samples", "protocol",
        "protocol_in_words", "metrics": {metric: {"value", "unit", "baseline", "ratio", "median",
        "num_failed", "num_unlabelled", "stages"?}}, "breakdown": see ``breakdown``,
        "adaptation"?: {"before": {metric: value}, "curves": {loss: [...]}}}}, "meta"}``; a mean
        over no value is None.
    """
    own = ("method", "checkpoint", "protocols", "protocols_in_words", "joint_names")
    protocols, words, joint_names = ((meta.get(name) or {}) for name in own[2:])
    return {
        "schema_version": SCHEMA_VERSION,
        "method": meta.get("method"),
        "checkpoint": None if meta.get("checkpoint") is None else str(meta["checkpoint"]),
        "tests": {
            source: _summary(
                source, table, str(protocols.get(source, "")), summaries.get(source, {})
            )
            | {
                "protocol_in_words": str(words.get(source, "")),
                "breakdown": breakdown(table, joint_names.get(source, ())),
            }
            for source, table in rows.items()
        },
        "meta": _plain({k: v for k, v in meta.items() if k not in own}),
    }


def pick_samples(errors: Sequence[float] | np.ndarray, num: int) -> dict[str, list[int]]:
    """Positions of the ``num`` worst, median and best samples, largest error first in each group.

    No sample is in two groups: with fewer than ``3 * num`` finite errors the groups shrink, the
    median first. A failed prediction (infinity) is among the worst, an unlabelled one (NaN) is
    never picked.

    Args:
        errors: (N,) one error per sample, less is better.
        num: how many per group.
    """
    errors = np.asarray(errors, dtype=np.float64)
    labelled = np.flatnonzero(~np.isnan(errors))
    order = labelled[np.argsort(-errors[labelled], kind="stable")]  # worst first
    size = min(num, max(1, len(order) // 3))
    worst, rest = order[:size], order[size:]
    best = rest[max(len(rest) - size, 0) :]
    middle = rest[: len(rest) - len(best)]
    # The median of all samples sits at the middle of what lies between equally many worst and best.
    first = max((len(middle) - size + 1) // 2, 0)
    median = middle[first : first + size]
    return {"worst": worst.tolist(), "median": median.tolist(), "best": best.tolist()}


def format_table(report: Mapping[str, Any] | Path) -> str:
    """The numbers of a report as an aligned table, Markdown that also reads well in a terminal.

    Args:
        report: the content of report.json, or its path.
    """
    if isinstance(report, Path):
        report = json.loads(report.read_text(encoding="utf-8"))
    tests = report["tests"].values()
    stages = [len(m.get("stages", ())) for test in tests for m in test["metrics"].values()]
    is_adapted = any("adaptation" in test for test in tests)
    before = [f"stage {i}" for i in range(max(stages, default=0))]
    before = ["before adaptation"] if is_adapted else before
    header = ["source", "metric", *before, "value", "mean pose", "ratio", "unit"]
    header += ["samples", "protocol"]
    lines = [header]
    for source, test in report["tests"].items():
        for name, metric in test["metrics"].items():
            earlier = metric.get("stages", [])
            if is_adapted:
                earlier = [test.get("adaptation", {"before": {}})["before"].get(name)]
            earlier = [*earlier, *[None] * len(before)][: len(before)]
            lines.append(
                [
                    source,
                    columns.metric(name).title,
                    *(_number(value, f".{columns.metric(name).decimals}f") for value in earlier),
                    _number(metric["value"], f".{columns.metric(name).decimals}f"),
                    _number(metric["baseline"], f".{columns.metric(name).decimals}f"),
                    _number(metric["ratio"], ".2f"),
                    metric["unit"],
                    columns.count_text(test["num_samples"], metric),
                    test["protocol"] or "-",
                ]
            )
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    is_right = [h in (*before, "value", "mean pose", "ratio", "samples") for h in header]
    rule = ["-" * (w - r) + ":" * r for w, r in zip(widths, is_right, strict=True)]
    return "\n".join(
        "| "
        + " | ".join(_pad(c, w, r) for c, w, r in zip(line, widths, is_right, strict=True))
        + " |"
        for line in [header, rule, *lines[1:]]
    )


def _summary(
    source: str, table: Mapping[str, Any], protocol: str, numbers: Mapping[str, float]
) -> dict[str, Any]:
    lengths = {name: len(values) for name, values in table.items()}
    names = columns.metric_names(table)
    if len(set(lengths.values())) != 1 or not names:
        raise ValueError(
            f"test source {source!r}: a report needs columns of equal length and at least one "
            f"metric, got {lengths}; give one value per person, NaN where there is none"
        )
    adaptation = {"adaptation": _adaptation(table, names)} if columns.curves(table) else {}
    return adaptation | {
        "num_samples": next(iter(lengths.values())),
        "protocol": protocol,
        "metrics": {name: _metric_summary(table, name) for name in names}
        | {
            name: _entry(name, numbers[name], numbers.get(f"baseline_{name}"))
            for name in columns.metric_names(numbers)
        },
    }


def _adaptation(table: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """What test-time optimisation did: the metrics without it, and each loss over the steps.

    A person whose steps ended early counts with the last loss from then on.
    """
    curves = {}
    for loss, found in columns.curves(table).items():
        steps = np.stack([np.asarray(table[name], dtype=np.float64) for name in found])
        for i in range(len(steps) - 2, 0, -1):
            steps[i] = np.where(np.isnan(steps[i]), steps[i + 1], steps[i])
        curves[loss] = [mean(step) for step in steps]
    before = {name: mean(table[f"stage0_{name}"]) for name in names if f"stage0_{name}" in table}
    return {"before": before, "curves": curves}


def _metric_summary(table: Mapping[str, Any], name: str) -> dict[str, Any]:
    values = np.asarray(table[name], dtype=np.float64)
    stages = columns.stage_names(table, name)
    value = mean(values)
    summary = _entry(name, value, mean(table.get(f"baseline_{name}", ()))) | {
        "median": float(np.median(values[np.isfinite(values)])) if value is not None else None,
        "num_failed": int(np.isinf(values).sum()),
        "num_unlabelled": int(np.isnan(values).sum()),
    }
    if stages:
        summary["stages"] = [mean(table[column]) for column in stages]
    return summary


def _entry(name: str, value: float | None, baseline: float | None) -> dict[str, Any]:
    value, baseline = (None if v is None or not math.isfinite(v) else v for v in (value, baseline))
    return {
        "value": value,
        "unit": columns.metric(name).unit,
        "baseline": baseline,
        "ratio": value / baseline if value is not None and baseline else None,
        "median": None,
        "num_failed": 0,
        "num_unlabelled": 0,
    }


def means(table: Mapping[str, Any]) -> dict[str, float]:
    """Means of a source's metrics and of their baselines: infinite where a prediction failed."""
    names = columns.metric_names(table)
    found = {}
    for name in [*names, *(f"baseline_{name}" for name in names)]:
        values = np.asarray(table.get(name, ()), dtype=np.float64)
        if len(labelled := values[~np.isnan(values)]):
            found[name] = float(labelled.mean())
    return found


def _markdown(report: Mapping[str, Any]) -> str:
    facts = {"checkpoint": report["checkpoint"], **report["meta"]}
    lines = [f"# {report['method'] or 'report'}", "", format_table(report), ""]
    lines += [
        f"- {name}: {value}"
        for name, value in facts.items()
        if name != "config" and value is not None and not isinstance(value, dict | list)
    ]
    for source, test in report["tests"].items():
        if test["protocol_in_words"]:
            lines += ["", f"{source}: {test['protocol_in_words']}."]
        if header_and_lines := action_table(test["breakdown"]):
            header, body = header_and_lines
            rule = ["---", *("---:" for _ in header[1:])]
            lines += ["", *(f"| {' | '.join(line)} |" for line in [header, rule, *body])]
    lines += ["", "`mean pose` is the error of the body's mean pose on the same samples.", ""]
    return "\n".join(lines)


def _plain(value: Any) -> Any:
    """Numbers, strings, lists and dicts only; what JSON cannot say (NaN, infinity) becomes None."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _pad(text: str, width: int, is_right: bool) -> str:
    return text.rjust(width) if is_right else text.ljust(width)
