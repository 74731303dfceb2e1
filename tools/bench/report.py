"""How a bench tells its result: each check with its target, what was measured, and the verdict; a table or JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """One number held to its target. `bound` says which way: 'at most' or 'at least'."""

    what: str
    bound: str
    target: float
    measured: float
    unit: str = ""
    detail: str = ""

    @property
    def is_met(self) -> bool:
        """A number that is not a number meets nothing."""
        return self.measured <= self.target if self.bound == "at most" else self.measured >= self.target

    @property
    def verdict(self) -> str:
        """In words."""
        return "met" if self.is_met else "falls short"

    def as_dict(self) -> dict[str, object]:
        """Plain data, for JSON."""
        fields = ("what", "bound", "target", "measured", "unit", "detail", "verdict")
        return {name: getattr(self, name) for name in fields}


def show(title: str, checks: Sequence[Check], *, as_json: bool) -> None:
    """Print the checks."""
    if as_json:
        print(json.dumps({"bench": title, "checks": [check.as_dict() for check in checks]}, indent=2))
        return
    from rich.table import Table

    from fxquant.tools.terminal import console

    table = Table(title=title)
    for heading in ("check", "target", "measured", "verdict", "detail"):
        table.add_column(heading, overflow="fold")
    for check in checks:
        colour = "green" if check.is_met else "red"
        target = f"{check.bound} {check.target:g}{check.unit}"
        measured = f"{check.measured:.4g}{check.unit}"
        table.add_row(check.what, target, measured, f"[{colour}]{check.verdict}[/]", check.detail)
    console().print(table)
