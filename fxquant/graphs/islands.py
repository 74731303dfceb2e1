"""Float islands: float ops between quantized ones, and what their quantizes and dequantizes cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import networkx as nx

from fxquant.graphs.costs import Cost, costs, tensor_bytes
from fxquant.graphs.dataflow import PASSED, computed_by
from fxquant.graphs.quantizing import is_dequantize, is_quantize
from fxquant.graphs.regions import Region, gives_floats, regions
from fxquant.graphs.remedies import Reason, Reasons, reasons_for
from fxquant.graphs.snapshot import GraphSnapshot, NodeRecord


class Place(StrEnum):
    """Where a float area lies."""

    INSIDE = "inside"  # between quantized ops: all that it reads was codes, all that it gives becomes codes
    HEAD = "head"  # it reads the model's inputs, or nothing that was codes
    TAIL = "tail"  # it gives the model's outputs
    THROUGH = "through"  # both


@dataclass(frozen=True, slots=True)
class Island:
    """A maximal connected set of float ops, in graph order."""

    nodes: tuple[str, ...]
    sites: tuple[str, ...]
    place: Place
    dequantizes: tuple[str, ...]  # by which codes come in, and those between its own ops
    quantizes: tuple[str, ...]  # by which floats go out, and those between its own ops
    bytes_moved: int | None  # read and written by those; None where a shape is not known
    macs: int | None
    reasons: tuple[Reason, ...] = ()

    @property
    def pairs(self) -> int:
        """Round trips from codes to floats and back: the wider of its two shores."""
        return max(len(self.dequantizes), len(self.quantizes))

    def __str__(self) -> str:
        named = ", ".join(self.nodes[:4]) + (f" and {len(self.nodes) - 4} more" if len(self.nodes) > 4 else "")
        moved = "" if self.bytes_moved is None else f", {self.bytes_moved:,} bytes moved"
        told = f"{named}: {len(self.dequantizes)} dequantize, {len(self.quantizes)} quantize{moved}"
        return "\n".join((told, *(f"  {reason}" for reason in self.reasons)))


def islands(
    snapshot: GraphSnapshot, reasons: Reasons | None = None, *, known: Mapping[str, Cost] | None = None
) -> tuple[Island, ...]:
    """The float areas inside quantized regions, the dearest (most bytes moved) first.

    Args:
        snapshot: of any stage; only CONVERTED and LOWERED graphs, and foreign quantized ones, can have any.
        reasons: site → (code, reason), as `reasons_of(ledger)` gives: why each op is float, and what would help.
        known: costs of the nodes, where they are known already.
    """
    inside = (area for area in float_areas(snapshot, reasons, known=known) if area.place is Place.INSIDE)
    return tuple(sorted(inside, key=lambda island: (-(island.bytes_moved or 0), -island.pairs)))


def outlines(found: Iterable[Island]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(label, node names) of each island, as a picture outlines it."""
    return tuple(
        (f"island {number}: {len(island.dequantizes)} dequantize, {len(island.quantizes)} quantize", island.nodes)
        for number, island in enumerate(found, start=1)
    )


def float_areas(
    snapshot: GraphSnapshot, reasons: Reasons | None = None, *, known: Mapping[str, Cost] | None = None
) -> tuple[Island, ...]:
    """All connected sets of float ops, wherever they lie, in graph order.

    Float ops with only a quantize and a dequantize between them belong together: nothing is computed on those codes.
    """
    found = regions(snapshot)
    shores = _Shores(snapshot, found, computed_by(snapshot, found), _read_by(snapshot, found))
    cost = costs(snapshot) if known is None else known
    return tuple(_island(shores, names, reasons or {}, cost) for names in shores.areas())


def _island(shores: _Shores, names: tuple[str, ...], reasons: Reasons, cost: Mapping[str, Cost]) -> Island:
    nodes = [shores.snapshot[name] for name in names]
    before, after = shores.before(nodes), shores.after(nodes)
    each = [cost[name].macs for name in names]
    sites = tuple(dict.fromkeys(origin for node in nodes for origin in node.origins or (node.site,)))
    return Island(
        nodes=names,
        sites=sites,
        place=_place(before, after),
        dequantizes=tuple(before.conversions),
        quantizes=tuple(after.conversions),
        bytes_moved=shores.bytes_moved((*before.conversions, *after.conversions)),
        macs=None if None in each else sum(macs or 0 for macs in each),
        reasons=reasons_for(sites, reasons),
    )


