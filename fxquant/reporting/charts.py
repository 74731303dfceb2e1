"""Small SVG charts made by hand: presentation attributes and classes only, because the page allows no inline styles."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

_FLAT = Markup('<svg class="{}" viewBox="0 0 {} {}" preserveAspectRatio="none" {}>{}</svg>')
_HIDDEN = Markup('aria-hidden="true" focusable="false"')
_RECT = Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"{}')
_WIDTH, _HEIGHT = 1000, 100


def stacked(parts: Sequence[tuple[str, int, str]]) -> Markup:
    """One bar cut into parts of (class, count, told)."""
    whole = sum(count for _, count, _ in parts) or 1
    drawn, at = Markup(), 0.0
    for name, count, told in parts:
        width = _WIDTH * count / whole
        drawn += _RECT.format(name, _(at), 0, _(width), 20, Markup("><title>{}</title></rect>").format(told))
        at += width
    label = ", ".join(told for _, _, told in parts)
    return _FLAT.format("stacked", _WIDTH, 20, Markup('role="img" aria-label="{}"').format(label), drawn)


def bar(share: float, name: str) -> Markup:
    """A bar in a table cell; `share` from 0 to 1."""
    width = 100 * max(0.0, min(1.0, share))
    return _FLAT.format("bar", 100, 10, _HIDDEN, _RECT.format(name, 0, 0, _(width), 10, Markup("/>")))


def histogram(
    counts: Sequence[int], low: float, high: float, quantized: tuple[float, float] | None, span: tuple[float, float]
) -> Markup:
    """Counts of equal bins from `low` to `high`, drawn over `span`; what the codes can hold is shaded.

    Heights are square roots of the counts, so that thin tails are seen beside a tall peak.
    """
    drawn = Markup()
    if quantized is not None:
        left, right = (_place(edge, span) for edge in quantized)
        drawn += _RECT.format("held", _(left), 0, _(max(0.0, right - left)), _HEIGHT, Markup("/>"))
    drawn += Markup('<path class="bins" d="{}"/>').format(_outline(counts, low, high, span))
    for edge in quantized or ():
        at = _(_place(edge, span))
        drawn += Markup('<path class="edge" d="M{} 0V{}" vector-effect="non-scaling-stroke"/>').format(at, _HEIGHT)
    return _FLAT.format("histogram", _WIDTH, _HEIGHT, _HIDDEN, drawn)


def span_of(low: float, high: float, quantized: tuple[float, float] | None) -> tuple[float, float]:
    """The values that a histogram's width stands for: all that was seen and all that the codes can hold."""
    edges = [edge for edge in (low, high, *(quantized or ())) if math.isfinite(edge)] or [0.0, 1.0]
    least, most = min(edges), max(edges)
    around = max(0.5, abs(least) / 1024) if least == most else 0.0  # one large value ± 0.5 is that value again
    return least - around, most + around


def _place(value: float, span: tuple[float, float]) -> float:
    if not math.isfinite(value):
        return 0.0 if value < 0 else float(_WIDTH)
    return min(float(_WIDTH), max(0.0, _WIDTH * (value - span[0]) / (span[1] - span[0])))


def _outline(counts: Sequence[int], low: float, high: float, span: tuple[float, float]) -> str:
    if not counts or not max(counts):
        return ""
    left, right, tallest = _place(low, span), _place(high, span), math.sqrt(max(counts))
    step = max(right - left, 4.0) / len(counts)
    steps = [f"V{_(_HEIGHT - 96 * math.sqrt(count) / tallest)}h{_(step, 2)}" for count in counts]
    return f"M{_(left)} {_HEIGHT}{''.join(steps)}V{_HEIGHT}z"


def columns(values: Sequence[tuple[float, float, str]], most: float) -> Markup:
    """Pairs of (accumulated, own, told) as columns of dB from 0 to `most`, in the order of the graph."""
    if not values:
        return Markup()
    step, bottom = 960 / len(values), 180.0
    drawn = Markup()
    for level in _levels(most):
        height = _(bottom - 160 * level / most)
        drawn += Markup('<path class="grid" d="M40 {0}H1000"/><text class="axis" x="34" y="{0}">{1}</text>').format(
            height, level
        )
    for index, (accumulated, own, told) in enumerate(values):
        x, y, dot = 40 + step * index, _level(accumulated, most, bottom), _level(own, most, bottom)
        width, title = _(step * 0.72, 2), Markup("<title>{}</title>").format(told)
        drawn += Markup('<g class="column" data-layer="{}">{}').format(index, title)
        drawn += Markup('<rect class="room" x="{}" y="20" width="{}" height="160"/>').format(_(x, 2), _(step, 2))
        drawn += Markup('<rect class="accumulated" x="{}" y="{}" width="{}" height="{}"/>').format(
            _(x + step * 0.14, 2), _(y), width, _(bottom - y)
        )
        drawn += Markup('<rect class="own" x="{}" y="{}" width="{}" height="3"/></g>').format(
            _(x + step * 0.14, 2), _(dot - 1.5), width
        )
    label = escape("SQNR of each layer in decibels, in the order of the graph")
    return Markup('<svg class="columns" viewBox="0 0 1000 200" role="img" aria-label="{}">{}</svg>').format(
        label, drawn
    )


def _level(value: float, most: float, bottom: float) -> float:
    height = 0.0 if math.isnan(value) else 160 * max(0.0, min(1.0, value / most))
    return bottom - height


def _levels(most: float) -> range:
    return range(0, int(most) + 1, 10 if most <= 60 else 20)


def _(value: float, digits: int = 1) -> str:
    """A coordinate: the same few digits on every machine."""
    return f"{value:.{digits}f}".rstrip("0").rstrip(".") if digits else f"{value:.0f}"
