"""The chart: for each model the latency of each side over the best peer's, on a logarithmic axis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fxquant.tools.bench.peers.measured import ModelResult, Result

_MARKS = {  # group → marker, colour (told apart without colour as well), what the legend says
    "float": ("|", "#8a8a8a", "float, each engine"),
    "torch": ("v", "#b5651d", "torch.ao and torchao"),
    "onnxruntime": ("s", "#3a7d44", "ONNX Runtime's quantizer"),
    "openvino": ("D", "#2f6db5", "NNCF + OpenVINO"),
    "fxquant": ("o", "#e8a5a0", "fxquant, each target"),
    "auto": ("*", "#c0182b", "fxquant, auto"),
}
_LARGEST = 16.0  # ratios above stand at the edge, with their number


def draw(result: Result, path: Path) -> None:
    """Write an .svg or .png."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    rows = result.batches[0]
    models = [model for model in result.models if model.fastest(rows) is not None]
    with rc_context({"svg.hashsalt": "fxquant", "svg.fonttype": "none"}):
        figure = Figure(figsize=(9.0, 1.6 + 0.5 * max(1, len(models))), layout="constrained")
        axes = figure.add_subplot()
        for place, model in enumerate(models):
            _row(axes, place, model, rows)
        axes.axvline(1.0, color="black", linewidth=1.0, zorder=1)
        axes.set_xscale("log", base=2)
        axes.set_xlim(_least(models, rows) * 0.9, _LARGEST * 1.12)
        ticks = (0.25, 0.35, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_yticks(range(len(models)), [_label(model, rows) for model in models])
        axes.set_ylim(len(models) - 0.5, -0.5)
        axes.grid(axis="x", color="#e4e4e4", linewidth=0.8)
        axes.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.tick_params(axis="y", length=0)
        threads = result.about["threads"]
        axes.set_xlabel(f"latency over that of the fastest peer; batch {rows}, {threads} threads; left is faster")
        figure.legend(handles=_legend(axes), loc="outside upper center", ncols=3, frameon=False)
        metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {}
        figure.savefig(path, metadata=metadata, dpi=150)


def _least(models: list[ModelResult], rows: int) -> float:
    """The smallest ratio, or somewhat below one."""
    found = [0.7]
    for model in models:
        best = model.fastest(rows)
        found += [model.ratio(side, best, rows).median for side in model.timed(rows)] if best is not None else []
    return min(found)


def _label(model: ModelResult, rows: int) -> str:
    best = model.fastest(rows)
    return f"{model.model}\n{best.timing(rows).median * 1e3:.2f} ms" if best is not None else model.model


def _row(axes: Any, place: int, model: ModelResult, rows: int) -> None:
    """One model; what is faster is drawn later, and auto last."""
    best = model.fastest(rows)
    if best is None:
        return
    for side in sorted(model.timed(rows), key=lambda side: side.side == "fxquant-auto"):
        found = model.ratio(side, best, rows)
        group = "auto" if side.side == "fxquant-auto" else side.about.group
        marker, colour, _ = _MARKS[group]
        size = {"*": 190, "|": 110}.get(marker, 48)
        at = min(found.median, _LARGEST)
        edge = {} if marker == "|" else {"edgecolors": "white", "linewidths": 0.6}
        axes.scatter([at], [place], marker=marker, s=size, color=colour, zorder=4 if group == "auto" else 3, **edge)
        if found.median > _LARGEST:
            axes.annotate(
                f"{found.median:.0f}", (at, place), (0, 7), textcoords="offset points", ha="center", fontsize=7
            )
        elif group == "auto":
            axes.hlines(place, found.low, min(found.high, _LARGEST), color=colour, linewidth=1.5, zorder=2)


def _legend(axes: Any) -> list[Any]:
    return [
        axes.scatter([], [], marker=marker, s=90 if marker == "*" else 48, color=colour, label=told)
        for marker, colour, told in _MARKS.values()
    ]
