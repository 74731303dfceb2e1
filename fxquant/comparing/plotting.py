"""The charts of a comparison in matplotlib: metric against latency and size, latency bars, and layers."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxquant.comparing.labelling import label_points
from fxquant.comparing.points import (
    Point,
    against_latency,
    against_size,
    layer_lines,
    metric_label,
    setting_label,
    staircase,
    undrawn,
)
from fxquant.errors import MissingExtraError, UsageError, did_you_mean
from fxquant.files import write_whole

if TYPE_CHECKING:
    from fxquant.comparing.comparison import Comparison

INK, DIM, LINE, FLOAT, ACCENT = "#1b2330", "#5b6675", "#dfe4ea", "#c4620a", "#2f6fd0"
COLOURS = (ACCENT, "#0f8478", "#8557b8", "#b3303b", "#1f7a3d", "#a06a00", "#4a5a78", "#c2479a")
MARKS = "osD^vP*X"
SUFFIXES = ("png", "svg", "pdf")
MOST_PANELS = 4  # settings that are drawn side by side
MOST_NAMES = 8  # that stand beside their dots; more are numbered, with a key
_SCALE = 160  # dots per inch of a PNG


def plot(comparison: Comparison, path: str | os.PathLike[str], kind: str) -> Path:
    """Draw one chart into a file, whole or not at all. FXQ111, FXQ112, FXQ118; see `Comparison.plot`."""
    if kind not in KINDS:
        raise UsageError("FXQ111", f"kind={kind!r} is no chart", hint=did_you_mean(str(kind), KINDS))
    suffix = Path(path).suffix.lower().removeprefix(".")
    if suffix not in SUFFIXES:
        told = f"'{os.fspath(path)}' names no format that is drawn"
        raise UsageError("FXQ118", told, hint=f"one of {', '.join(f'.{known}' for known in SUFFIXES)}")
    buffer = io.BytesIO()
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(suffix)
    with _drawing():
        figure = KINDS[kind](comparison)
        figure.savefig(buffer, format=suffix, dpi=_SCALE, metadata=metadata)
    return write_whole(path, buffer.getvalue())


@contextmanager
def _drawing() -> Iterator[None]:
    """Matplotlib while it draws: the same SVG each time, and no word of characters that a font lacks. FXQ112."""
    try:
        from matplotlib import rc_context
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "FXQ112",
            "charts need the package 'matplotlib', which is not installed",
            hint='pip install "fxquant[demo]"; the HTML report draws its own charts without it',
        ) from error
    with rc_context({"svg.hashsalt": "fxquant"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        yield


def _figure(width: float, height: float, panels: int = 1, *, title: str = "") -> tuple[Any, list[Any]]:
    """A figure of its own, without pyplot and its global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False, sharey=True)[0]
    if title:
        head, _, rest = title.partition("\n")
        figure.suptitle(head + "\n" * bool(rest), fontsize=12, color=INK, x=0.01, ha="left")
        figure.text(0.01, 1 - 0.42 / height, rest, fontsize=9, color=DIM, ha="left", va="center")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(DIM)
        axis.tick_params(colors=DIM, labelsize=9)
        axis.grid(color=LINE, linewidth=0.8)
        axis.set_axisbelow(True)
    return figure, list(axes)


def _nothing(what: str, hint: str) -> UsageError:
    return UsageError("FXQ111", f"there is nothing to draw: {what}", hint=hint)


def _latency(comparison: Comparison) -> Any:
    settings = comparison.settings[:MOST_PANELS]
    panels = [(setting, against_latency(comparison, setting)) for setting in settings]
    panels = [(setting, points) for setting, points in panels if points]
    if not panels:
        raise _nothing("no candidate has a latency and a finite metric", "compare(..., seconds=5)")
    figure, axes = _figure(1.2 + 4.6 * len(panels), 4.4, len(panels), title=_title(comparison, "latency"))
    for axis, (setting, points) in zip(axes, panels, strict=True):
        _scatter(axis, points)
        axis.set_title(setting_label(setting), fontsize=10, color=INK, loc="left")
        axis.set_xlabel("latency, ms (median, bar: quartiles)", fontsize=9, color=INK)
    return _labelled(figure, axes, [points for _, points in panels], comparison)


def _size(comparison: Comparison) -> Any:
    points = against_size(comparison)
    if not points:
        raise _nothing("no candidate has a finite metric", "give labelled data, or another metric")
    figure, axes = _figure(6.4, 4.4, title=_title(comparison, "size on disk"))
    _scatter(axes[0], points)
    axes[0].set_xlabel("size on disk, kB", fontsize=9, color=INK)
    return _labelled(figure, axes, [points], comparison)


def _title(comparison: Comparison, against: str) -> str:
    left_out = undrawn(comparison)
    told = f"; not drawn: {_short(', '.join(left_out), 60)}" if left_out else ""
    head = f"{_short(comparison.model_name)}: {_short(comparison.metric)} against {against}"
    return f"{head}\nline and filled dots: Pareto front{told}"


