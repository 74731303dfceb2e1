"""Workers and their turns: one process a side, stopped by a signal while others run, so that no idle pool spins."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SECONDS_A_TURN, MOST_CALLS = 0.1, 300


class SideFailed(Exception):
    """This side has no number; the text says why."""


class Worker:
    """One side's process. It runs only within `ask`."""

    def __init__(self, job: Path, side: str, *, tests: str | None, threads: int, most_seconds: float) -> None:
        self.side, self.most_seconds = side, most_seconds
        self._log = job.with_name(f"{side}.log")
        command = [sys.executable, "-P", "-m", "fxquant.tools.bench.peers.worker"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*command, str(job), side, tests or "", str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
            )

    def ask(self, what: str, **request: Any) -> dict[str, Any]:
        """The reply. SideFailed with the reason where there is none."""
        self._signal("SIGCONT")
        try:
            reply = self._answer({"do": what, **request})
        finally:
            self._signal("SIGSTOP")
            self._await_stop()
        if "failure" in reply:
            raise SideFailed(reply["failure"])
        return reply

    def _answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        to, back = self._process.stdin, self._process.stdout
        assert to is not None and back is not None
        try:
            to.write(json.dumps(request).encode() + b"\n")
            to.flush()
        except BrokenPipeError:
            raise SideFailed(self._last_words()) from None
        if not select.select([back], [], [], self.most_seconds)[0]:
            raise SideFailed(f"took more than {self.most_seconds:.0f} s")
        line = back.readline()
        if not line:
            raise SideFailed(self._last_words())
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _last_words(self) -> str:
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return f"its process ended with {self._process.wait()}: {lines[-1] if lines else 'nothing was printed'}"[:300]

    def _signal(self, name: str) -> None:
        if self._process.poll() is None and hasattr(signal, name):  # Windows has neither: workers stay awake there
            self._process.send_signal(getattr(signal, name))

    def _await_stop(self) -> None:
        """A signal is only sent: until it has arrived, the next side would share the CPU with this one."""
        if self._process.poll() is None and hasattr(os, "waitid"):
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)  # Popen waits for its end

    def end(self) -> None:
        """Stopped processes end by SIGKILL alone."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.wait()


@contextmanager
def ended(workers: list[Worker]) -> Iterator[list[Worker]]:
    """Whatever happens inside, none of these processes is left."""
    try:
        yield workers
    finally:
        for worker in workers:
            worker.end()


def in_turns(
    workers: Sequence[Worker], rows: int, *, rounds: int, told: Callable[[str], object] = lambda text: None
) -> dict[str, tuple[float, ...]]:
    """Seconds a call, one number a round, by side; the order is reversed every round."""
    counts = {worker.side: _calls_a_turn(worker, rows) for worker in workers}
    found: dict[str, list[float]] = {worker.side: [] for worker in workers}
    for index in range(rounds):
        told(f"batch {rows}, round {index + 1} of {rounds}")
        for worker in workers if index % 2 == 0 else reversed(workers):
            found[worker.side].append(worker.ask("time", rows=rows, calls=counts[worker.side])["seconds"])
    return {side: tuple(seconds) for side, seconds in found.items()}


def _calls_a_turn(worker: Worker, rows: int) -> int:
    once = float(worker.ask("time", rows=rows, calls=3)["seconds"])
    return max(1, min(MOST_CALLS, int(SECONDS_A_TURN / max(once, 1e-9))))
