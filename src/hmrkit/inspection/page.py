"""inspect.html: what a set holds and what is wrong with it, one file that needs nothing else."""

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hmrkit.inspection.checks import ERROR, Finding
from hmrkit.inspection.statistics import COLUMNS, share, short
from hmrkit.reporting import charts
from hmrkit.reporting.parts import data_uri, facts, fill_page, section, table

if TYPE_CHECKING:
    from hmrkit.inspection.run import Inspection

_HISTOGRAM_VALUES = 20_000  # are enough for a picture


def render_page(found: "Inspection") -> str:
    """The whole page."""
    summary = found.summary
    subtitle = f"<code>{html.escape(summary['path'])}</code>"
    sections = [
        _cards(found),
        section("Findings", _findings(found)),
        section("Contact sheet", _contact_sheet(found)),
        section("Labels", _labels(found)),
        section("Distributions", _distributions(found)),
        section("Joints", _joints(summary)),
        section("Pose and shape", _bodies(summary)),
        section("Image sizes", _image_sizes(summary)),
        section("The set", _facts(summary)),
    ]
    return fill_page(f"{summary['name']}: inspection", subtitle, sections)


def _cards(found: "Inspection") -> str:
    summary, counts = found.summary, found.summary["counts"]
    num_warnings = len(found.findings) - found.num_errors
    looked_at = summary["num_looked_at"]
    is_part = looked_at < summary["num_records"]
    cards = [
        ("Records", counts["records"], f"of {summary['num_records']}" if is_part else ""),
        ("Images", counts["images"], f"{summary['num_bytes'] / 1e6:.1f} MB of shards"),
        ("Views", counts["views"], "a person in an image"),
        ("People", counts["people"], "frames of clips count one by one"),
        ("Errors", found.num_errors, "kinds of mistakes"),
        ("Warnings", num_warnings, "kinds of oddities"),
    ]
    body = "".join(
        f'<div class="card"><span>{title}</span><b>{number}</b><span class="soft">{note}</span>'
        "</div>"
        for title, number, note in cards
    )
    return f'<section><div class="cards">{body}</div></section>'


def _findings(found: "Inspection") -> str:
    if not found.findings:
        return '<p class="soft">Nothing was found to be wrong.</p>'
    return "".join(_finding(one, found.examples.get(one.name, ())) for one in found.findings)


def _finding(finding: Finding, pictures: Sequence[tuple[str, np.ndarray]]) -> str:
    color = "var(--bad)" if finding.severity == ERROR else "var(--s1)"
    lines = [[f"{e.key} {e.where}", e.detail] for e in finding.examples]
    shots = "".join(
        f'<figure><img alt="example" src="{data_uri(rgb)}"><figcaption>{html.escape(caption)}'
        "</figcaption></figure>"
        for caption, rgb in pictures
    )
    return (
        f'<h3><span style="color:{color}">{finding.severity}</span> '
        f"<code>{html.escape(finding.name)}</code> "
        f'<span class="soft">{finding.extent}</span></h3>'
        f"<p>{html.escape(finding.what)} {html.escape(finding.remedy)}</p>"
        + table(["such as", ""], lines)
        + (f'<div class="grid2 shots" style="margin-top:12px">{shots}</div>' if shots else "")
    )


def _contact_sheet(found: "Inspection") -> str:
    if found.contact_sheet is None:
        return ""
    rgb, legend = found.contact_sheet
    return (
        f'<p class="soft">{html.escape(legend)}</p><div class="shots"><figure>'
        f'<img alt="contact sheet" src="{data_uri(rgb)}"></figure></div>'
    )


def _labels(found: "Inspection") -> str:
    lines = []
    for name, entry in found.summary["labels"].items():
        part = share(found.statistics, name)
        if part is not None:
            lines.append([name, str(entry["count"]), entry["of"], _percent(part)])
    return table(["label", "present", "of", "share"], lines, numeric=(1, 3))


def _distributions(found: "Inspection") -> str:
    figures = []
    for name, column in COLUMNS.items():
        values = np.asarray(found.statistics.values(name), np.float64)
        values = values[np.isfinite(values)]
        if len(values) == 0 or np.ptp(values) == 0:
            continue  # a number that never changes is in the table below
        values = values[:: 1 + len(values) // _HISTOGRAM_VALUES]
        figures.append(
            charts.histogram([("s0", f"{len(values)} values", values)], column.unit, column.title)
        )
    header = ["", "count", "mean", "min", "5 %", "median", "95 %", "max"]
    lines = [
        [_title(name), str(column["count"]), *_numbers(column)]
        for name, column in found.summary["distributions"].items()
    ]
    grid = f'<div class="grid2">{"".join(figures)}</div>' if figures else ""
    return table(header, lines, numeric=range(1, 8)) + f"<br>{grid}" if lines else ""


def _title(name: str) -> str:
    column = COLUMNS[name]
    return f"{column.title} [{column.unit}]" if column.unit else column.title


def _numbers(column: dict[str, Any]) -> list[str]:
    keys = ("mean", "min", "p5", "median", "p95", "max")
    return [short(column[key]) for key in keys]


def _joints(summary: dict[str, Any]) -> str:
    counts = summary["counts"]
    lines = [
        [
            name,
            _percent(entry["views"] / counts["views"]) if counts["views"] else "-",
            _percent(entry["people"] / counts["people"]) if counts["people"] else "-",
        ]
        for name, entry in summary["joints"].items()
        if entry["views"] or entry["people"]
    ]
    if not lines:
        return ""
    unused = [name for name, entry in summary["joints"].items() if not any(entry.values())]
    note = f"Never labelled: {', '.join(unused)}." if unused else ""
    body = table(["joint", "2D, share of views", "3D, share of people"], lines, numeric=(1, 2))
    return (
        f'<p class="soft">Joint set {html.escape(summary["joint_set"])}. {html.escape(note)}</p>'
        f"<details><summary>{len(lines)} joints</summary>{body}</details>"
    )


def _bodies(summary: dict[str, Any]) -> str:
    header = ["degrees from the mean", "mean", "median", "95 %", "max"]
    lines = [
        [name, *(f"{entry[key]:.1f}" for key in ("mean", "median", "p95", "max"))]
        for name, entry in summary["pose_deg"].items()
        if entry
    ]
    betas = [
        [f"beta {i}", *(f"{entry[key]:.2f}" for key in ("mean", "sd", "min", "max"))]
        for i, entry in enumerate(summary["betas"])
        if entry
    ]
    tables = table(header, lines, numeric=range(1, 5)) if lines else ""
    shapes = table(["shape", "mean", "sd", "min", "max"], betas, numeric=range(1, 5))
    return f'<div class="grid2">{tables}{shapes if betas else ""}</div>' if lines or betas else ""


def _image_sizes(summary: dict[str, Any]) -> str:
    lines = [
        [f"{size['width']} x {size['height']}", str(size["count"])]
        for size in summary["image_sizes"]
    ]
    return table(["most frequent sizes, px", "images"], lines, numeric=(1,)) if lines else ""


def _facts(summary: dict[str, Any]) -> str:
    names = ("kind", "joint_set", "num_shards", "command", "options", "skipped", "hmrkit_version")
    shown = {name: summary[name] for name in names if name in summary}
    shown["body of the pictures"] = summary["body"]
    shown["bodies that cut through themselves"] = summary["num_self_intersecting"]
    return facts(shown)


def _percent(share_of_all: float) -> str:
    return f"{100 * share_of_all:.1f} %"
