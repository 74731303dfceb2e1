"""What a conversion costs by size: a + b · elements seconds, fitted to a few sizes, once per process and engine.

Fitted by least squares on relative errors, so that small tensors count as much as large ones; neither a nor b is
negative.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor

SIZES = (1 << 8, 1 << 12, 1 << 16, 1 << 20)  # elements
_RUNS = 7


@dataclass(frozen=True, slots=True)
class Line:
    """Seconds for a number of elements."""

    fixed: float
    per_element: float

    def seconds(self, elements: int) -> float:
        """For so many elements."""
        return self.fixed + self.per_element * elements


@dataclass(frozen=True, slots=True)
class Crossing:
    """What it costs to quantize and to dequantize."""

    quantize: Line
    dequantize: Line


_KNOWN: dict[tuple[str, int], Crossing] = {}


def native_crossing(target: str) -> Crossing:
    """Of torch's own kernels on this machine, with as many threads as torch has now."""

    def measure() -> Crossing:
        quantize, dequantize = [], []
        for size in SIZES:
            x = torch.linspace(-1.0, 1.0, size)
            codes = torch.quantize_per_tensor(x, 1 / 127, 128, torch.quint8)
            quantize.append((size, _least(lambda x=x: torch.quantize_per_tensor(x, 1 / 127, 128, torch.quint8))))  # type: ignore[misc]
            dequantize.append((size, _least(codes.dequantize)))
        return Crossing(fitted(quantize), fitted(dequantize))

    return crossing_of(target, measure)


def crossing_of(target: str, measure: Callable[[], Crossing]) -> Crossing:
    """What `measure` found for this target and torch's present number of threads; it is asked once per process."""
    key = target, torch.get_num_threads()
    if key not in _KNOWN:
        _KNOWN[key] = measure()
    return _KNOWN[key]


def fitted(points: Iterable[tuple[int, float]]) -> Line:
    """The line through (elements, seconds): least squares of relative errors, neither term negative."""
    found = [(size, seconds) for size, seconds in points if seconds > 0]
    if not found:
        return Line(0.0, 0.0)
    weights = [1 / seconds**2 for _, seconds in found]
    total = sum(weights)
    x = sum(weight * size for weight, (size, _) in zip(weights, found, strict=True)) / total
    y = sum(weight * seconds for weight, (_, seconds) in zip(weights, found, strict=True)) / total
    spread = sum(weight * (size - x) ** 2 for weight, (size, _) in zip(weights, found, strict=True))
    slope = 0.0
    if spread > 0:
        product = sum(w * (size - x) * (seconds - y) for w, (size, seconds) in zip(weights, found, strict=True))
        slope = max(0.0, product / spread)
    return Line(max(0.0, y - slope * x), slope)


def _least(call: Callable[[], Tensor]) -> float:
    """The least of several runs after a warm one."""
    call()
    taken = []
    for _ in range(_RUNS):
        started = perf_counter()
        call()
        taken.append(perf_counter() - started)
    return min(taken)
