"""QATSchedule: when ranges and batch norms are frozen, counted in steps."""

from __future__ import annotations

from dataclasses import dataclass, fields

from fxquant.errors import UsageError


@dataclass(frozen=True, slots=True)
class QATSchedule:
    """After so many steps observers and batch norms are frozen; None: never by itself.

    A step is one call in training mode whose result was differentiated (backward reached it), so that it counts
    batches whatever the loop looks like; with gradient accumulation it counts every part.
    """

    freeze_observers_after: int | None = None
    freeze_batchnorm_after: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise UsageError(
                    "FXQ129",
                    f"QATSchedule({field.name}={value!r})",
                    hint="give a number of steps, from 0, or None for never",
                )

    def __str__(self) -> str:
        told = (
            f"{what} freeze{'s' * (what != 'ranges')} after {after:,}"
            for what, after in (("ranges", self.freeze_observers_after), ("batch norm", self.freeze_batchnorm_after))
            if after is not None
        )
        return ", ".join(told)