@dataclass(frozen=True, slots=True)
class _Shore:
    """One side of an area: its conversions, and whether an op on codes, or bare floats, lie behind it."""

    conversions: dict[str, None]
    has_codes: bool
    has_floats: bool


def _place(before: _Shore, after: _Shore) -> Place:
    is_fed, is_read = (shore.has_codes and not shore.has_floats for shore in (before, after))
    if is_fed and is_read:
        return Place.INSIDE
    if is_fed or is_read:
        return Place.TAIL if is_fed else Place.HEAD
    return Place.THROUGH


@dataclass(frozen=True, slots=True)
class _Shores:
    snapshot: GraphSnapshot
    found: Mapping[str, Region]
    computed: Mapping[str, str]  # node → the op behind its conversions
    read: Mapping[str, frozenset[Region]]  # conversion → regions of the ops that compute with its result

    def areas(self) -> tuple[tuple[str, ...], ...]:
        """Connected sets of float ops, each in graph order."""
        graph: nx.Graph[str] = nx.Graph()
        graph.add_nodes_from(node.name for node in self.snapshot if self._is_float(node.name))
        for name in tuple(graph):
            sources = (self.computed[source] for source in self.snapshot[name].inputs)
            graph.add_edges_from((source, name) for source in sources if self._is_float(source))
        order = {node.name: index for index, node in enumerate(self.snapshot)}
        areas = [tuple(sorted(names, key=order.__getitem__)) for names in nx.connected_components(graph)]
        return tuple(sorted(areas, key=lambda names: order[names[0]]))

    def before(self, nodes: Iterable[NodeRecord]) -> _Shore:
        """What the area reads."""
        conversions: dict[str, None] = {}
        has_codes = has_floats = False
        for name in (name for node in nodes for name in node.inputs):
            source = self.snapshot[self.computed[name]]
            is_coded = self.found[source.name] is Region.QUANTIZED
            is_converted = source.name != name and is_dequantize(self.snapshot[name])
            if is_converted:
                conversions[name] = None
            has_codes |= is_coded and is_converted
            has_floats |= is_coded and not is_converted  # a kernel that gives floats
            has_floats |= source.op == "placeholder" and (not source.values or gives_floats(source))
        return _Shore(conversions, has_codes, has_floats)

    def after(self, nodes: Iterable[NodeRecord]) -> _Shore:
        """Who reads the area."""
        conversions: dict[str, None] = {}
        has_codes = has_floats = False
        for name in (name for node in nodes for name in self.snapshot.readers[node.name]):
            reader = self.snapshot[name]
            if self.found[name] is not Region.BOUNDARY:
                has_floats |= reader.op == "output" or self.found[name] is Region.QUANTIZED
                continue
            if is_quantize(reader):
                conversions[name] = None
            has_codes |= Region.QUANTIZED in self.read[name]
            has_floats |= Region.NEUTRAL in self.read[name]
        return _Shore(conversions, has_codes, has_floats)

    def bytes_moved(self, conversions: Iterable[str]) -> int | None:
        """Bytes that these nodes read and write."""
        moved = 0
        for name in dict.fromkeys(conversions):
            given, taken = self.snapshot[name].values, self.snapshot[self.snapshot[name].inputs[0]].values
            if not given or not taken:
                return None
            moved += tensor_bytes(given) + tensor_bytes(taken)
        return moved

    def _is_float(self, name: str) -> bool:
        return self.found[name] in (Region.FLOAT, Region.WEIGHTS)


def _read_by(snapshot: GraphSnapshot, found: Mapping[str, Region]) -> dict[str, frozenset[Region]]:
    """Conversion → the regions of what reads its result, conversions behind it left out; NEUTRAL is the output."""
    read: dict[str, frozenset[Region]] = {}
    for node in reversed(snapshot.nodes):
        if found[node.name] not in PASSED:
            continue
        regions_behind: set[Region] = set()
        for name in snapshot.readers[node.name]:
            is_known = found[name] is not Region.NEUTRAL or snapshot[name].op == "output"
            regions_behind |= read[name] if name in read else {found[name]} if is_known else set()
        read[node.name] = frozenset(regions_behind)
    return read
