"""A fate: the mode that a module gets in place of the one that was asked, and why."""

from __future__ import annotations

from dataclasses import dataclass

from fxquant.plan import Mode


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of a site where it is not what the plan says."""

    mode: Mode
    why: str
    qconfig: object | None = None  # None: the decision's own
