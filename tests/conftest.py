"""What every test runs under: one torch thread, and a hypothesis profile (`dev`, `ci`, `nightly`), chosen only here."""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from support.counting import COUNTS

_SLOW_TO_DRAW = [HealthCheck.too_slow, HealthCheck.data_too_large]  # models are drawn, traced and run

settings.register_profile("dev", max_examples=30, deadline=None, suppress_health_check=_SLOW_TO_DRAW)
settings.register_profile(
    "ci", max_examples=150, derandomize=True, deadline=None, print_blob=True, suppress_health_check=_SLOW_TO_DRAW
)
settings.register_profile("nightly", max_examples=3000, deadline=None, suppress_health_check=_SLOW_TO_DRAW)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Sums come out in one order, and a small machine is not fought over."""
    torch.set_num_threads(1)


# What was generated, told at the end; under pytest-xdist each worker hands its counts over ------------------------------

_WORKERS: Counter[str] = Counter()
_STARTED = time.monotonic()


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["generated"] = dict(COUNTS)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    _WORKERS.update(getattr(node, "workeroutput", {}).get("generated", {}))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    total = COUNTS + _WORKERS
    if total:
        seconds = time.monotonic() - _STARTED
        told = ", ".join(f"{count:,} × {kind}" for kind, count in sorted(total.items()))
        terminalreporter.write_line(f"{total.total():,} generated models and mutations in {seconds:.0f} s ({told})")
