"""A canonical graph with some of its kernels in floating point: their activations are no longer rounded.

    int8 → q → dq → float      stays: the codes are dequantized
    float → q → dq → int8      stays: the value is quantized
    float → q → dq → float     becomes float → float
    x → q → dq → maxpool → int8, maxpool in float     becomes x → maxpool → q → dq → int8: to round and to move commute

A layer in float computes on its int8 weights, widened ahead; so the graph's tensors stay what they are. No value is
rounded that was not before: of each output the error can only lose terms.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import fx

from fxquant import qdq
from fxquant.graphmodule import copied
from fxquant.origin import adopt
from fxquant.passes._canonical_ranges import unrounded
from fxquant.passes._placeable import CodedValue, Placeable, reads_shape
from fxquant.placed import place_in

Nodes = Mapping[str, fx.Node]


def replaced(
    canonical: fx.GraphModule, found: Placeable, int8: Collection[str], floating: Mapping[str, tuple[str, str]]
) -> fx.GraphModule:
    """A copy of the graph with the units `int8` on codes, and no other.

    `floating` tells of units that could be on codes in which format they compute, and why.
    """
    made = copied(canonical)
    nodes = {node.name: node for node in made.graph.nodes}
    for value in found.values:
        if value.producer in int8:
            continue
        if value.has_pair:
            _unrounded(value, int8, nodes)
        else:
            _rounded(value, int8, nodes)
    for name, (kind, why) in floating.items():
        for node in found.units[name].nodes:
            place_in(nodes[node.name], kind, why)
    made.graph.eliminate_dead_code()
    made.graph.lint()
    made.recompile()
    return made


def _unrounded(value: CodedValue, int8: Collection[str], nodes: Nodes) -> None:
    """Readers in float read the value before its pair."""
    reads = [(read, reader) for read, reader, unit in value.reads if unit not in int8 or reads_shape(reader)]
    plain = unrounded(nodes[value.source.name]) if reads else None
    for read, reader in reads:
        nodes[reader.name].replace_input_with(nodes[read.name], plain)  # type: ignore[arg-type]


def _rounded(value: CodedValue, int8: Collection[str], nodes: Nodes) -> None:
    """An op that would have moved codes computes in float: readers on codes get a pair behind it, of the same grid."""
    readers = [reader for _, reader, unit in value.reads if unit in int8 and not reads_shape(reader)]
    if not readers:
        return
    source, (scale, zero_point, *limits) = nodes[value.source.name], value.grid
    graph = source.graph
    with graph.inserting_after(source):
        codes = adopt(graph.call_function(qdq.quantize_per_tensor, (source, scale, zero_point, *limits)), source)
    with graph.inserting_after(codes):
        decoded = adopt(graph.call_function(qdq.dequantize_per_tensor, (codes, scale, zero_point)), source)
    for reader in dict.fromkeys(readers):
        nodes[reader.name].replace_input_with(source, decoded)
