"""What a person needs to know of a quantized graph before acting on it: islands, precision changes, bottlenecks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fxquant.graphs.costs import costs
from fxquant.graphs.dataflow import CriticalPath, PrecisionChange, chokepoints, critical_path, precision_changes
from fxquant.graphs.islands import Island, islands
from fxquant.graphs.regions import COMPUTING, Region, regions
from fxquant.graphs.remedies import Reasons
from fxquant.graphs.snapshot import GraphSnapshot

_FEW = 8  # names that a line of text lists


@dataclass(frozen=True, slots=True)
class Analysis:
    """Of one graph. `str()` is for reading, `as_dict()` for JSON."""

    title: str
    counts: tuple[tuple[Region, int], ...]  # nodes of each region, in the order of Region
    macs: int  # of all nodes, as far as they are known
    unknown: int  # nodes whose MACs are not
    islands: tuple[Island, ...]  # the dearest first
    changes: tuple[PrecisionChange, ...]  # in graph order
    critical: CriticalPath
    chokepoints: tuple[str, ...]  # ops that every way from the inputs to the output runs through
    unit: str = "MACs"  # of the critical path: 'MACs' or 'time'

    @property
    def crossings(self) -> int:
        """How many values change precision; one that several ops read counts once."""
        return len({(change.source, change.after) for change in self.changes})

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: strings, numbers, lists and dicts."""
        told = asdict(self) | {"counts": {region.value: count for region, count in self.counts}}
        pairs = [{**asdict(island), "pairs": island.pairs} for island in self.islands]
        return _plain(told | {"crossings": self.crossings, "islands": pairs})  # type: ignore[no-any-return]

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        counted = ", ".join(f"{count} {region.value}" for region, count in self.counts if region in COMPUTING)
        yield f"{self.title or 'graph'}: {counted or 'nothing is computed'}"
        yield from self._of_islands()
        yield f"precision changes {_times(self.crossings)}"
        if self.critical.share:
            length = _number(len(self.critical.nodes), "node")
            yield f"critical path: {length}, {self.critical.share:.0%} of {self._whole()}"
        if self.chokepoints:
            rest = len(self.chokepoints) - _FEW
            more = f" and {rest} more" if rest > 0 else ""
            yield f"every way through the graph passes {', '.join(self.chokepoints[:_FEW])}{more}"

    def _whole(self) -> str:
        if self.unit != "MACs":
            return f"the {self.unit}"
        told = f" (of {_number(self.unknown, 'node')} unknown)" if self.unknown else ""
        return f"{self.macs:,} MACs{told}"

    def _of_islands(self) -> Iterator[str]:
        if not self.islands:
            yield "no float island inside quantized regions"
            return
        pairs = sum(island.pairs for island in self.islands)
        moved = [island.bytes_moved for island in self.islands]
        told = "" if None in moved else f", {sum(size or 0 for size in moved):,} bytes moved"
        cost = _number(pairs, "quantize/dequantize pair")
        yield f"{_number(len(self.islands), 'float island')} inside quantized regions: {cost}{told}"
        for island in self.islands:
            yield from (f"  {line}" for line in str(island).splitlines())


def analyse(
    snapshot: GraphSnapshot,
    reasons: Reasons | None = None,
    *,
    like: GraphSnapshot | None = None,
    seconds: Mapping[str, float] | None = None,
) -> Analysis:
    """Float islands, precision changes, the critical path and chokepoints of a graph of any stage.

    Args:
        snapshot: the graph.
        reasons: site → (code, reason): `reasons_of(ledger)`. Without them islands do not say why they are float.
        like: an earlier snapshot of the same program, for the MACs of packed weights.
        seconds: measured seconds of nodes, for a critical path by time.
    """
    known, found = costs(snapshot, like=like), regions(snapshot)
    counted = Counter(found.values())
    return Analysis(
        title=snapshot.title,
        counts=tuple((region, counted[region]) for region in Region if counted[region]),
        macs=sum(cost.macs or 0 for cost in known.values()),
        unknown=sum(cost.macs is None for cost in known.values()),
        islands=islands(snapshot, reasons, known=known),
        changes=precision_changes(snapshot, found),
        critical=critical_path(snapshot, seconds=seconds, known=known),
        chokepoints=tuple(name for name in chokepoints(snapshot) if found[name] in COMPUTING),
        unit="MACs" if seconds is None else "time",
    )


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {key: _plain(item) for key, item in value.items()}
        case tuple() | list():
            return [_plain(item) for item in value]
        case str():
            return str(value)
    return value


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _times(count: int) -> str:
    return {0: "nowhere", 1: "once", 2: "twice"}.get(count, f"{count} times")
