"""Per-layer measurements as the report shows them: SQNR, ranges and a histogram for each layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from fxquant.reporting import charts
from fxquant.reporting.wording import decibels, duration, number, share, short, sort_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fxquant.measuring import LayerMeasure


@dataclass(frozen=True, slots=True)
class Card:
    """One layer; `keys` are what its columns sort by."""

    index: int
    module: str
    op: str
    sqnr: str
    own: str
    values: str  # the float values' range
    held: str  # the range that the codes hold; 'float' where there are none
    clipped: str
    seconds: str
    keys: dict[str, str]
    bar: Markup
    own_bar: Markup
    histogram: Markup
    axis: tuple[str, str]  # what the histogram's left and right edge stand for

    def as_data(self) -> dict[str, str]:
        """What the page's script writes into the panel of a chosen layer."""
        told = {"module": self.module, "op": self.op, "sqnr": self.sqnr, "own": self.own, "values": self.values}
        return told | {"held": self.held, "clipped": self.clipped, "left": self.axis[0], "right": self.axis[1]}


def cards_of(layers: Sequence[LayerMeasure]) -> tuple[Card, ...]:
    """One card for each measured layer, in graph order."""
    most = highest(layers)
    return tuple(_card(index, layer, most) for index, layer in enumerate(layers))


def worst(layers: Sequence[LayerMeasure]) -> int:
    """Index of the layer to look at first: the lowest SQNR of its own, of those that have one."""
    known = [index for index, layer in enumerate(layers) if not math.isnan(layer.own_sqnr_db)]
    return min(known, key=lambda index: layers[index].own_sqnr_db, default=0)


def overview(layers: Sequence[LayerMeasure]) -> Markup:
    """The SQNR of all layers as columns, in graph order."""
    told = (f"{short(layer.module or layer.site, 80)}: {decibels(layer.sqnr_db)}" for layer in layers)
    return charts.columns(
        [(layer.sqnr_db, layer.own_sqnr_db, text) for layer, text in zip(layers, told, strict=True)], highest(layers)
    )


def highest(layers: Sequence[LayerMeasure]) -> float:
    """Where the bars end: the largest finite SQNR, rounded up to tens, 30 to 120 dB."""
    values = [value for layer in layers for value in (layer.sqnr_db, layer.own_sqnr_db) if math.isfinite(value)]
    return float(min(120, max(30, 10 * math.ceil(max(values, default=0.0) / 10))))


def _card(index: int, layer: LayerMeasure, most: float) -> Card:
    held = None
    if layer.quant_low is not None and layer.quant_high is not None:
        held = (layer.quant_low, layer.quant_high)
    span = charts.span_of(layer.low, layer.high, held)
    measured = {"sqnr": layer.sqnr_db, "own": layer.own_sqnr_db, "clipped": layer.clipped if held else None}
    return Card(
        index=index,
        module=short(layer.module or layer.site),
        op=short(layer.op),
        sqnr=decibels(layer.sqnr_db),
        own=decibels(layer.own_sqnr_db),
        values=f"{number(layer.low)} … {number(layer.high)}",
        held="float" if held is None else f"{number(held[0])} … {number(held[1])}",
        clipped="–" if held is None else share(layer.clipped),
        seconds="" if layer.seconds is None else duration(layer.seconds),
        keys={name: sort_key(value) for name, value in (measured | {"seconds": layer.seconds}).items()},
        bar=charts.bar(_share(layer.sqnr_db, most), "accumulated"),
        own_bar=charts.bar(_share(layer.own_sqnr_db, most), "own"),
        histogram=charts.histogram(layer.histogram, layer.low, layer.high, held, span),
        axis=(number(span[0]), number(span[1])),
    )


def _share(value: float, most: float) -> float:
    return 0.0 if math.isnan(value) else value / most
