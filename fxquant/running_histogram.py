"""A histogram of a stream of values whose bins are a power of two wide, so that it widens without an error.

    bin i holds  width · i <= x < width · (i + 1),   i from -HALF to HALF - 1,   width = 2^e just large enough

When a larger value comes the width doubles: each new bin is the sum of two old ones, which zero parts from the others.
So the result does not depend on the order of the batches. Of a large tensor every n-th value is counted, with weight n
(n odd, so that it walks through all columns of a picture): a batch costs a pass for its extremes and little more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

HALF = 2048  # bins on each side of zero
MOST_COUNTED = 1 << 16  # values of one batch


@dataclass(slots=True)
class RunningHistogram:
    """Counts of the values that `add` was given. Exact zeros stand apart: every grid holds them without an error."""

    counts: Tensor = field(default_factory=lambda: torch.zeros(2 * HALF, dtype=torch.float64))
    exponent: int | None = None  # of the width; None as long as all values were zero

    def add(self, values: Tensor, low: float, high: float) -> None:
        """Count finite values, whose smallest and largest are given."""
        largest = max(-low, high)
        if largest == 0.0:
            return
        self._widen(_exponent(largest))
        stride = -(-values.numel() // MOST_COUNTED) | 1
        seen = values.detach().reshape(-1)[::stride]
        seen = seen[seen != 0]
        assert self.exponent is not None
        self.counts += float(stride) * torch.bincount(self._bins(seen), minlength=2 * HALF)
        self.counts += torch.bincount(self._bins(torch.tensor([low, high])), minlength=2 * HALF)

    def filled(self) -> tuple[Tensor, Tensor]:
        """(middles, counts) of the bins that hold anything, in ascending order. float64."""
        if self.exponent is None:
            return self.counts[:0], self.counts[:0]
        held = self.counts.nonzero().reshape(-1)
        return (held.double() - HALF + 0.5) * 2.0**self.exponent, self.counts[held]

    def _bins(self, values: Tensor) -> Tensor:
        width = 2.0 ** (self.exponent or 0)
        return (values.double() / width).floor_().clamp_(-HALF, HALF - 1).long() + HALF

    def _widen(self, exponent: int) -> None:
        if self.exponent is None or not bool(self.counts.any()):
            self.exponent = exponent
        while self.exponent < exponent:
            merged = torch.zeros_like(self.counts)
            merged[HALF // 2 : HALF // 2 + HALF] = self.counts.view(-1, 2).sum(1)
            self.counts, self.exponent = merged, self.exponent + 1


def _exponent(largest: float) -> int:
    """Of the smallest width with which HALF bins reach this far."""
    return math.frexp(largest)[1] - int(math.log2(HALF))
