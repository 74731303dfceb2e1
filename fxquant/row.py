"""One row of the ledger: what was asked of a call site, what it got, and why."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """What one call site asked for, what it got, and why."""

    site: str  # origin id; '' for a notice
    module: str  # dotted name in the user's model
    op: str  # 'Conv2d', 'add', ...
    requested: str  # '' until the plan is made
    effective: str  # '' until a pass settled it
    reason: str
    code: str = ""
    hint: str = ""
