"""What quantization tests measured, for the summary at the end of a pytest run. Imports no torch, no hypothesis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fxquant.testing.tolerance import Tolerance

_ALL: list[Statistics] = []


@dataclass
class Statistics:
    """Of one test: how many inputs held, and how near the worst of them came to its limits."""

    name: str
    held: int = 0
    largest_error: float = 0.0
    is_bounded: bool = False  # did a derived bound judge it?
    least_sqnr_db: float = field(default=float("inf"))
    largest_drop: float | None = None

    @classmethod
    def of(cls, body: Callable[..., Any]) -> Statistics:
        """The statistics of a new test."""
        made = cls(getattr(body, "__name__", "test"))
        _ALL.append(made)
        return made

    def add(self, found: Tolerance) -> None:
        """One input that held."""
        self.held += 1
        self.least_sqnr_db = min(self.least_sqnr_db, found.sqnr_db)
        self.largest_error = max(self.largest_error, found.largest_error)
        self.is_bounded |= found.share_of_bound is not None
        self.largest_drop = _larger(self.largest_drop, found.metric_drop)

    def __str__(self) -> str:
        inputs = "input" if self.held == 1 else "inputs"
        told = [f"{self.name}: {self.held:,} {inputs} held, SQNR at least {self.least_sqnr_db:.1f} dB"]
        within = ", within the bound of each" if self.is_bounded else ""
        told.append(f"error at most {self.largest_error:.4g}{within}")
        if self.largest_drop is not None:
            told.append(f"metric down by at most {self.largest_drop:.4g}")
        return ", ".join(told)


def _larger(left: float | None, right: float | None) -> float | None:
    known = [value for value in (left, right) if value is not None]
    return max(known, default=None)


def summary() -> tuple[str, ...]:
    """One line for each test that ran, in the order of their definition."""
    return tuple(str(found) for found in _ALL if found.held)
