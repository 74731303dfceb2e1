"""The cut between int8 and float that precision placement chose, as a snapshot shows it.

A conversion joins its two sides: a value that is quantized comes from the float side, one that is dequantized goes to
it. Those are the edges that the cut crosses, each conversion paid once.
"""

from __future__ import annotations

from collections.abc import Mapping

from fxquant.graphs.quantizing import is_dequantize, is_quantize
from fxquant.graphs.regions import Region
from fxquant.graphs.snapshot import GraphSnapshot, NodeRecord

PLACED = "placed"  # attribute: the format that an op was placed in
_FLOAT_SIDE = frozenset({Region.FLOAT, Region.WEIGHTS, Region.NEUTRAL})


def placed_in(node: NodeRecord) -> str:
    """'float32' or 'bfloat16' where placement put the op in float; '' where it did not."""
    return node.attribute(PLACED)


def cut_edges(snapshot: GraphSnapshot, found: Mapping[str, Region]) -> frozenset[tuple[str, str]]:
    """(producer, consumer) where the graph goes from codes to float or back; none in a graph that was not placed."""
    if not any(map(placed_in, snapshot)):
        return frozenset()
    return frozenset((source, target) for source, target in snapshot.edges if _crosses(snapshot, found, source, target))


def _crosses(snapshot: GraphSnapshot, found: Mapping[str, Region], source: str, target: str) -> bool:
    if found[source] in _FLOAT_SIDE:
        return found[target] is Region.BOUNDARY and is_quantize(snapshot[target])
    return found[target] in _FLOAT_SIDE and found[source] is Region.BOUNDARY and is_dequantize(snapshot[source])
