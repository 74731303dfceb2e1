"""Why ops are float, as a ledger tells it, and what would change that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

Reasons = Mapping[str, tuple[str, str]]  # site → (code, reason)

_REMEDIES = {
    "FXQ204": "ask for a dtype and granularity that the target serves",
    "FXQ205": "put the batch norm directly behind a convolution or linear layer that only it reads",
    "FXQ206": "drop the rule that keeps this batch norm",
    "FXQ207": "use an op that has an int8 kernel, or move it to the model's start or end",
    "FXQ208": "register a handler for it, or use a layer that has an int8 kernel",
    "FXQ209": "use the layer's module form, or split the expression",
    "FXQ504": "use shapes and options that the engine takes, or another target",
    "FXQ518": "nothing: it is faster in float; place=False keeps it in int8",
    "FXQ505": "use another target; the engine's kernel computes something else",
}
_BY_DECISION = "let the plan ask for int8 here"
_FOLDED = "folded into "  # its neighbour's weight does it now


class LedgerRow(Protocol):
    """What is read of a ledger's row."""

    @property
    def site(self) -> str: ...
    @property
    def effective(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def code(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Reason:
    """Why one site is float. `code` is '' where it was decided so."""

    site: str
    code: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.site}: {' '.join(filter(None, (self.code, self.reason)))}; to remove it: {self.remedy}"


def reasons_of(rows: Iterable[LedgerRow]) -> dict[str, tuple[str, str]]:
    """site → (code, reason) of the rows of a ledger that say why a site is not int8. A folded one computes nothing."""
    told = (row for row in rows if row.site and row.effective != "int8" and not row.effective.startswith(_FOLDED))
    return {row.site: (row.code, row.reason) for row in told}


def reasons_for(sites: Iterable[str], reasons: Reasons) -> tuple[Reason, ...]:
    """The reasons of these sites, where there are any."""
    told = ((site, *reasons[site]) for site in sites if site in reasons)
    return tuple(Reason(site, code, reason, _REMEDIES.get(code, _BY_DECISION)) for site, code, reason in told)
