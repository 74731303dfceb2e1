"""The graph as networkx has it: critical path, dominators, and where the precision changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import networkx as nx

from fxquant.graphs.costs import Cost, costs, tensor_bytes
from fxquant.graphs.regions import Region, gives_floats, is_observer, regions
from fxquant.graphs.snapshot import GraphSnapshot, NodeRecord

ENTRY = ""  # stands before all inputs; no node has an empty name
PASSED = frozenset({Region.BOUNDARY, Region.OBSERVER})  # values go through them and stay what they are


@dataclass(frozen=True, slots=True)
class CriticalPath:
    """The heaviest way through the graph: no schedule, however parallel, is faster than it."""

    nodes: tuple[str, ...]
    weight: float  # MACs, or seconds where they were given
    share: float  # of the weight of all nodes: 1.0 is a chain


@dataclass(frozen=True, slots=True)
class PrecisionChange:
    """A value that leaves one arithmetic for another, from the op that computes it to the op that reads it."""

    source: str
    reader: str
    before: Region
    after: Region
    through: tuple[str, ...]  # the quantize and dequantize nodes between the two; () inside a dynamic kernel
    size_bytes: int | None  # of the value as `source` gives it


def graph_of(snapshot: GraphSnapshot) -> nx.DiGraph[str]:
    """One networkx node for each node, in graph order, with its `region`; one edge for each value that it reads."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    for name, region in regions(snapshot).items():
        graph.add_node(name, region=region.value)
    graph.add_edges_from(snapshot.edges)
    return graph


def critical_path(
    snapshot: GraphSnapshot, *, seconds: Mapping[str, float] | None = None, known: Mapping[str, Cost] | None = None
) -> CriticalPath:
    """The longest path by MACs, or by measured seconds of each node (nodes that it lacks take none).

    `known` spares counting the costs again. Of equal paths it is the one that comes first in the graph.
    """
    weights = dict(seconds) if seconds is not None else _macs(costs(snapshot) if known is None else known)
    reached: dict[str, float] = {}
    via: dict[str, str] = {}
    for node in snapshot:
        before = max(node.inputs, key=reached.__getitem__, default=None)
        if before is not None:
            via[node.name] = before
        reached[node.name] = weights.get(node.name, 0) + (0 if before is None else reached[before])
    if not reached:
        return CriticalPath((), 0, 0.0)
    last = max(reversed(reached), key=reached.__getitem__)
    whole = sum(weights.get(node.name, 0) for node in snapshot)
    return CriticalPath(_back(last, via), reached[last], reached[last] / whole if whole else 0.0)


def dominators(snapshot: GraphSnapshot) -> dict[str, str]:
    """Node → its immediate dominator: the last node that all values from the model's inputs to it run through.

    `ENTRY` where there is none. Constants and what is made of them alone do not count.
    """
    graph: nx.DiGraph[str] = nx.DiGraph()
    for node in snapshot:
        if node.op == "placeholder":
            graph.add_edge(ENTRY, node.name)
        graph.add_edges_from((source, node.name) for source in node.inputs if source in graph)
    if ENTRY not in graph:
        return {}
    found = nx.immediate_dominators(graph, ENTRY)
    return {node.name: found[node.name] or ENTRY for node in snapshot if node.name in found}


def chokepoints(snapshot: GraphSnapshot) -> tuple[str, ...]:
    """The nodes that every way from the inputs to the output runs through, in graph order; inputs and output excluded.

    A fault or a loss of precision in one of them reaches everything behind it.
    """
    above = dominators(snapshot)
    name = next((node.name for node in reversed(snapshot.nodes) if node.op == "output"), ENTRY)
    chain = []
    while (name := above.get(name, ENTRY)) != ENTRY:
        chain.append(name)
    return tuple(name for name in reversed(chain) if snapshot[name].op != "placeholder")


def precision_changes(
    snapshot: GraphSnapshot, found: Mapping[str, Region] | None = None
) -> tuple[PrecisionChange, ...]:
    """Where values change between codes and floats, in the readers' order. Inputs and outputs of floats count.

    int8 weights with float activations are float here.
    """
    found = regions(snapshot) if found is None else found
    computed = computed_by(snapshot, found)
    changes: dict[tuple[str, str], PrecisionChange] = {}
    ways: dict[str, tuple[str, ...]] = {}
    for node in snapshot:
        after = None if found[node.name] in PASSED else _side(node, found)
        for name in node.inputs if after is not None else ():
            source = snapshot[computed[name]]
            before = _side(source, found)
            if before is None or after is None or before is after:
                continue
            if name not in ways:
                ways[name] = _conversions(name, snapshot, found)
            size = tensor_bytes(source.values) if source.values else None
            change = PrecisionChange(source.name, node.name, before, after, ways[name], size)
            changes.setdefault((source.name, node.name), change)
    return tuple(changes.values())


def computed_by(snapshot: GraphSnapshot, found: Mapping[str, Region]) -> dict[str, str]:
    """Node → the op that computed what it gives: itself, or for conversions and observers the op behind them."""
    computed: dict[str, str] = {}
    for node in snapshot:
        passes = found[node.name] in PASSED and bool(node.inputs)
        computed[node.name] = computed[node.inputs[0]] if passes else node.name
    return computed


def _conversions(name: str, snapshot: GraphSnapshot, found: Mapping[str, Region]) -> tuple[str, ...]:
    """The quantizes and dequantizes that a value came through, ending in this node."""
    way = []
    while found[name] in PASSED and snapshot[name].inputs:
        if not is_observer(snapshot[name]):
            way.append(name)
        name = snapshot[name].inputs[0]
    return tuple(reversed(way))


def _side(node: NodeRecord, found: Mapping[str, Region]) -> Region | None:
    """Codes or floats; None for what is neither."""
    if found[node.name] is Region.QUANTIZED:
        return Region.QUANTIZED
    if found[node.name] in (Region.FLOAT, Region.WEIGHTS) or node.op == "output":
        return Region.FLOAT
    is_input = node.op == "placeholder" and (not node.values or gives_floats(node))
    return Region.FLOAT if is_input else None


def _macs(known: Mapping[str, Cost]) -> dict[str, float]:
    return {name: cost.macs or 0 for name, cost in known.items()}


def _back(last: str, via: Mapping[str, str]) -> tuple[str, ...]:
    path = [last]
    while path[-1] in via:
        path.append(via[path[-1]])
    return tuple(reversed(path))
