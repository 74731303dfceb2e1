"""Percentiles of a stream in bounded memory: counts of values in buckets of equal relative width.

A bucket holds the float32 numbers that share their sign, exponent and first seven bits of the mantissa, so its middle
is within 1/256 (0.4 %) of each of them. Counts are exact and add up over batches, in any order: the same values give
the same percentiles. After C. Masson, J. Rim and H. Lee, "DDSketch: A fast and fully-mergeable quantile sketch with
relative-error guarantees" (VLDB 2019), with the buckets that the number format has anyway.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

RELATIVE_ERROR = 2.0**-8
_SHIFT = 16  # bits of the mantissa that a bucket leaves open
_HALF = 1 << 15  # buckets of one sign


class Sketch:
    """Counts per bucket. Fed finite values of any shape; those beyond float32 count as its largest."""

    def __init__(self) -> None:
        self._keys = torch.empty(0, dtype=torch.int64)  # of the buckets that hold a value, rising with the value
        self._counts = torch.empty(0, dtype=torch.int64)

    def add(self, values: Tensor) -> None:
        """Count these values."""
        if not values.numel():
            return
        bits = _narrowed(values.detach().reshape(-1)).contiguous().view(torch.int32)
        size = (bits & 0x7FFFFFFF) >> _SHIFT
        keys = torch.where(bits < 0, _HALF - 1 - size, _HALF + size)
        found = torch.bincount(keys, minlength=2 * _HALF)
        found[self._keys] += self._counts
        self._keys = found.nonzero().flatten()
        self._counts = found[self._keys]

    @property
    def count(self) -> int:
        """Values seen."""
        return int(self._counts.sum())

    def buckets(self) -> tuple[Tensor, Tensor]:
        """(middle, count) of each bucket that holds a value, float64, rising."""
        size = torch.where(self._keys < _HALF, _HALF - 1 - self._keys, self._keys - _HALF)
        edges = torch.stack((size << _SHIFT, (size << _SHIFT) + (1 << _SHIFT) - 1)).to(torch.int32)
        middle = torch.nan_to_num(edges.view(torch.float32)).double().mean(0)
        middle = torch.where(size == 0, 0.0, middle)  # zero, and what is below 1e-38
        return torch.where(self._keys < _HALF, -middle, middle), self._counts.double()

    def quantile(self, share: float) -> float:
        """The value below which this share (0 to 1) of all values lies, within RELATIVE_ERROR; NaN of nothing."""
        if not self._keys.numel():
            return math.nan
        middle, counts = self.buckets()
        rank = share * (float(counts.sum()) - 1)
        at = int(torch.searchsorted(counts.cumsum(0), rank, right=True))
        return float(middle[min(at, len(middle) - 1)])


def _narrowed(values: Tensor) -> Tensor:
    """As float32; what is beyond it becomes its largest."""
    if values.dtype in (torch.float32, torch.float16, torch.bfloat16):
        return values.to(torch.float32)
    largest = torch.finfo(torch.float32).max
    return values.clamp(-largest, largest).to(torch.float32)
