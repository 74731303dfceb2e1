"""How many examples a law draws, as a multiple of what the hypothesis profile says."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, Phase, settings

_PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)  # to explain a failure takes minutes


def examples(times: float = 1.0, **options: Any) -> settings:
    """A law that is cheap draws more than the profile's number, a dear one fewer; the profiles keep their ratio."""
    profile = settings()
    checks = [*profile.suppress_health_check, HealthCheck.large_base_example]
    options = {"phases": _PHASES, **options}
    return settings(max_examples=max(1, round(times * profile.max_examples)), suppress_health_check=checks, **options)
