"""Float islands with what they cost in seconds: their conversions, and the int8 kernels on their shores."""

from __future__ import annotations

from dataclasses import dataclass

from fxquant.graphs.dataflow import computed_by
from fxquant.graphs.islands import Island, islands
from fxquant.graphs.regions import regions
from fxquant.graphs.remedies import reasons_of
from fxquant.graphs.snapshot import GraphSnapshot
from fxquant.profiling.evidence import Evidence
from fxquant.profiling.timing import Group


@dataclass(frozen=True, slots=True)
class Crossing:
    """One island inside the quantized part of the lowered graph."""

    island: Island
    crossing_seconds: float  # of its quantizes and dequantizes
    seconds: float  # of its own float ops
    neighbours: tuple[Group, ...]  # whose results it reads, and who reads its results, on codes

    @property
    def neighbour_seconds(self) -> float:
        """Of the neighbours' int8 kernels."""
        return sum(group.seconds or 0.0 for group in self.neighbours)

    @property
    def neighbour_float_seconds(self) -> float:
        """Of the neighbours in the float graph."""
        return sum(group.float_seconds or 0.0 for group in self.neighbours)

    @property
    def saving(self) -> float:
        """Seconds that a call takes less, expected, where the neighbours stay float as well."""
        return self.crossing_seconds + self.neighbour_seconds - self.neighbour_float_seconds


def crossings(evidence: Evidence) -> tuple[Crossing, ...]:
    """Every island, the dearest first by measured time (by bytes where nothing was timed)."""
    if not evidence.is_lowered:
        return ()
    graph = evidence.compiled.snapshot()
    found = islands(graph, reasons_of(evidence.compiled.ledger.layers))
    seconds = evidence.node_seconds
    made = [
        Crossing(
            island,
            sum(seconds.get(name, 0.0) for name in (*island.dequantizes, *island.quantizes)),
            sum(seconds.get(name, 0.0) for name in island.nodes),
            _neighbours(island, graph, evidence),
        )
        for island in found
    ]
    return tuple(sorted(made, key=lambda one: -one.crossing_seconds))


def _neighbours(island: Island, graph: GraphSnapshot, evidence: Evidence) -> tuple[Group, ...]:
    """Groups of the kernels behind the dequantizes and those that read what the quantizes give."""
    behind = computed_by(graph, regions(graph))
    names = [behind[name] for name in island.dequantizes]
    names += [reader for name in island.quantizes for reader in graph.readers[name]]
    groups = [evidence.groups.get(site) for name in names for site in graph[name].origins[:1]]
    own = {evidence.groups[site] for site in island.sites if site in evidence.groups}
    return tuple(group for group in dict.fromkeys(groups) if group is not None and group not in own)
