"""Where candidates differ: for each layer, what it got in which of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fxquant.reporting.kinds import kind_of
from fxquant.reporting.wording import decibels, short

if TYPE_CHECKING:
    from fxquant.comparing.comparison import Comparison
    from fxquant.comparing.rows import Layer

_MOST_TOLD = 40  # characters of what a layer got; all of it is in its reason


@dataclass(frozen=True, slots=True)
class Got:
    """What a layer got in one candidate; `css` is its class in the style sheet, '' where it has no such layer."""

    effective: str
    css: str = ""
    sqnr: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class LayerDifference:
    """One layer in all candidates that have a ledger, in their order."""

    module: str
    op: str
    got: tuple[Got, ...]
    is_same: bool  # did it get the same in each?


def ledgers(comparison: Comparison) -> tuple[str, ...]:
    """Names of the candidates that tell what their layers got."""
    return tuple(row.name for row in comparison.rows if row.layers)


def differences(comparison: Comparison) -> tuple[LayerDifference, ...]:
    """Every layer, in the order of the first candidate that has it."""
    known = [{layer.site: layer for layer in row.layers} for row in comparison.rows if row.layers]
    sites = dict.fromkeys(site for layers in known for site in layers)
    return tuple(_difference([layers.get(site) for layers in known]) for site in sites)


def _difference(each: list[Layer | None]) -> LayerDifference:
    first = next(layer for layer in each if layer is not None)
    effective = {None if layer is None else layer.effective for layer in each}
    return LayerDifference(short(first.module), short(first.op), tuple(map(_got, each)), len(effective) == 1)


def _got(layer: Layer | None) -> Got:
    if layer is None:
        return Got("–")
    effective = layer.effective or "open"
    why = f"{effective}: {layer.code} {layer.reason}"
    is_exact = layer.own_sqnr_db is None or layer.own_sqnr_db == math.inf
    sqnr = "" if is_exact else decibels(layer.own_sqnr_db)
    return Got(short(effective, _MOST_TOLD), kind_of(layer.effective).css, sqnr, short(why, 600))
