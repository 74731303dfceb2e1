"""Small multiples: for each layer histograms of its values and weights, with percentiles and the codes' range.

matplotlib is imported when a chart is drawn, and none of its global state is touched: no pyplot, no backend.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxquant.errors import MissingExtraError, UsageError
from fxquant.files import write_whole
from fxquant.profiling.distribution import Distribution

if TYPE_CHECKING:
    from fxquant.profiling.layer import Layer
    from fxquant.profiling.result import Profile

FORMATS = ("png", "svg", "pdf")
MOST_LAYERS = 60
_COLUMNS = 4
_VALUES, _WEIGHTS, _RANGE = "#4878a8", "#a87848", "#b03030"


def plot(profile: Profile, path: str | os.PathLike[str]) -> Path:
    """Draw it. FXQ118 for a format that is none or a file that cannot be written, FXQ112 without matplotlib."""
    form = Path(path).suffix.lower().removeprefix(".")
    if form not in FORMATS:
        hint = f"one of {', '.join(f'.{known}' for known in FORMATS)}"
        raise UsageError("FXQ118", f"'{os.fspath(path)}' ends in no format that is drawn", hint=hint)
    figure = _figure(profile)
    file = io.BytesIO()
    figure.savefig(file, format=form, dpi=110)
    return write_whole(path, file.getvalue())


def _figure(profile: Profile) -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "FXQ112",
            "a chart needs the package 'matplotlib', which is not installed",
            hint='pip install "fxquant[demo]"',
        ) from error
    panels = _panels(profile.layers)
    rows = max(1, -(-len(panels) // _COLUMNS))
    height = 0.8 + 2.0 * rows
    figure = Figure(figsize=(3.4 * _COLUMNS, height))
    figure.subplots_adjust(0.04, 0.35 / height, 0.99, 1 - 0.75 / height, wspace=0.22, hspace=0.5)
    FigureCanvasAgg(figure)
    shown = f", the first {MOST_LAYERS}" if len(panels) == MOST_LAYERS else ""
    title = f"{profile.model_name} by {profile.policy}: float values and weights{shown}; log counts\n"
    figure.suptitle(title + "bars: 0.1, 1, 50, 99, 99.9 %; red: what the codes hold", fontsize=9, y=1 - 0.1 / height)
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).flatten()
    for axis, (title, seen, color, limits) in zip(axes, panels, strict=False):
        _draw(axis, title, seen, color, limits)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    return figure


_Panel = tuple[str, Distribution, str, tuple[float, float] | None]


def _panels(layers: Sequence[Layer]) -> list[_Panel]:
    found: list[_Panel] = []
    for layer in layers:
        if layer.values is not None:
            low, high = layer.quant_low, layer.quant_high
            limits = None if low is None or high is None else (low, high)
            found.append((_short(layer.name, layer.op), layer.values, _VALUES, limits))
        for weight in layer.weights:
            if weight.values.count:
                found.append((_short(f"{layer.name}.{weight.name}", ""), weight.values, _WEIGHTS, None))
    return found[:MOST_LAYERS]


def _draw(axis: Any, title: str, seen: Distribution, color: str, limits: tuple[float, float] | None) -> None:
    width = (seen.high - seen.low) / len(seen.histogram) or 1e-3
    edges = [seen.low + width * index for index in range(len(seen.histogram) + 1)]
    top = max(seen.histogram) * 2.0
    axis.set_yscale("log")
    axis.set_ylim(0.5, top)
    axis.stairs(seen.histogram, edges, fill=True, color=color, baseline=0.5)  # one shape: a rectangle a bin is slow
    is_weight = color == _WEIGHTS
    high = seen.percentiles[2:]  # of weights those of |w|: the low ones would all lie at zero
    marks = [*high, *(-edge for edge in high)] if is_weight else list(seen.percentiles)
    axis.vlines(marks, 0.5, top, colors="black", linewidth=0.6, alpha=0.7)
    for edge in limits or ():
        axis.axvline(edge, color=_RANGE, linewidth=1.0)
    axis.set_title(title, fontsize=7)
    axis.tick_params(labelsize=6)


def _short(name: str, op: str) -> str:
    told = " ".join(filter(None, (name, op if op[:1].isupper() else "")))
    kept = told if len(told) <= 34 else "…" + told[-33:]
    return kept.replace("$", r"\$")  # a dollar starts mathematics
