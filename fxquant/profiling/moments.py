"""Mean, variance and kurtosis of a stream, in float64 and in one pass.

Central sums of two parts A and B with means a and b, d = b - a, n = nA + nB, join as

    M2 = M2A + M2B + d² nA nB / n
    M3 = M3A + M3B + d³ nA nB (nA - nB) / n² + 3 d (nA M2B - nB M2A) / n
    M4 = M4A + M4B + d⁴ nA nB (nA² - nA nB + nB²) / n³ + 6 d² (nA² M2B + nB² M2A) / n² + 4 d (nA M3B - nB M3A) / n

(P. Pébay, "Formulas for robust, one-pass parallel computation of covariances and arbitrary-order statistical moments",
Sandia report SAND2008-6212). No squares of large means are subtracted, so nothing cancels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(slots=True)
class Moments:
    """Of all values that were added."""

    count: int = 0
    mean: float = 0.0
    m2: float = 0.0  # sums of powers of the distance from the mean
    m3: float = 0.0
    m4: float = 0.0

    def add(self, values: Tensor) -> None:
        """Finite values of any shape."""
        if values.numel():
            self.join(_of(values))

    def join(self, other: Moments) -> None:
        """Take in what another stream saw."""
        a, b, n, d = self.count, other.count, self.count + other.count, other.mean - self.mean
        if not n:
            return
        self.m4 += (
            other.m4
            + d**4 * a * b * (a * a - a * b + b * b) / n**3
            + 6 * d**2 * (a * a * other.m2 + b * b * self.m2) / n**2
            + 4 * d * (a * other.m3 - b * self.m3) / n
        )
        self.m3 += other.m3 + d**3 * a * b * (a - b) / n**2 + 3 * d * (a * other.m2 - b * self.m2) / n
        self.m2 += other.m2 + d**2 * a * b / n
        self.mean += d * b / n
        self.count = n

    @property
    def std(self) -> float:
        """Standard deviation of the values (not an estimate of a larger set's); NaN of nothing."""
        return math.sqrt(max(0.0, self.m2) / self.count) if self.count else math.nan

    @property
    def kurtosis(self) -> float:
        """count · M4 / M2²: 3 for a normal distribution, 1.8 for a uniform one, large for heavy tails.

        NaN where all values are equal.
        """
        return self.count * self.m4 / self.m2**2 if self.m2 > 0 else math.nan


def _of(values: Tensor) -> Moments:
    wide = values.detach().double().flatten()
    mean = float(wide.mean())
    away = wide - mean
    square = away * away
    return Moments(
        wide.numel(), mean, float(square.sum()), float((square * away).sum()), float((square * square).sum())
    )
