"""What a profile is told besides model and data, checked before any work is done."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from fxquant.errors import UsageError

OBJECTIVES = ("sqnr", "latency")
UNITS = {"sqnr": "dB", "latency": "ms"}


@dataclass(frozen=True, slots=True)
class Settings:
    """See `fxquant.profile`. FXQ111 names the first that means nothing."""

    objective: str = "sqnr"
    verify: bool = True
    seconds: float = 20.0
    most_float: float = 0.25
    max_batches: int = 32

    def __post_init__(self) -> None:
        for name, is_right, hint in (
            ("objective", self.objective in OBJECTIVES, f"one of {', '.join(OBJECTIVES)}"),
            ("verify", isinstance(self.verify, bool), "True or False"),
            ("seconds", _is_number(self.seconds) and self.seconds >= 0, "a number from 0"),
            ("most_float", _is_number(self.most_float) and 0 <= self.most_float <= 1, "a share from 0 to 1"),
            ("max_batches", type(self.max_batches) is int and self.max_batches >= 1, "a whole number from 1"),
        ):
            if not is_right:
                raise UsageError("FXQ111", f"{name}={str(getattr(self, name))[:80]}", hint=hint)

    @property
    def unit(self) -> str:
        """Of an advice's gain."""
        return UNITS[self.objective]

    def gain(self, sqnr_gain_db: float, seconds_gain: float) -> float:
        """Of the two, the one that is asked for, in its unit."""
        return sqnr_gain_db if self.objective == "sqnr" else 1e3 * seconds_gain


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
