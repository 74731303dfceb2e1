"""How long something takes, told so that a busy machine does not fail a test: processor seconds, the least of some runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable


def least_seconds(run: Callable[[], object], times: int = 5, *, enough: float = 0.0) -> float:
    """Processor seconds of the quickest of some runs. What waits (a renderer, a sleep) is not in it.

    No further run is tried after one that took less than `enough`. What traces each line (coverage, a debugger) is off
    meanwhile: it would be most of what is measured.
    """
    seconds, tracer = [], sys.gettrace()
    sys.settrace(None)
    try:
        while len(seconds) < times and not (seconds and seconds[-1] < enough):
            started = time.process_time()
            run()
            seconds.append(time.process_time() - started)
    finally:
        sys.settrace(tracer)
    return min(seconds)
