"""Which of several graphs is fastest: they take turns until the time is up, and the least time of each counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter

_MOST_ROUNDS = 200
GAIN = 0.03  # of the quantized graph's time: less is within what timing can tell, and that graph stays
NEAR = 1.1  # a graph that is expected to take more than this times the best one's time is not built to be raced
GAIN_SECONDS = 2e-5  # a call: less than this is the overhead of a few ops, which is not worth another graph


def raced(calls: Mapping[str, Callable[[], object]], *, seconds: float) -> dict[str, float]:
    """Seconds of each call: the least of rounds in turns, the order reversed every round. At least two rounds."""
    started = perf_counter()
    for call in calls.values():
        call()
    found = dict.fromkeys(calls, float("inf"))
    names, rounds = list(calls), 0
    while rounds < 2 or (rounds < _MOST_ROUNDS and perf_counter() - started < seconds):
        for name in names if rounds % 2 == 0 else names[::-1]:
            before = perf_counter()
            calls[name]()
            found[name] = min(found[name], perf_counter() - before)
        rounds += 1
    return found


def winner(times: Mapping[str, float], first: str) -> str:
    """The fastest; `first` where none is faster by more than timing can tell."""
    best = min(times, key=lambda name: (times[name], name))
    return best if is_gain(times[first], times[best]) else first


def is_gain(before: float, after: float) -> bool:
    """Is it faster by more than timing can tell, and than is worth another graph?"""
    return before - after > max(GAIN * before, GAIN_SECONDS)
