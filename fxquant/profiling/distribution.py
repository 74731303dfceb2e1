"""A distribution in numbers: what a layer's weights or activations look like."""

from __future__ import annotations

import math
from dataclasses import dataclass

PERCENTILES = (0.1, 1.0, 50.0, 99.0, 99.9)
BINS = 64
OUTLIER_SIGMAS = 6.0


@dataclass(frozen=True, slots=True)
class Distribution:
    """Of finite values. NaN where there is no value to tell of."""

    count: int
    low: float  # exact, as `high`, `mean`, `std` and `kurtosis` are (float64)
    high: float
    mean: float
    std: float
    kurtosis: float  # 3 for a normal distribution; NaN where all values are equal
    percentiles: tuple[float, ...]  # at PERCENTILES: of the values; of weights, of their absolute values
    zeros: float  # share that is exactly zero, 0 to 1
    outliers: float  # share more than OUTLIER_SIGMAS standard deviations from the mean
    histogram: tuple[int, ...]  # BINS equal bins from low to high
    channels: int | None = None  # None where there is no channel axis, or batches disagree about its length
    channel_spread: float | None = None  # largest over median channel peak, peak = max |x|; inf where the median is 0
    dead_channels: int | None = None  # channels that were exactly zero throughout
    nonfinite: int = 0  # NaN and infinities, which no other number here counts

    @property
    def tail(self) -> float:
        """The range over the distance from the 0.1th to the 99.9th percentile: how much of it few values take.

        4 means that the last 0.2 % of the values cost two bits. NaN where either is 0.
        """
        bulk, whole = self.percentiles[-1] - self.percentiles[0], self.high - self.low
        return max(1.0, whole / bulk) if bulk > 0 else math.nan


NOTHING = Distribution(
    0, math.nan, math.nan, math.nan, math.nan, math.nan, (math.nan,) * len(PERCENTILES), 0.0, 0.0, (0,) * BINS
)
