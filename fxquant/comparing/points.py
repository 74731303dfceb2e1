"""What the charts show, as plain numbers: the metric against latency or size, and what each layer costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fxquant.comparing.pareto import front

if TYPE_CHECKING:
    from fxquant.comparing.comparison import Comparison
    from fxquant.comparing.rows import ComparedRow

MOST_LAYERS = 30  # of a chart: those that lose most
_LABELS = {"accuracy": "accuracy, %", "top5": "top-5 accuracy, %", "sqnr": "SQNR against float, dB"}


@dataclass(frozen=True, slots=True)
class Point:
    """One candidate: the metric against what it costs (ms or kB). `low` and `high` are the cost's quartiles."""

    name: str
    cost: float
    low: float
    high: float
    metric: float
    is_front: bool
    is_float: bool


@dataclass(frozen=True, slots=True)
class LayerLine:
    """One layer: the SQNR in dB that it alone costs, for each candidate in which it is not exact."""

    label: str
    sqnr_db: tuple[tuple[str, float], ...]  # (candidate, decibels)


def metric_label(comparison: Comparison) -> str:
    """The axis of the metric, and which way is better."""
    told = _LABELS.get(comparison.metric, comparison.metric)
    return f"{told} ({'higher' if comparison.is_higher_better else 'lower'} is better)"


def setting_label(setting: tuple[int, int]) -> str:
    """'batch 16, 2 threads'."""
    return f"batch {setting[0]}, {setting[1]} thread{'s'[: setting[1] > 1]}"


def against_latency(comparison: Comparison, setting: tuple[int, int]) -> tuple[Point, ...]:
    """In milliseconds."""
    found = {row.name: row.latency(*setting) for row in comparison.rows}
    return _points(
        comparison,
        {
            name: (1e3 * latency.median_seconds, 1e3 * latency.low_seconds, 1e3 * latency.high_seconds)
            for name, latency in found.items()
            if latency is not None
        },
    )


def against_size(comparison: Comparison) -> tuple[Point, ...]:
    """In kilobytes of 1000."""
    sizes = {row.name: row.size_bytes / 1e3 for row in comparison.rows if row.size_bytes is not None}
    return _points(comparison, {name: (size, size, size) for name, size in sizes.items()})


def undrawn(comparison: Comparison) -> tuple[str, ...]:
    """Candidates that have no place in a chart of the metric: failed, or as good as the reference itself."""
    return tuple(row.name for row in comparison.rows if _metric(row, comparison) is None)


def _metric(row: ComparedRow, comparison: Comparison) -> float | None:
    if row.metric is None or not math.isfinite(row.metric):
        return None
    return row.metric * (100 if comparison.metric in ("accuracy", "top5") else 1)


def _points(comparison: Comparison, costs: dict[str, tuple[float, float, float]]) -> tuple[Point, ...]:
    metrics = {row.name: _metric(row, comparison) for row in comparison.rows}
    known = {name: value for name, value in metrics.items() if value is not None and name in costs}
    sign = -1.0 if comparison.is_higher_better else 1.0
    best = front({name: (costs[name][0], sign * value) for name, value in known.items()})
    return tuple(
        Point(row.name, *costs[row.name], known[row.name], row.name in best, row.is_float)
        for row in comparison.rows
        if row.name in known
    )


def staircase(points: tuple[Point, ...]) -> tuple[tuple[float, float], ...]:
    """The front as corners (cost, metric), cheapest first: between two points nothing better was found."""
    best = sorted((point.cost, point.metric) for point in points if point.is_front)
    corners: list[tuple[float, float]] = []
    for cost, metric in best:
        if corners:
            corners.append((cost, corners[-1][1]))
        corners.append((cost, metric))
    return tuple(corners)


def layer_lines(comparison: Comparison, most: int = MOST_LAYERS) -> tuple[LayerLine, ...]:
    """The layers that lose most in any candidate, in graph order."""
    found: dict[str, dict[str, float]] = {}
    labels: dict[str, str] = {}
    for row in comparison.rows:
        for layer in row.layers:
            if layer.own_sqnr_db is not None and math.isfinite(layer.own_sqnr_db):
                found.setdefault(layer.site, {})[row.name] = layer.own_sqnr_db
                labels[layer.site] = f"{layer.module} · {layer.op}"
    worst = sorted(found, key=lambda site: min(found[site].values()))[:most]
    order = [layer.site for row in comparison.rows for layer in row.layers]
    kept = sorted(worst, key=order.index)
    return tuple(LayerLine(labels[site], tuple(found[site].items())) for site in kept)
