"""The ledger: one row per layer (asked, got, why), and notices about the compilation as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from torch import fx

from fxquant.origin import origins, scope, site_of
from fxquant.table import table

FLOAT = "float32"


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


class Ledger:
    """Rows in the order of the traced graph. Passes settle rows; nothing is ever dropped from it."""

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}
        self._notices: list[Row] = []

    def __iter__(self) -> Iterator[Row]:
        """Layers in graph order, then notices."""
        return iter((*self._rows.values(), *self._notices))

    def __len__(self) -> int:
        return len(self._rows) + len(self._notices)

    def __getitem__(self, site: str) -> Row:
        return self._rows[site]

    def __contains__(self, site: object) -> bool:
        return site in self._rows

    @property
    def layers(self) -> tuple[Row, ...]:
        """The rows of call sites."""
        return tuple(self._rows.values())

    @property
    def notices(self) -> tuple[Row, ...]:
        """Rows about the whole compilation."""
        return tuple(self._notices)

    def open(self, site: str, *, module: str, op: str) -> None:
        """Start the row of a call site. Capture opens all of them, in graph order."""
        self._rows.setdefault(site, Row(site, module, op, requested="", effective="", reason=""))

    def request(self, site: str, requested: str, why: str) -> None:
        """Write down what the policy asks of a site, and by which rule."""
        self._rows[site] = replace(self._rows[site], requested=requested, reason=why)

    def settle(self, node: fx.Node, effective: str, reason: str, *, code: str = "", hint: str = "") -> None:
        """Write down what `node` got, and why. The last word counts, for its first origin.

        Its other origins (what was folded or fused into it) keep what an earlier pass said of them.
        """
        first, *others = origins(node) or (node.name,)
        for site in (first, *(other for other in others if other not in self._rows or not self._rows[other].effective)):
            self.settle_site(site, effective, reason, module=scope(node), code=code, hint=hint)

    def settle_site(
        self, site: str, effective: str, reason: str, *, module: str = "", code: str = "", hint: str = ""
    ) -> None:
        """`settle` for one origin id, whose node may be gone."""
        row = self._rows.get(site) or Row(site, module, op="", requested="", effective="", reason="")
        self._rows[site] = replace(row, effective=effective, reason=reason, code=code, hint=hint)

    def decline(self, code: str, node: fx.Node, *, why: str, hint: str = "") -> None:
        """A layer that stays float although something else was asked: why, with its code."""
        self.settle(node, FLOAT, why, code=code, hint=hint)

    def notice(self, code: str, reason: str, *, module: str = "", hint: str = "") -> None:
        """Something about the whole compilation (or about a module that is no call site). Said once."""
        row = Row("", module, op="", requested="", effective="", reason=reason, code=code, hint=hint)
        if row not in self._notices:
            self._notices.append(row)

    def row_of(self, node: fx.Node) -> Row | None:
        """The row of a node's first origin."""
        return self._rows.get(site_of(node))

    def as_dicts(self) -> list[dict[str, str]]:
        """Plain data, for JSON and tables."""
        return [asdict(row) for row in self]

    def __str__(self) -> str:
        return table(self)

    def __repr__(self) -> str:
        settled = [row.effective for row in self.layers]
        counts = {kind: settled.count(kind) for kind in dict.fromkeys(settled)}
        told = ", ".join(f"{count} {kind or 'open'}" for kind, count in counts.items())
        return f"Ledger({len(self._rows)} layers: {told}; {len(self._notices)} notices)"
