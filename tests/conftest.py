"""What every test runs under: one torch thread, and a hypothesis profile (`dev`, `ci`, `nightly`), chosen only here."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

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
