"""The quantization noise that a range would have, from the sketch of the values: no run is needed.

A value x inside [low, high], with codes `step` apart and one of them at zero, is off by its distance from the next
code. Where a bucket of the sketch is not much narrower than a step, that is a number spread evenly over one step:
step² / 12 on average (Bennett 1948). Outside of the range it is off by its distance from the edge.

    noise = Σ count · e²     e² = (x - edge)² outside, (x - step · round(x / step))² for |x| < 32 step, else step² / 12
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from fxquant.profiling.sketch import Sketch

_FINE = 32  # steps from zero up to where a bucket is a quarter of a step wide
_BULK = (0.001, 0.999)  # what a range's last values are held against


def range_sqnr_db(sketch: Sketch, low: float, high: float, bits: int = 8, *, of_bulk: bool = False) -> float:
    """Expected SQNR in dB of values held in `2^bits` codes over [low, high], which is widened to hold zero.

    of_bulk: count only the values between the 0.1th and the 99.9th percentile. A few huge ones are most of a tensor's
    power: the whole tensor's SQNR looks fine while all the others have become zero.
    """
    middle, counts = _bulk(sketch) if of_bulk else sketch.buckets()
    return _sqnr_db(middle, counts, min(low, 0.0), max(high, 0.0), bits)


def best_range(sketch: Sketch, low: float, high: float, bits: int = 8) -> tuple[float, float]:
    """The range with the least noise among those that shrink [low, high] towards zero: near what a histogram observer
    picks, which searches the same way for the least squared error."""
    middle, counts = sketch.buckets()
    low, high = min(low, 0.0), max(high, 0.0)
    tried = [(low * left, high * right) for left in _shrinks(low) for right in _shrinks(high)]
    return max(tried, key=lambda edges: _sqnr_db(middle, counts, edges[0], edges[1], bits))


def _shrinks(edge: float) -> Iterable[float]:
    return (1.0,) if edge == 0 else tuple(2.0 ** (-power / 4) for power in range(41))


def _bulk(sketch: Sketch) -> tuple[Tensor, Tensor]:
    middle, counts = sketch.buckets()
    kept = (middle >= sketch.quantile(_BULK[0])) & (middle <= sketch.quantile(_BULK[1]))
    return middle[kept], counts[kept]


def _sqnr_db(middle: Tensor, counts: Tensor, low: float, high: float, bits: int) -> float:
    step = (high - low) / (2**bits - 1)
    if step == 0.0:
        return math.inf if not bool(middle.any()) else -math.inf
    near = middle - step * torch.round(middle / step)
    inside = torch.where(middle.abs() < _FINE * step, near, step / math.sqrt(12.0))
    off = torch.where(middle < low, low - middle, torch.where(middle > high, middle - high, inside))
    signal, noise = float((counts * middle.square()).sum()), float((counts * off.square()).sum())
    if noise == 0.0:
        return math.inf
    return -math.inf if signal == 0.0 else 10.0 * math.log10(signal / noise)
