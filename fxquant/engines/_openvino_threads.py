"""How many threads a small graph gets: all of them, or one where that is faster.

Threads meet after each kernel, which costs a few microseconds; an LSTM meets at each step. A graph whose call takes
longer than a millisecond has kernels long enough for all threads, and is not asked.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from torch import Tensor

from fxquant.engines._openvino_session import Session

SMALL = 1e-3  # seconds a call
ROUNDS, CALLS = 12, 10
GAIN = 0.97  # what one thread may take at most of what all take

Make = Callable[[int], Session]  # for so many threads
Clock = Callable[[], float]


def on_fewest_threads(
    together: Session, make: Make, leaves: tuple[Tensor, ...], threads: int, clock: Clock = perf_counter
) -> tuple[Session, str]:
    """`together`, which has `threads` threads, or one that has one, and why then: by the least of rounds in turns."""
    if threads < 2 or min(_seconds(together, leaves, clock) for _ in range(3)) > SMALL:
        return together, ""
    alone = make(1)
    least = [float("inf"), float("inf")]
    for _ in range(ROUNDS):
        for index, session in enumerate((together, alone)):
            least[index] = min(least[index], _seconds(session, leaves, clock))
    if least[1] >= GAIN * least[0]:
        return together, ""
    all_of_them, one = (f"{seconds * 1e6:.0f}" for seconds in least)
    return alone, f"openvino runs on 1 of {threads} threads: {one} µs a call against {all_of_them}"


def _seconds(session: Session, leaves: tuple[Tensor, ...], clock: Clock) -> float:
    started = clock()
    for _ in range(CALLS):
        session(leaves)
    return (clock() - started) / CALLS
