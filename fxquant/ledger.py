"""The ledger: one row per layer (asked, got, why), and notices about the compilation as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from torch import fx

from fxquant.origin import origins, part_of, scope, site_of
from fxquant.row import Row
from fxquant.table import table

FLOAT = "float32"
_FEW = 4  # parts of one site that a row still names


@dataclass(frozen=True, slots=True)
class LedgerState:
    """All that a ledger knows, as plain data."""

    rows: tuple[Row, ...]
    notices: tuple[Row, ...]
    parts: tuple[tuple[str, str, Row], ...]  # site, part, what became of it
    remarks: tuple[Row, ...]


class Ledger:
    """Rows in the order of the traced graph. Passes settle rows; nothing is ever dropped from it."""

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}
        self._notices: list[Row] = []
        self._parts: dict[str, dict[str, Row]] = {}  # site → part → what became of it
        self._remarks: dict[str, Row] = {}

    def state(self) -> LedgerState:
        """All that it knows, to be written down or copied."""
        parts = ((site, part, row) for site, found in self._parts.items() for part, row in found.items())
        return LedgerState(tuple(self._rows.values()), self.notices, tuple(parts), tuple(self._remarks.values()))

    @classmethod
    def of(cls, state: LedgerState) -> Ledger:
        """A ledger that knows what `state` says, and goes on from there."""
        made = cls()
        made._rows = {row.site: row for row in state.rows}
        made._notices = list(state.notices)
        made._remarks = {row.site: row for row in state.remarks}
        for site, part, row in state.parts:
            made._parts.setdefault(site, {})[part] = row
        return made

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
        """Write down what the policy asks of a site, and by which rule. What it gets is open from here on."""
        self._rows[site] = replace(self._rows[site], requested=requested, effective="", reason=why, code="", hint="")
        self._parts.pop(site, None)

    def request_more(self, site: str, requested: str, why: str) -> None:
        """Write down what the policy asks of one part more of a site that was split before it was planned."""
        row = self._rows[site]
        self._rows[site] = replace(row, requested=f"{row.requested}, {requested}", reason=f"{row.reason}; {why}")

    def settle(self, node: fx.Node, effective: str, reason: str, *, code: str = "", hint: str = "") -> None:
        """Write down what `node` got, and why. The last word counts, for its first origin and for each part of a site.

        Its other origins (what was folded or fused into it) keep what an earlier pass said of them.
        """
        first, *others = origins(node) or (node.name,)
        for site in (first, *(other for other in others if other not in self._rows or not self._rows[other].effective)):
            self.settle_site(site, effective, reason, module=scope(node), code=code, hint=hint, part=part_of(node))

    def settle_site(
        self,
        site: str,
        effective: str,
        reason: str,
        *,
        module: str = "",
        code: str = "",
        hint: str = "",
        part: str = "",
    ) -> None:
        """`settle` for one origin id, whose node may be gone. A `part` joins the other parts of its site."""
        row = self._rows.get(site) or Row(site, module, op="", requested="", effective="", reason="")
        row = replace(row, effective=effective, reason=reason, code=code, hint=hint)
        if part:
            parts = self._parts.setdefault(site, {})
            parts[part] = row
            row = replace(_joined(parts), requested=row.requested)
        remark = self._remarks.get(site)
        self._rows[site] = row if remark is None else _with(row, remark)

    def remark(self, node: fx.Node, why: str, *, code: str = "", hint: str = "") -> None:
        """Something to be said in this node's rows whatever becomes of them: why it is not quite what was asked.

        What was remarked before stands before it; the same is said once.
        """
        for site in origins(node) or (node.name,):
            self.remark_site(site, why, code=code, hint=hint)

    def remark_site(self, site: str, why: str, *, code: str = "", hint: str = "") -> None:
        """`remark` for one origin id. One of the same code is said anew."""
        before = self._remarks.get(site)
        if before is not None and why in before.reason.split("; "):
            return
        made = Row(site, "", op="", requested="", effective="", reason=why, code=code, hint=hint)
        is_anew = before is None or (bool(code) and before.code == code)
        self._remarks[site] = made if is_anew or before is None else _with(made, before)

    def restore(self, state: LedgerState) -> None:
        """Rows, parts and remarks as they were in `state`; what was noticed since stays noticed."""
        other = Ledger.of(state)
        self._rows, self._parts, self._remarks = other._rows, other._parts, other._remarks

    def become(self, state: LedgerState) -> None:
        """Know what `state` says, and nothing else."""
        self.__dict__.update(Ledger.of(state).__dict__)

    def is_settled(self, node: fx.Node) -> bool:
        """Have all of this node's sites (or its part of them) got their rows?"""
        part = part_of(node)
        if part:
            return part in self._parts.get(site_of(node), {})
        return all(site in self._rows and self._rows[site].effective for site in origins(node))

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
        return table(self.layers, self.notices)

    def __repr__(self) -> str:
        settled = [row.effective for row in self.layers]
        counts = {kind: settled.count(kind) for kind in dict.fromkeys(settled)}
        told = ", ".join(f"{count} {kind or 'open'}" for kind, count in counts.items())
        return f"Ledger({len(self._rows)} layers: {told}; {len(self._notices)} notices)"


def _joined(parts: Mapping[str, Row]) -> Row:
    """One row for all parts of a site: 'int8 (q_proj, k_proj), float32 (attention)'."""
    ordered = dict(sorted(parts.items(), key=lambda item: item[1].effective == FLOAT))
    rows = list(ordered.values())
    return replace(
        next((row for row in rows if row.code), rows[0]),
        effective=_grouped({part: row.effective for part, row in ordered.items()}, "{what} ({parts})", ", "),
        reason=_grouped({part: row.reason for part, row in ordered.items()}, "{parts}: {what}", "; "),
    )


def _grouped(values: Mapping[str, str], form: str, separator: str) -> str:
    groups: dict[str, list[str]] = {}
    for part, value in values.items():
        groups.setdefault(value, []).append(part)
    if len(groups) == 1:
        return next(iter(groups))
    return separator.join(form.format(what=value, parts=_listed(parts)) for value, parts in groups.items())


def _listed(parts: Sequence[str]) -> str:
    return ", ".join(parts) if len(parts) <= _FEW else f"{len(parts)} parts"


def _with(row: Row, remark: Row) -> Row:
    reason = f"{remark.reason}; {row.reason}" if row.reason else remark.reason
    return replace(row, reason=reason, code=row.code or remark.code, hint=row.hint or remark.hint)
