"""A canonical graph with some of its kernels in floating point: their activations are no longer rounded.

    int8 → q → dq → float      stays: the codes are dequantized
    float → q → dq → int8      stays: the value is quantized
    float → q → dq → float     becomes float → float

A layer in float computes on its int8 weights, widened ahead; so the graph's tensors stay what they are. No value is
rounded that was not before: of each output the error can only lose terms.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import fx

from fxquant.graphmodule import copied
from fxquant.passes._placeable import Placeable, reads_shape
from fxquant.placed import place_in


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
        plain = nodes[value.quantize.name].args[0]
        for dequantize, reader, unit in value.reads:
            if unit not in int8 or reads_shape(reader):
                nodes[reader.name].replace_input_with(nodes[dequantize.name], plain)
    for name, (kind, why) in floating.items():
        for node in found.units[name].nodes:
            place_in(nodes[node.name], kind, why)
    made.graph.eliminate_dead_code()
    made.graph.lint()
    made.recompile()
    return made
