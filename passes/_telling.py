"""What a compressing pass says in a layer's row, also where the row is that of many parts (an encoder's layers)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx

from fxquant.ledger import FLOAT, Ledger
from fxquant.origin import site_of

_FEW = 4  # parts of one row that are named


@dataclass(frozen=True, slots=True)
class Said:
    """About one call, or a part of it. `summary` stands for all where there are too many different ones for one row."""

    node: fx.Node
    told: str
    part: str
    code: str = ""
    hint: str = ""
    summary: str = ""


def say(ledger: Ledger, each: Sequence[Said]) -> None:
    """Remarks stay in the rows whatever becomes of the layers; until they are quantized those are float.

    The same said of several parts of one site is said once, with their names.
    """
    by_site: dict[str, list[Said]] = {}
    for said in each:
        by_site.setdefault(site_of(said.node), []).append(said)
    for found in by_site.values():
        for told, parts in _grouped(found).items():
            first = next(said for said in found if said.part in parts)
            parts = list(dict.fromkeys(parts))
            named = ", ".join(parts) if len(parts) <= _FEW else f"{len(parts)} parts"
            ledger.remark(first.node, f"{named}: {told}" if named else told, code=first.code, hint=first.hint)
        for said in found:
            ledger.settle(said.node, FLOAT, "")


def _grouped(found: Sequence[Said]) -> dict[str, list[str]]:
    """What is said → the parts that it is said of."""
    is_many = len({said.told for said in found if said.summary}) > _FEW
    groups: dict[str, list[str]] = {}
    for said in found:
        groups.setdefault(said.summary if is_many and said.summary else said.told, []).append(said.part)
    return groups
