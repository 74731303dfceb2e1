"""The pytest plugin: after a run with quantization tests, a line for each: how much was tried, how near it came.

pytest finds it by its entry point. It costs the runs of others nothing: only tests import torch and hypothesis.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fxquant.testing.statistics import summary

if TYPE_CHECKING:
    import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the quantization tests of this run measured."""
    lines = summary()
    if lines:
        terminalreporter.section("quantization tests")
        for line in lines:
            terminalreporter.write_line(line)
