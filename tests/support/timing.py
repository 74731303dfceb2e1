"""How long something takes, told so that a busy machine does not fail a test: processor seconds, the least of some runs."""

from __future__ import annotations

import time
from collections.abc import Callable


def least_seconds(run: Callable[[], object], times: int = 5) -> float:
    """Processor seconds of the quickest of some runs. What waits (a renderer, a sleep) is not in it."""
    seconds = []
    for _ in range(times):
        started = time.process_time()
        run()
        seconds.append(time.process_time() - started)
    return min(seconds)
