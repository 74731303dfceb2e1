"""The differences between every two stages that the model has reached, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from fxquant.graphs.change import Change
from fxquant.graphs.diffing import diff
from fxquant.program import Stage
from fxquant.reporting.wording import short

if TYPE_CHECKING:
    from fxquant.graphs.change import Entry
    from fxquant.graphs.diffing import GraphDiff
    from fxquant.graphs.snapshot import GraphSnapshot
    from fxquant.model import CompiledModel

MOST_ROWS = 9000  # entries listed over all pairs; a table beyond its share of them says how many are left out
_MARKS = {"unchanged": " ", "inserted": "+", "removed": "−"}


@dataclass(frozen=True, slots=True)
class DiffRow:
    """One entry: a group of nodes before and after."""

    change: str
    mark: str
    before: str
    after: str
    deltas: tuple[tuple[str, str, str], ...]  # (what, old, new)


@dataclass(frozen=True, slots=True)
class StageDiff:
    """From one stage to a later one."""

    before: str  # stage name in lower case
    after: str
    counts: tuple[tuple[str, int], ...]  # (change, how many), those that occur
    rows: tuple[DiffRow, ...]
    left_out: int
    graph: GraphDiff  # for its picture

    @property
    def id(self) -> str:
        """Its name in the page."""
        return f"{self.before}-{self.after}"

    @property
    def is_empty(self) -> bool:
        """Are the two graphs the same?"""
        return not self.rows


def stages_of(compiled: CompiledModel) -> tuple[Stage, ...]:
    """Stages whose graph the history has, in order."""
    reached = {Stage.TRACED, *(record.stage for record in compiled.history)}
    return tuple(stage for stage in Stage if stage in reached)


def diffs_of(snapshots: dict[str, GraphSnapshot]) -> tuple[StageDiff, ...]:
    """The difference of each pair of stages, the earlier one first."""
    pairs = list(combinations(snapshots, 2))
    share = max(200, MOST_ROWS // max(1, len(pairs)))
    return tuple(_of(before, after, diff(snapshots[before], snapshots[after]), share) for before, after in pairs)


def _of(before: str, after: str, found: GraphDiff, most: int) -> StageDiff:
    changed = [entry for entry in found if entry.change is not Change.UNCHANGED]
    counts = tuple((str(change), count) for change, count in found.counts.items() if count)
    return StageDiff(before, after, counts, tuple(_rows(changed[:most])), max(0, len(changed) - most), found)


def _rows(entries: Sequence[Entry]) -> Iterator[DiffRow]:
    for entry in entries:
        change = str(entry.change)
        deltas = tuple((short(what, 60), short(old, 120), short(new, 120)) for what, old, new in entry.deltas[:8])
        yield DiffRow(change, _MARKS.get(change, "~"), _listed(entry.before), _listed(entry.after), deltas)


def _listed(names: Sequence[str]) -> str:
    shown = " + ".join(short(name, 60) for name in names[:12])
    return f"{shown} + {len(names) - 12} more" if len(names) > 12 else shown
