"""A comparison as Markdown and as one HTML file that opens offline."""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hmrkit.reporting import columns
from hmrkit.reporting.comparison import Scored, compare
from hmrkit.reporting.parts import facts, fill_page, section, table


def write_comparison(
    folder: str | Path, scored: Sequence[Scored], num_resamples: int = 2000, level: float = 0.95
) -> Path:
    """Compare reports and write comparison.json, comparison.md and comparison.html.

    Args:
        folder: made if absent.
        scored: see ``compare``.
        num_resamples: see ``compare``.
        level: see ``compare``.

    Returns:
        The path of comparison.html.
    """
    folder = Path(folder)
    comparison = compare(scored, num_resamples, level)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(comparison, indent=2, allow_nan=False)
    (folder / "comparison.json").write_text(text + "\n", encoding="utf-8")
    markdown = f"# Comparison\n\n{format_comparison(comparison)}\n\n{_note(comparison)}\n"
    (folder / "comparison.md").write_text(markdown, encoding="utf-8")
    (folder / "comparison.html").write_text(render_comparison(comparison), encoding="utf-8")
    return folder / "comparison.html"


def format_comparison(comparison: Mapping[str, Any]) -> str:
    """The table as aligned Markdown: a line per test set and metric, a column per checkpoint."""
    header, lines = _table(comparison)
    widths = [max(len(line[i]) for line in [header, *lines]) for i in range(len(header))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in [header, rule, *lines]
    )


def render_comparison(comparison: Mapping[str, Any]) -> str:
    """The page: the table, the protocols in words, and who is who."""
    header, lines = _table(comparison)
    own = [
        {
            f"{column['label']} ({column['method'] or 'no method'})": column["checkpoint"] or "-",
            f"{column['label']}: reports": ", ".join(column["reports"]),
        }
        for column in comparison["columns"]
    ]
    words = {
        line["source"]: line["protocol_in_words"] or line["protocol"] or "-"
        for line in comparison["lines"]
    }
    note = "".join(f'<p class="soft">{html.escape(part)}</p>' for part in _note_parts(comparison))
    sections = [
        section("Numbers", table(header, lines) + note),
        section("Protocols", facts(words)),
        section("Columns", facts({k: v for part in own for k, v in part.items()})),
    ]
    first = comparison["columns"][0]["label"]
    return fill_page(
        "Comparison", f"differences are to <code>{html.escape(first)}</code>", sections
    )


def _table(comparison: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    labels = [column["label"] for column in comparison["columns"]]
    header = ["source", "metric", "unit", *labels, "samples", "protocol"]
    lines = []
    for line in comparison["lines"]:
        metric = columns.metric(line["metric"])
        cells = [
            _cell(value, difference, metric.decimals)
            for value, difference in zip(line["values"], line["differences"], strict=True)
        ]
        counts = sorted({n for n in line["num_samples"] if n is not None})
        samples = " to ".join(str(n) for n in {counts[0]: 0, counts[-1]: 0})
        protocol = line["protocol"] or "-"
        lines.append([line["source"], metric.title, line["unit"], *cells, samples, protocol])
    return header, lines


def _cell(value: float | None, difference: Mapping[str, Any] | None, decimals: int) -> str:
    """``73.1 (-2.4 [-3.0, -1.8] *)``; the star says that the interval holds no zero."""
    text = "-" if value is None else f"{value:.{decimals}f}"
    if difference is None:
        return text
    change = f"{difference['value']:+.{decimals}f}"
    if difference["low"] is None:
        return f"{text} ({change})"
    low, high = difference["low"], difference["high"]
    star = " *" if low > 0 or high < 0 else ""
    return f"{text} ({change} [{low:+.{decimals}f}, {high:+.{decimals}f}]{star})"


def _note(comparison: Mapping[str, Any]) -> str:
    return "\n\n".join(_note_parts(comparison))


def _note_parts(comparison: Mapping[str, Any]) -> list[str]:
    first = comparison["columns"][0]["label"]
    found = [d for line in comparison["lines"] for d in line["differences"] if d]
    kinds = sorted({d["resampled"] for d in found if d["resampled"]})
    parts = [
        f"In brackets: the difference to {first} on the people that both have scored, with its "
        f"{100 * comparison['level']:g} % interval (paired bootstrap over "
        f"{' or '.join(kinds) or 'people'}, {comparison['num_resamples']} resamples; * holds no "
        "zero). Numbers of a whole set have no interval."
    ]
    if len({(line["source"], line["protocol"]) for line in comparison["lines"]}) > 1:
        parts.append("Lines of different protocols must not be compared with each other.")
    return parts
