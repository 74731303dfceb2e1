"""What every test runs under: one torch thread, and a hypothesis profile (`dev`, `ci`, `nightly`), chosen only here."""

from __future__ import annotations

import os
import time

import pytest
import torch
from hypothesis import HealthCheck, settings

from support.counting import COUNTS

_SLOW_TO_DRAW = [HealthCheck.too_slow, HealthCheck.data_too_large]  # models are drawn, traced and run

os.environ["FXQUANT_AUTO_TARGETS"] = "native"  # no test races unless it says so; processes that tests start inherit it

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


# How much the laws tried: each test says `counted(kind)` for every model or mutation that it made --------------------

_SENT = "fxquant_counts"
_STARTED = time.perf_counter()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist hands its counts to the process that prints."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[_SENT] = dict(COUNTS)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    """The counts of a worker that is done."""
    COUNTS.update(getattr(node, "workeroutput", {}).get(_SENT, {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """'3,412 generated models and mutations in 214 s', with how many of each kind."""
    if COUNTS:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(COUNTS.items()))
        seconds = time.perf_counter() - _STARTED
        terminalreporter.write_line(
            f"{COUNTS.total():,} generated models and mutations in {seconds:.0f} s: {kinds}", bold=True
        )
