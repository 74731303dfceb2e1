"""Quantizing: the only place where error enters on the way. Half a step, and nothing where both sides clip alike.

    |dequantize(quantize(q)) - clamp(q)| <= s/2 · (1 + 2^-12)       the kernels round x · (1/s) in float32
    |clamp(q) - clamp(v)| <= the larger of what the ends of v ± e move

The centre is clamped, so what calibration left outside the range is a known shift and no bound. A dynamic step is that
of the widest range that q can have; its own range holds all of q, to within s/2.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxquant.bounds.bounded import SLACK, Bounded, NoBound, lifted, rule

_ROUNDS: ContextVar[bool] = ContextVar("rounds", default=True)


@contextmanager
def nothing_rounded() -> Iterator[None]:
    """Quantizing an activation changes nothing inside the block: what is left are the weights."""
    token = _ROUNDS.set(False)
    try:
        yield
    finally:
        _ROUNDS.reset(token)


def is_rounding() -> bool:
    """Is quantizing an activation to change anything?"""
    return _ROUNDS.get()


HALF = 0.5 * (1 + 2.0**-12)
SMALLEST = 6.1e-5  # torch's chooser takes no smaller step


@dataclass(frozen=True, eq=False)
class Codes:
    """What quantize gives: the value that its own scale and zero point make of it."""

    value: Bounded
    scale: Any
    zero_point: Any


@dataclass(frozen=True, eq=False)
class Step:
    """A step that depends on the numbers: at most `most`, `usual` at the centre. Stands for scale and zero point."""

    most: float
    usual: float

    def __getitem__(self, index: int) -> Step:
        return self


def dynamic_step(most: float, usual: float, least: float) -> Step:
    """A step or scale that is computed in float32, and is no smaller than `least`."""
    return Step(*(max(size * (1 + 2.0**-20), least) for size in (most, usual)))


def static(given: Any, scale: float, zero_point: int, quant_min: int, quant_max: int, steps: float = HALF) -> Bounded:
    """What quantize and dequantize make of x: clamped, then `steps` steps off at most."""
    x = lifted(given)
    if x.grid == (scale, zero_point) or not _ROUNDS.get():
        return x
    low, high = ((limit - zero_point) * scale for limit in (quant_min, quant_max))
    value = x.value.clamp(low, high)
    above, below = ((x.value + x.error).clamp(low, high) - value, value - (x.value - x.error).clamp(low, high))
    is_settled = (x.value - x.error > high + scale) | (x.value + x.error < low - scale)
    is_moving = (x.value > low) & (x.value < high)
    error = torch.maximum(above, below) + torch.where(is_settled, 0.0, steps * scale)
    error = error + SLACK * max(abs(low), abs(high))  # the kernels' ends of the range are float32
    variance = torch.where(is_moving, x.variance + scale**2 / 12, torch.minimum(x.variance, x.error * scale))
    return Bounded(value, error, variance, (scale, zero_point))


def dynamic(given: Any, step: Step) -> Bounded:
    """Quantized by its own range."""
    x = lifted(given)
    if not _ROUNDS.get():
        return x
    return x.widened(torch.full_like(x.error, HALF * step.most), torch.full_like(x.error, step.usual**2 / 12))


@rule("choose_qparams")
def choose(given: Any, reduce_range: bool, num_bits: int = 8) -> Step:
    """The step of the widest range, which always holds zero."""
    x = lifted(given)
    levels = 127 if reduce_range else (1 << num_bits) - 1
    if not x.numel():
        return Step(0.0, 0.0)

    def width(low: Tensor, high: Tensor) -> float:
        return max(float(high.max().clamp(min=0) - low.min().clamp(max=0)) / levels * (1 + 2.0**-20), SMALLEST)

    return Step(width(x.value - x.error, x.value + x.error), width(x.value, x.value))


@rule("quantize_per_tensor")
def quantize(x: Any, scale: Any, zero_point: Any, quant_min: int, quant_max: int, dtype: Any) -> Codes:
    """Static where the scale is a number, dynamic where it is a Step."""
    if isinstance(scale, Step):
        return Codes(dynamic(x, scale), scale, zero_point)
    return Codes(static(x, scale, zero_point, quant_min, quant_max), scale, zero_point)


@rule("dequantize_per_tensor")
def dequantize(codes: Any, scale: Any, zero_point: Any) -> Bounded:
    """The value; by another scale or zero point than it was quantized with, another value."""
    if not isinstance(codes, Codes):
        raise NoBound("the codes come from elsewhere")
    if isinstance(scale, Step) or (codes.scale, codes.zero_point) == (scale, zero_point):
        return codes.value
    ratio = scale / codes.scale
    value = codes.value.value * ratio + (codes.zero_point - zero_point) * scale
    return Bounded(value, codes.value.error * ratio, codes.value.variance * ratio**2)


@rule("_seen")
def seen(x: Any, is_dynamic: bool, is_reduced: bool) -> Any:
    """What a recurrent step makes of its input."""
    return dynamic(x, choose(x, is_reduced)) if is_dynamic else x
