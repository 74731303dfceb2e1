"""Fair timing: calls take turns in one process, round by round, and only medians and paired ratios are told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter

import torch
from torch.utils.benchmark import Timer

LEAST_ROUNDS = 3  # of a timing that shows its spread
_WARM_UP = 2  # calls that a Timer makes before those that it times


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds a call, one number a round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle round."""
        return median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The spread: a quarter of the rounds was faster than the first of these, a quarter slower than the second."""
        if len(self.seconds) == 1:
            return self.seconds[0], self.seconds[0]
        low, _, high = quantiles(self.seconds, n=4, method="inclusive")
        return low, high


@dataclass(frozen=True, slots=True)
class Ratio:
    """One timing over another, paired by round: the median, and the quartiles as its spread."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


def ratio(over: Timing, under: Timing) -> Ratio:
    """`over` / `under`, round by round, so that a slow spell of the machine hits both sides."""
    paired = [left / right for left, right in zip(over.seconds, under.seconds, strict=True)]
    if len(paired) == 1:
        return Ratio(paired[0], paired[0], paired[0])
    low, middle, high = quantiles(paired, n=4, method="inclusive")
    return Ratio(middle, low, high)


def interleaved(
    calls: Mapping[str, Callable[[], object]], *, rounds: int = 15, seconds_a_round: float = 0.1
) -> dict[str, Timing]:
    """Time short calls (a model's forward) with torch.utils.benchmark, each in turn, the order reversed every round."""
    timers = {name: _timer(call) for name, call in calls.items()}
    counts = {name: max(1, int(seconds_a_round / _warmed(timer))) for name, timer in timers.items()}
    return _in_turns(timers, counts, rounds)


def interleaved_within(
    calls: Mapping[str, Callable[[], object]], *, seconds: float, threads: int, most_rounds: int = 25
) -> dict[str, Timing]:
    """`interleaved`, for about so many seconds in all: rounds of equal length for each call, LEAST_ROUNDS at least.

    However slow a call is, it is run three times in each of LEAST_ROUNDS rounds, and three times before them. `threads`
    are torch's, during the timing only.
    """
    timers = {name: _timer(call, threads) for name, call in calls.items()}
    once = {name: max(timer.timeit(1).mean, 1e-9) for name, timer in timers.items()}
    least_seconds = (_WARM_UP + 1) * sum(once.values())  # of a round
    rounds = max(LEAST_ROUNDS, min(most_rounds, int(seconds / max(least_seconds, 1e-9))))
    share = seconds / (rounds * max(1, len(timers)))
    counts = {name: max(1, int(share / taken) - _WARM_UP) for name, taken in once.items()}
    return _in_turns(timers, counts, rounds)


def interleaved_once(calls: Mapping[str, Callable[[], object]], *, rounds: int = 3) -> dict[str, Timing]:
    """Time long calls (a compilation): one run of each a round, by the wall clock, without a warm-up."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(rounds):
        for name in _turns(list(calls), index):
            started = perf_counter()
            calls[name]()
            found[name].append(perf_counter() - started)
    return {name: Timing(tuple(seconds)) for name, seconds in found.items()}


def _in_turns(timers: Mapping[str, Timer], counts: Mapping[str, int], rounds: int) -> dict[str, Timing]:
    found: dict[str, list[float]] = {name: [] for name in timers}
    for index in range(rounds):
        for name in _turns(list(timers), index):
            found[name].append(timers[name].timeit(counts[name]).mean)
    return {name: Timing(tuple(seconds)) for name, seconds in found.items()}


def _timer(call: Callable[[], object], threads: int | None = None) -> Timer:
    return Timer("call()", globals={"call": call}, num_threads=threads or torch.get_num_threads())


def _warmed(timer: Timer) -> float:
    timer.timeit(2)
    return max(timer.timeit(3).mean, 1e-9)


def _turns(names: list[str], index: int) -> list[str]:
    return names if index % 2 == 0 else names[::-1]
