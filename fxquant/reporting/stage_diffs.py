"""The differences between every two stages that the model has reached, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from fxquant.graphs.change import SIGNS, Change
from fxquant.graphs.diffing import diff
from fxquant.program import Stage
from fxquant.reporting.wording import short

if TYPE_CHECKING:
    from fxquant.graphs.change import Entry, Rewire
    from fxquant.graphs.diffing import GraphDiff
    from fxquant.graphs.snapshot import GraphSnapshot, NodeRecord
    from fxquant.model import CompiledModel

MOST_ROWS = 9000  # entries listed over all pairs; a table beyond its share of them says how many are left out


@dataclass(frozen=True, slots=True)
class DiffRow:
    """One entry: a group of nodes before and after, or an edge that leads somewhere else."""

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
    reached = {compiled.first_stage, *(record.stage for record in compiled.history)}
    return tuple(stage for stage in Stage if stage in reached)


def diffs_of(snapshots: dict[str, GraphSnapshot]) -> tuple[StageDiff, ...]:
    """The difference of each pair of stages, the earlier one first."""
    pairs = list(combinations(snapshots, 2))
    share = max(200, MOST_ROWS // max(1, len(pairs)))
    return tuple(_of(before, after, diff(snapshots[before], snapshots[after]), share) for before, after in pairs)


def _of(before: str, after: str, found: GraphDiff, most: int) -> StageDiff:
    changed = [entry for entry in found if entry.change is not Change.UNCHANGED]
    counts = tuple((change, count) for change, count in found.counts.items() if count)
    rows = (*(_row(entry, found) for entry in changed[:most]), *(_rewired(rewire) for rewire in found.rewires[:most]))
    left_out = max(0, len(changed) - most) + max(0, len(found.rewires) - most)
    return StageDiff(before, after, counts, rows, left_out, found)


def _row(entry: Entry, found: GraphDiff) -> DiffRow:
    left = [found.before[name] for name in entry.before]
    right = [found.after[name] for name in entry.after]
    deltas = tuple((short(what, 60), short(old, 120), short(new, 120)) for what, old, new in entry.deltas[:8])
    sign = SIGNS[entry.change].replace("-", "−")
    return DiffRow(entry.change.value, sign, _listed(left), _listed(right), deltas)


def _rewired(rewire: Rewire) -> DiffRow:
    reads = ("reads", short(rewire.old or "", 60), short(rewire.new or "", 60))
    return DiffRow("rewired", "↷", short(rewire.before, 60), short(rewire.after, 60), (reads,))


def _listed(nodes: Sequence[NodeRecord]) -> str:
    shown = " + ".join(short(node.name, 60) + _class_of(node) for node in nodes[:12])
    return f"{shown} + {len(nodes) - 12} more" if len(nodes) > 12 else shown


def _class_of(node: NodeRecord) -> str:
    """The class of what it calls, where that is one and the name does not say it."""
    return f" {short(node.kind, 40)}" if node.op == "call_module" and node.kind != node.name else ""
