"""What a diff consists of: entries that say what became of nodes, and edges that lead somewhere else."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Change(StrEnum):
    """What became of some nodes."""

    UNCHANGED = "unchanged"
    RETYPED = "retyped"  # one node each: dtype, shape, scale, class, options or arguments differ
    REPLACED = "replaced"  # n nodes became m
    INSERTED = "inserted"
    REMOVED = "removed"


OPPOSITE = {Change.INSERTED: Change.REMOVED, Change.REMOVED: Change.INSERTED}
SIGNS = {Change.UNCHANGED: " ", Change.RETYPED: "~", Change.REPLACED: "~", Change.INSERTED: "+", Change.REMOVED: "-"}

Delta = tuple[str, str, str]  # what, old, new


@dataclass(frozen=True, slots=True)
class Entry:
    """Nodes that belong together, by their names before and after."""

    change: Change
    before: tuple[str, ...]
    after: tuple[str, ...]
    deltas: tuple[Delta, ...] = ()  # of a RETYPED one

    def inverse(self) -> Entry:
        """The same, seen from the other side."""
        swapped = tuple((what, new, old) for what, old, new in self.deltas)
        return Entry(OPPOSITE.get(self.change, self.change), self.after, self.before, swapped)


@dataclass(frozen=True, slots=True)
class Rewire:
    """A node that is in both graphs reads another node than before, which no insertion or removal explains."""

    before: str  # the reader
    after: str
    old: str | None  # what it read, by its name before; None: it reads one more node
    new: str | None  # what it reads, by its name after; None: it reads one less

    def inverse(self) -> Rewire:
        """The same, seen from the other side."""
        return Rewire(self.after, self.before, self.new, self.old)

    def __str__(self) -> str:
        reader = self.before if self.before == self.after else f"{self.before} → {self.after}"
        return f"↷ {reader}: reads {self.old or 'nothing'} → {self.new or 'nothing'}"
