"""Line charts and histograms as inline SVG; colours come from the page, so both themes fit."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_WIDTH, _HEIGHT = 560, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 14, 40
_MAX_POINTS = 240  # a curve is averaged down to this many points


@dataclass(frozen=True)
class Axis:
    """A linear or logarithmic map from values to pixels of the drawing."""

    low: float
    high: float
    start_px: float
    end_px: float
    is_log: bool = False

    def to_px(self, value: float) -> float:
        """Where a value is drawn."""
        low, high = self.low, self.high
        if self.is_log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        share = (value - low) / (high - low)
        return self.start_px + share * (self.end_px - self.start_px)

    def ticks(self, num: int = 6) -> list[float]:
        """Round values inside the axis."""
        if self.is_log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            candidates = [m * 10.0**e for e in range(first, last + 1) for m in (1, 2, 5)]
            return [t for t in candidates if self.low <= t <= self.high]
        raw = (self.high - self.low) / num
        unit = 10.0 ** math.floor(math.log10(raw))
        step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= raw)
        first = math.ceil(self.low / step - 1e-9)
        count = math.floor(self.high / step + 1e-9) - first + 1
        return [(first + i) * step for i in range(count)]


def line_chart(
    series: Sequence[tuple[str, np.ndarray, np.ndarray]],
    x_label: str,
    y_label: str,
    baseline: tuple[str, float] | None = None,
) -> str:
    """One SVG with a line per series, and a dashed horizontal line for the baseline.

    Args:
        series: (label, x (N,), y (N,)), finite values, x ascending.
        x_label: below the x axis.
        y_label: title of the chart.
        baseline: (label, value); drawn only where it is finite.
    """
    if baseline is not None and not math.isfinite(baseline[1]):
        baseline = None
    series = [(label, *_thin(x, y)) for label, x, y in series if len(x)]
    if not series:
        return ""
    level = [baseline[1]] if baseline else []
    x_axis = _axis(np.concatenate([x for _, x, _ in series]), is_vertical=False)
    y_axis = _axis(np.concatenate([*(y for _, _, y in series), level]), is_vertical=True)
    body = [_grid(x_axis, y_axis, x_label)]
    if baseline:
        y = y_axis.to_px(baseline[1])
        body.append(
            f'<line class="base" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
    for i, (_, x, y) in enumerate(series):
        points = [(x_axis.to_px(a), y_axis.to_px(b)) for a, b in zip(x, y, strict=True)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        body.append(f'<polyline class="line s{i % 4}" points="{path}"/>')
        if len(points) <= 40:
            body += [
                f'<circle class="s{i % 4}" cx="{a:.1f}" cy="{b:.1f}" r="3"/>' for a, b in points
            ]
    keys = [(f"s{i % 4}", label) for i, (label, _, _) in enumerate(series)]
    if baseline:
        keys.append(("base", f"{baseline[0]} {baseline[1]:.3g}"))
    return _figure(y_label, keys, "".join(body))


def histogram(
    series: Sequence[tuple[str, str, np.ndarray]], x_label: str, title: str, num_bins: int = 32
) -> str:
    """One SVG of overlaid histograms with common bins; each mean is a vertical line.

    Args:
        series: (style class, label, values (N,)); what is not finite is left out.
        x_label: below the x axis.
        title: above the chart.
        num_bins: over the common range; what lies beyond the 99.5th percentile is in the last bin.
    """
    series = [(style, label, v[np.isfinite(v)]) for style, label, v in series]
    series = [(style, label, v) for style, label, v in series if len(v)]
    if not series:
        return ""
    values = np.concatenate([v for _, _, v in series])
    high = float(np.percentile(values, 99.5)) or 1.0
    low = min(0.0, float(values.min()))
    edges = np.linspace(low, max(high, low + 1e-6), num_bins + 1)
    counts = [np.histogram(np.minimum(v, edges[-1]), edges)[0] for _, _, v in series]
    x_axis = Axis(edges[0], edges[-1], _LEFT, _WIDTH - _RIGHT)
    y_axis = Axis(0, max(float(np.max(counts)) * 1.06, 1.0), _HEIGHT - _BOTTOM, _TOP)
    body = [_grid(x_axis, y_axis, x_label)]
    width = (x_axis.to_px(edges[1]) - x_axis.to_px(edges[0])) - 1
    for (style, _, v), count in zip(series, counts, strict=True):
        for edge, number in zip(edges, count, strict=False):
            top = y_axis.to_px(number)
            body.append(
                f'<rect class="bar {style}" x="{x_axis.to_px(edge):.1f}" y="{top:.1f}" '
                f'width="{width:.1f}" height="{y_axis.start_px - top:.1f}"/>'
            )
        x = x_axis.to_px(min(float(v.mean()), edges[-1]))
        body.append(
            f'<line class="mean {style}" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" '
            f'y2="{y_axis.start_px}"/>'
        )
    keys = [(style, f"{label}, mean {v.mean():.1f}") for style, label, v in series]
    return _figure(title, keys, "".join(body))


def _axis(values: np.ndarray, is_vertical: bool) -> Axis:
    """An axis that holds the values; vertical ones turn logarithmic over more than a factor 30."""
    low, high = float(values.min()), float(values.max())
    is_log = is_vertical and low > 0 and high / low > 30
    if is_log:
        low, high = low / 1.15, high * 1.15
    else:
        margin = (high - low) * (0.06 if is_vertical else 0) or (0.5 if high == low else 0)
        low, high = low - margin, high + margin
    start, end = (_HEIGHT - _BOTTOM, _TOP) if is_vertical else (_LEFT, _WIDTH - _RIGHT)
    return Axis(low, high, start, end, is_log)


def _grid(x_axis: Axis, y_axis: Axis, x_label: str) -> str:
    parts = []
    for value in y_axis.ticks():
        y = y_axis.to_px(value)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_tick(value)}</text>'
        )
    bottom = _HEIGHT - _BOTTOM
    for value in x_axis.ticks():
        x = x_axis.to_px(value)
        parts.append(
            f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{_tick(value)}</text>'
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{html.escape(x_label)}</text>'
    )
    return "".join(parts)


def _figure(title: str, keys: Sequence[tuple[str, str]], body: str) -> str:
    legend = "".join(f'<span><i class="{c}"></i>{html.escape(label)}</span>' for c, label in keys)
    name = html.escape(title)
    return (
        f'<figure><figcaption>{name}<span class="legend">{legend}</span></figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{name}">{body}</svg>'
        "</figure>"
    )


def _thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Averages of consecutive points, at most _MAX_POINTS of them."""
    size = math.ceil(len(x) / _MAX_POINTS)
    starts = np.arange(0, len(x), size)
    count = np.diff([*starts, len(x)])
    return np.add.reduceat(x, starts) / count, np.add.reduceat(y, starts) / count


def _tick(value: float) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:.6g}"