def _scatter(axis: Any, points: Sequence[Point]) -> None:
    """Dots with the spread of their cost, and the front as a staircase."""
    corners = staircase(tuple(points))
    axis.plot(*zip(*corners, strict=True), color=ACCENT, linewidth=1.2, alpha=0.6, zorder=1)
    for point in sorted(points, key=lambda point: point.is_front):  # those on the front stand before the others
        colour = FLOAT if point.is_float else ACCENT if point.is_front else DIM
        spread = [[point.cost - point.low], [point.high - point.cost]]
        axis.errorbar(point.cost, point.metric, xerr=spread, color=colour, elinewidth=1.4, capsize=0, zorder=2)
        face = colour if point.is_front else "white"
        axis.plot(point.cost, point.metric, "o", markersize=8, mec=colour, mfc=face, mew=1.6, zorder=3)
    axis.margins(0.16, 0.22)
    low, high = axis.get_xlim()
    axis.set_xlim(max(0.0, low), high)


def _labelled(figure: Any, axes: Sequence[Any], panels: Sequence[Sequence[Point]], comparison: Comparison) -> Any:
    """Names beside the dots, where they cover nothing; the layout stands before they are placed."""
    axes[0].set_ylabel(_short(metric_label(comparison), 60), fontsize=9, color=INK)
    known = list(dict.fromkeys(point.name for points in panels for point in points))
    names = {name: _short(name, 28) if len(known) <= MOST_NAMES else str(n) for n, name in enumerate(known, start=1)}
    if len(known) > MOST_NAMES:
        key = "\n".join(f"{names[name]}  {_short(name, 30)}" for name in known)
        axes[-1].annotate(key, (1.03, 1), xycoords="axes fraction", va="top", fontsize=9, color=INK, linespacing=1.5)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axis, points in zip(axes, panels, strict=True):
        named = [(names[point.name], point.cost, point.metric) for point in points]
        spreads = [((point.low, point.metric), (point.high, point.metric)) for point in points]
        label_points(axis, named, [staircase(tuple(points)), *spreads], INK)
    return figure


def _bars(comparison: Comparison) -> Any:
    settings = comparison.settings[:MOST_PANELS]
    if not settings:
        raise _nothing("nothing was timed", "compare(..., seconds=5)")
    rows = [row for row in comparison.rows if row.latencies]
    height = 1.5 + 0.42 * len(rows)
    title = f"{_short(comparison.model_name)}: latency, median and quartiles"
    figure, axes = _figure(1.8 + 3.8 * len(settings), height, len(settings), title=title)
    for axis, setting in zip(axes, settings, strict=True):
        for index, row in enumerate(rows):
            found = row.latency(*setting)
            if found is None:
                continue
            middle, low, high = (1e3 * value for value in (found.median_seconds, found.low_seconds, found.high_seconds))
            axis.barh(index, middle, height=0.62, color=FLOAT if row.is_float else ACCENT, alpha=0.85)
            axis.errorbar(middle, index, xerr=[[middle - low], [high - middle]], color=INK, elinewidth=1.4, capsize=3)
            axis.annotate(f"{middle:.3g}", (high, index), (6, 0), textcoords="offset points", va="center", fontsize=9)
        axis.set_title(setting_label(setting), fontsize=10, color=INK, loc="left")
        axis.set_xlabel("ms", fontsize=9, color=INK)
        axis.margins(x=0.18)
        axis.set_xlim(left=0)
        axis.grid(visible=False, axis="y")
    axes[0].set_yticks(range(len(rows)), [_short(row.name) for row in rows], fontsize=9, color=INK)
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    return figure


def _layers(comparison: Comparison) -> Any:
    lines = layer_lines(comparison)
    if not lines:
        raise _nothing("no layer of any candidate was measured", "compare candidates that are compiled")
    names = [row.name for row in comparison.rows if row.layers]
    figure, axes = _figure(8.6, 1.9 + 0.27 * len(lines) + 0.22 * ((len(names) + 3) // 4))
    axis = axes[0]
    for number, name in enumerate(names):
        dots = [(value, index) for index, line in enumerate(lines) for owner, value in line.sqnr_db if owner == name]
        if dots:
            mark = MARKS[(number + number // len(COLOURS)) % len(MARKS)]  # no colour meets the same mark twice
            style = {"color": COLOURS[number % len(COLOURS)], "marker": mark, "label": _short(name, 28)}
            axis.plot(*zip(*dots, strict=True), linestyle="none", markersize=6.5, alpha=0.85, **style)
    axis.set_yticks(range(len(lines)), [_short(line.label) for line in lines], fontsize=8.5, color=INK)
    axis.set_ylim(len(lines) - 0.5, -0.5)
    told = "SQNR that the layer alone costs, dB (left is worse; exact layers are not drawn)"
    axis.set_xlabel(told, fontsize=9, color=INK)
    axis.set_title(f"{_short(comparison.model_name)}: error of each layer", fontsize=12, color=INK, loc="left")
    figure.legend(loc="outside lower center", ncols=min(4, len(names)), fontsize=9, frameon=False)
    return figure


def _short(text: str, most: int = 44) -> str:
    """The end of a long name, with no character that matplotlib takes for mathematics or for a hidden label."""
    cut = text if len(text) <= most else f"…{text[1 - most :]}"
    return (f" {cut}" if cut.startswith("_") else cut).replace("$", r"\$")


KINDS: dict[str, Callable[[Any], Any]] = {"latency": _latency, "size": _size, "bars": _bars, "layers": _layers}
