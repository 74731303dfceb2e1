"""One side in its own process: builds, tells its SQNR, then times calls whenever it is asked to.

Requests and replies are lines of JSON on stdin and stdout. What libraries print goes to stderr, which is a file.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

_PR_SET_PDEATHSIG = 1


def main(path: str, side: str, tests: str, threads: str) -> None:
    """Serve until stdin ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    _die_with_parent()
    served = _Served(Path(path), side, tests, int(threads))
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = getattr(served, request.pop("do"))(**request)
        except Exception as error:  # whatever a foreign library raises is a row of the table, with its reason
            reply = {"failure": _told(error)}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


class _Served:
    """What can be asked for."""

    def __init__(self, path: Path, side: str, tests: str, threads: int) -> None:
        from fxquant.tools.bench.peers.sides import SIDES

        self.side = SIDES[side]

        import torch

        from fxquant.tools.bench.peers.job import Job
        from fxquant.tools.bench.zoo import load_zoo

        torch.set_num_threads(threads)
        self.job = Job.load(path, {**load_zoo(tests or None), **load_zoo(tests or None, "BENCHED")})
        self.builder: Any = None
        self.calls: dict[int, Callable[[], Any]] = {}
        self.inference = torch.inference_mode

    def build(self, rows: int) -> dict[str, Any]:
        """Quantize, and the first call of a batch of `rows`: seconds, imports not among them."""
        from fxquant.numerics import sqnr_db

        function = self.side.start()
        started = perf_counter()
        if self.builder is None:
            self.builder = self.side.build(function, self.job)
        runner = self.builder(rows)
        bound = runner(self.job.rows(rows))
        with self.inference():
            bound.call()
        seconds = perf_counter() - started
        self.calls[rows] = bound.call
        return {"seconds": seconds, "sqnr_db": sqnr_db(*self._outputs(runner, rows)), "note": self._note(rows)}

    def time(self, rows: int, calls: int) -> dict[str, Any]:
        """The median of so many calls, after one that is not counted; a single long call needs no such."""
        call, found = self.calls[rows], []
        with self.inference():
            if calls > 1:
                call()
            for _ in range(calls):
                started = perf_counter()
                call()
                found.append(perf_counter() - started)
        return {"seconds": median(found)}

    def _outputs(self, runner: Any, rows: int) -> tuple[Any, Any]:
        """(the float model's, this side's) on the held-out rows, as many whole batches of them as there are."""
        import torch

        whole = len(self.job.reference) // rows * rows
        found = []
        with self.inference():
            for start in range(0, whole, rows):
                bound = runner(self.job.rows(rows, start))
                found.append(bound.read(bound.call()))
        return self.job.reference[:whole], torch.cat(found)

    def _note(self, rows: int) -> str:
        told = sys.modules.get("fxquant.tools.bench.peers.by_fxquant")
        return str(told.TOLD.get(rows, "")) if told is not None else ""


def _told(error: Exception) -> str:
    """On one line: OpenVINO's first line is where in its sources it was."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def _die_with_parent() -> None:
    """A stopped process cannot see that its parent is gone, so the kernel is asked to end it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
