"""Parts that every page of ours is made of: one HTML file that needs nothing from outside."""

import base64
import html
from collections.abc import Collection, Mapping, Sequence
from importlib import resources
from string import Template
from typing import Any

import cv2
import numpy as np

_JPEG_QUALITY = 88


def fill_page(title: str, subtitle: str, sections: Sequence[str]) -> str:
    """The whole page.

    Args:
        title: plain text.
        subtitle: HTML.
        sections: HTML; empty ones are left out.
    """
    template = resources.files("hmrkit.reporting").joinpath("page.html").read_text("utf-8")
    return Template(template).substitute(
        title=html.escape(title), subtitle=subtitle, sections="\n".join(s for s in sections if s)
    )


def section(title: str, body: str) -> str:
    """A titled part of the page; nothing without a body."""
    return f"<section><h2>{html.escape(title)}</h2>{body}</section>" if body else ""


def table(
    header: Sequence[str], lines: Sequence[Sequence[str]], numeric: Collection[int] = ()
) -> str:
    """A table of plain texts; the columns in ``numeric`` are aligned to the right."""
    style = ['class="n"' if i in numeric else "" for i in range(len(header))]

    def row(tag: str, cells: Sequence[str]) -> str:
        parts = (f"<{tag} {s}>{html.escape(c)}</{tag}>" for s, c in zip(style, cells, strict=False))
        return f"<tr>{''.join(parts)}</tr>"

    body = "".join(row("td", cells) for cells in lines)
    return f'<div class="table"><table>{row("th", header)}{body}</table></div>'


def bars(title: str, values: Mapping[str, float | None], unit: str) -> str:
    """A list of names with a bar and a number each; None has no bar."""
    highest = max((v for v in values.values() if v is not None), default=0.0) or 1.0
    lines = [
        f"<div><span>{html.escape(name.replace('_', ' '))}</span>"
        f'<i style="width:{100 * (value or 0) / highest:.1f}%"></i>'
        f"<b>{'-' if value is None else f'{value:.1f}'}</b></div>"
        for name, value in values.items()
    ]
    return (
        f"<figure><figcaption>{html.escape(title)}"
        f'<span class="legend">{html.escape(unit)}</span></figcaption>'
        f'<div class="bars">{"".join(lines)}</div></figure>'
    )


def facts(values: Mapping[str, Any]) -> str:
    """A table of names and values, nested ones flattened, None left out."""
    lines = []
    for name, value in values.items():
        if value is None:
            continue
        entries = value.items() if isinstance(value, Mapping) else [("", value)]
        for key, entry in entries:
            label = f"{name} {key}".strip().replace("_", " ")
            text = f"{entry:.6g}" if isinstance(entry, float) else str(entry)
            lines.append(
                f"<tr><td class=soft>{html.escape(label)}</td><td>{html.escape(text)}</td></tr>"
            )
    return f'<div class="table facts"><table>{"".join(lines)}</table></div>' if lines else ""


def data_uri(rgb: np.ndarray) -> str:
    """A picture (H, W, 3) uint8 RGB as the address of an embedded JPEG."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    is_done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    assert is_done
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
