"""The charts of the HTML file, as SVG: numbers in, markup out. Colours come from the page's style sheet, by class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from fxquant.comparing.placing import Box, place
from fxquant.comparing.points import LayerLine, Point, staircase

_WIDTH, _HEIGHT = 520.0, 320.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 56.0, 14.0, 14.0, 44.0
_RADIUS = 6.0
_DIGIT = 7.0  # width of one, at the size of the numbers
_COLOURS = 8  # of candidates, in the style sheet

_SVG = Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>')
_GRID = Markup('<path class="grid" d="{}"/><text class="axis {}" x="{}" y="{}">{}</text>')
_WORD = Markup('<text class="word" x="{}" y="{}">{}</text>')
_UPRIGHT = Markup('<text class="word" transform="translate(12 {}) rotate(-90)">{}</text>')
_BAR = Markup(
    '<g class="bar-row{}">{}<text class="axis beside" x="{}" y="{}">{}</text>'
    '<rect x="{}" y="{}" width="{}" height="{}"/><path d="{}"/><text class="value-told" x="{}" y="{}">{}</text></g>'
)
_TITLE = Markup("<title>{}</title>")


class _Scale:
    """Values → places, with a margin on both sides, and round values between."""

    def __init__(self, values: Sequence[float], start: float, end: float, *, from_zero: bool = False) -> None:
        low, high = min(values), max(values)
        room = 0.12 * (high - low) or 0.05 * abs(high) or 1.0
        self.low, self.high = (0.0 if from_zero else low - room), high + room
        if low >= 0:
            self.low = max(0.0, self.low)
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        return self._start + (self._end - self._start) * (value - self.low) / (self.high - self.low)

    def ticks(self, most: int = 5) -> list[float]:
        """At most so many round values: 1, 2 or 5 times a power of ten apart."""
        raw = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        return [index * step for index in range(first, math.floor(self.high / step + 1e-9) + 1)]


def scatter(points: Sequence[Point], numbers: Mapping[str, int], *, cost: str, metric: str) -> Markup:
    """The metric against a cost, each dot with its number in the table, and the front as a line."""
    if not points:
        return Markup()
    x = _Scale([value for point in points for value in (point.low, point.high)], _LEFT, _WIDTH - _RIGHT)
    y = _Scale([point.metric for point in points], _HEIGHT - _BOTTOM, _TOP)
    drawn = _axes(x, y, cost, metric)
    corners = [(x(at), y(value)) for at, value in staircase(tuple(points))]
    drawn += Markup('<path class="front" d="{}"/>').format(_path(corners))
    for point in sorted(points, key=lambda point: point.is_front):  # those on the front stand before the others
        spread = _path([(x(point.low), y(point.metric)), (x(point.high), y(point.metric))])
        told = f"{point.name}: {point.cost:.3g} ({point.low:.3g}–{point.high:.3g}), {point.metric:.4g}"
        drawn += Markup('<g class="dot{}{}">{}<path d="{}"/><circle cx="{}" cy="{}" r="{}"/></g>').format(
            " is-float" if point.is_float else "",
            " is-front" if point.is_front else "",
            _TITLE.format(told),
            spread,
            _(x(point.cost)),
            _(y(point.metric)),
            _RADIUS,
        )
    return _SVG.format(
        "chart", int(_WIDTH), int(_HEIGHT), f"{metric} against {cost}", drawn + _named(points, numbers, x, y)
    )


def _axes(x: _Scale, y: _Scale, cost: str, metric: str) -> Markup:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    drawn = Markup()
    for value in x.ticks():
        line = f"M{_(x(value))} {_(_TOP)}V{_(bottom)}"
        drawn += _GRID.format(line, "below", _(x(value)), _(bottom + 15), f"{value:.4g}")
    for value in y.ticks():
        line = f"M{_(_LEFT)} {_(y(value))}H{_(right)}"
        drawn += _GRID.format(line, "beside", _(_LEFT - 7), _(y(value)), f"{value:.4g}")
    drawn += _WORD.format(_((_LEFT + right) / 2), _(_HEIGHT - 8), cost)
    return drawn + _UPRIGHT.format(_((_TOP + bottom) / 2), metric)


def _named(points: Sequence[Point], numbers: Mapping[str, int], x: _Scale, y: _Scale) -> Markup:
    """The number of each dot, where it covers nothing."""
    dots = [(x(point.cost), y(point.metric)) for point in points]
    names = [str(numbers[point.name]) for point in points]
    lines = [[(x(at), y(value)) for at, value in staircase(tuple(points))]]
    lines += [[(x(point.low), y(point.metric)), (x(point.high), y(point.metric))] for point in points]
    middle = ((_LEFT + _WIDTH - _RIGHT) / 2, (_TOP + _HEIGHT - _BOTTOM) / 2)
    frame = Box(*middle, (_WIDTH - _RIGHT - _LEFT) / 2, (_HEIGHT - _BOTTOM - _TOP) / 2)
    placed = place(dots, [(_DIGIT * len(name), 11.0) for name in names], lines, frame, radius=_RADIUS)
    drawn = Markup()
    for name, (left, top), at in zip(names, dots, placed, strict=True):
        if at.is_far:
            drawn += Markup('<path class="leader" d="{}"/>').format(_path([(left, top), (at.x, at.y)]))
        drawn += Markup('<text class="number" x="{}" y="{}">{}</text>').format(_(at.x), _(at.y), name)
    return drawn


def bars(rows: Sequence[tuple[str, float, float, float, bool]], unit: str) -> Markup:
    """(name, middle, low, high, is_float) as bars with their spread, from zero; names stand left of them."""
    if not rows:
        return Markup()
    step, left = 24.0, 170.0
    height = 8 + step * len(rows) + 34
    x = _Scale([high for _, _, _, high, _ in rows], left, _WIDTH - 50, from_zero=True)
    drawn = Markup()
    for value in x.ticks():
        line = f"M{_(x(value))} 4V{_(height - 34)}"
        drawn += _GRID.format(line, "below", _(x(value)), _(height - 20), f"{value:.4g}")
    for index, (name, middle, low, high, is_float) in enumerate(rows):
        top = 8 + step * index
        centre = top + step / 2
        drawn += _BAR.format(
            " is-float" if is_float else "",
            _TITLE.format(f"{name}: {middle:.3g} {unit} ({low:.3g}–{high:.3g})"),
            _(left - 8),
            _(centre),
            _cut(name, 24),
            _(left),
            _(top + 4),
            _(x(middle) - left),
            _(step - 8),
            _path([(x(low), centre), (x(high), centre)]),
            _(x(high) + 6),
            _(centre),
            f"{middle:.3g}",
        )
    drawn += _WORD.format(_((left + _WIDTH) / 2), _(height - 4), unit)
    return _SVG.format("chart", int(_WIDTH), _(height), f"Latency in {unit}", drawn)


def mark(index: int) -> str:
    """The classes of a candidate's mark: a colour, and every other round of colours is hollow."""
    return f"m-{index % _COLOURS}" + (" hollow" if index // _COLOURS % 2 else "")


def layers(lines: Sequence[LayerLine], names: Sequence[str]) -> Markup:
    """The SQNR that each layer alone costs, a dot for each candidate; coloured by the candidate's place in `names`."""
    values = [value for line in lines for _, value in line.sqnr_db]
    if not values:
        return Markup()
    width, step, left = 1000.0, 22.0, 260.0
    height = 8 + step * len(lines) + 40
    x = _Scale(values, left, width - 20)
    drawn = Markup()
    for value in x.ticks(8):
        line = f"M{_(x(value))} 4V{_(height - 38)}"
        drawn += _GRID.format(line, "below", _(x(value)), _(height - 24), f"{value:.4g}")
    for index, found in enumerate(lines):
        centre = 8 + step * (index + 0.5)
        line = f"M{_(left)} {_(centre)}H{_(width - 20)}"
        drawn += _GRID.format(line, "beside", _(left - 8), _(centre), _cut(found.label, 36))
        for name, value in found.sqnr_db:
            drawn += Markup('<circle class="mark {}" cx="{}" cy="{}" r="5">{}</circle>').format(
                mark(names.index(name)), _(x(value)), _(centre), _TITLE.format(f"{name}: {value:.1f} dB")
            )
    told = "SQNR that the layer alone costs, dB; left is worse"
    drawn += _WORD.format(_((left + width) / 2), _(height - 6), told)
    return _SVG.format("chart wide-chart", int(width), _(height), "Error of each layer", drawn)


def _path(corners: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{_(x)} {_(y)}" for x, y in corners) if corners else ""


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"…{text[1 - most :]}"


def _(value: float) -> str:
    """A coordinate: the same few digits on every machine."""
    return f"{value:.1f}".rstrip("0").rstrip(".")
