"""One tensor's values over many batches → a Distribution. Memory does not grow with the batches."""

from __future__ import annotations

import math
from statistics import median

import torch
from torch import Tensor

from fxquant.profiling.distribution import BINS, OUTLIER_SIGMAS, PERCENTILES, Distribution
from fxquant.profiling.moments import Moments
from fxquant.profiling.sketch import Sketch

_CHUNK = 2**18  # values that are widened to float64 at a time


class Accumulator:
    """Fed the value of one site, batch by batch. `axis` is the channel axis, counted from the front or the back."""

    def __init__(self, axis: int | None = None) -> None:
        self.axis = axis
        self.sketch, self.moments = Sketch(), Moments()
        self.low, self.high, self.zeros, self.nonfinite = math.inf, -math.inf, 0, 0
        self.below = self.above = 0  # values outside of `limits`
        self.limits: tuple[float, float] | None = None  # what the codes hold, where it is known ahead
        self._peaks: Tensor | None = None
        self._squares: Tensor | None = None  # sums over each channel, float64
        self._has_channels = axis is not None

    def add(self, value: Tensor) -> None:
        """One batch's value. Empty ones change nothing."""
        if not value.numel():
            return
        value = value.detach()
        flat = value.reshape(-1)
        for begin in range(0, flat.numel(), _CHUNK):
            self._add(flat[begin : begin + _CHUNK])
        if self._has_channels:
            self._add_channels(value)

    def _add(self, part: Tensor) -> None:
        low, high = (float(edge) for edge in part.aminmax())
        if not (math.isfinite(low) and math.isfinite(high)):  # NaN anywhere is NaN here
            finite = part[part.isfinite()]
            self.nonfinite += part.numel() - finite.numel()
            if finite.numel():
                self._add(finite)
            return
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.zeros += part.numel() - int(part.count_nonzero())
        self.sketch.add(part)
        self.moments.add(part)
        if self.limits is not None:
            half = (self.limits[1] - self.limits[0]) / 510
            self.below += int((part < self.limits[0] - half).sum())
            self.above += int((part > self.limits[1] + half).sum())

    def _add_channels(self, value: Tensor) -> None:
        axis = self.axis if self.axis is not None else 0
        if not -value.dim() <= axis < value.dim():
            self._has_channels = False
            return
        sizes = torch.nan_to_num(value.abs().movedim(axis, 0).reshape(value.shape[axis], -1), posinf=0.0)
        peaks, squares = sizes.amax(1), sizes.square().sum(1, dtype=torch.float64)
        if self._peaks is None or self._squares is None:
            self._peaks, self._squares = peaks, squares
        elif self._peaks.shape == peaks.shape:
            self._peaks, self._squares = torch.maximum(self._peaks, peaks), self._squares + squares
        else:
            self._has_channels, self._peaks, self._squares = False, None, None

    @property
    def median_power(self) -> float | None:
        """Mean square of the median channel among those that are not always zero; None where there is none."""
        if self._squares is None:
            return None
        powers = [square for square in self._squares.tolist() if square > 0]
        return median(powers) * len(self._squares) / self.moments.count if powers else None

    @property
    def clipped(self) -> float:
        """Share of the values outside of `limits`, 0 to 1."""
        return (self.below + self.above) / max(1, self.moments.count)

    def result(self) -> Distribution | None:
        """What was seen; None where no finite value was."""
        if not self.moments.count:
            return None
        count, peaks = self.moments.count, None if self._peaks is None else self._peaks.tolist()
        middle, counts = self.sketch.buckets()
        far = (middle - self.moments.mean).abs() > OUTLIER_SIGMAS * self.moments.std
        return Distribution(
            count=count,
            low=self.low,
            high=self.high,
            mean=self.moments.mean,
            std=self.moments.std,
            kurtosis=self.moments.kurtosis,
            percentiles=tuple(self._within(self.sketch.quantile(share / 100)) for share in PERCENTILES),
            zeros=self.zeros / count,
            outliers=float(counts[far].sum()) / count,
            histogram=_histogram(middle, counts, self.low, self.high),
            channels=None if peaks is None else len(peaks),
            channel_spread=None if peaks is None else spread(peaks),
            dead_channels=None if peaks is None else sum(peak == 0 for peak in peaks),
            nonfinite=self.nonfinite,
        )

    def _within(self, value: float) -> float:
        return min(max(value, self.low), self.high)


def spread(peaks: list[float]) -> float:
    """Largest over median channel peak; 1 where all are 0, infinite where the median is."""
    usual, largest = median(peaks), max(peaks)
    if usual > 0:
        return largest / usual
    return 1.0 if largest == 0 else math.inf


def _histogram(middle: Tensor, counts: Tensor, low: float, high: float) -> tuple[int, ...]:
    """Buckets dropped into equal bins; a value is at most one bin off."""
    if high <= low:
        return (int(counts.sum()), *(0 for _ in range(BINS - 1)))
    place = ((middle.clamp(low, high) - low) / (high - low) * BINS).long().clamp(0, BINS - 1)
    binned = torch.zeros(BINS, dtype=torch.float64).index_add_(0, place, counts)
    return tuple(int(value) for value in binned)
