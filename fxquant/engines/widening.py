"""Weights of layers that placement put in float: widened ahead, so that no engine takes the layer for one on codes.

dequantize(x) → conv(dequantize(w))      ⇒      dequantize(x) → conv(w_float)
"""

from __future__ import annotations

from torch import Tensor, fx

from fxquant import qdq
from fxquant.origin import adopt
from fxquant.placed import placed_as
from fxquant.values import fetched


def widen_placed(graph_module: fx.GraphModule) -> None:
    """Hold the weights that placed layers read as float32 constants, in place. The caller drops what is dead then."""
    for node in list(graph_module.graph.nodes):
        if not placed_as(node):
            continue
        for weight in node.all_input_nodes:
            if weight.op == "call_function" and weight.target in qdq.DEQUANTIZE:
                _widen(graph_module, node, weight)


def _widen(graph_module: fx.GraphModule, node: fx.Node, weight: fx.Node) -> None:
    if any(source.op != "get_attr" for source in weight.all_input_nodes):
        return
    values = fx.map_arg(weight.args, lambda source: fetched(graph_module, str(source.target)))
    made = weight.target(*values)  # type: ignore[operator]
    assert isinstance(made, Tensor)
    name = f"{weight.all_input_nodes[0].target}_in_float".replace(".", "_")
    if not hasattr(graph_module, name):
        graph_module.register_buffer(name, made)
    with graph_module.graph.inserting_before(node):
        held = adopt(graph_module.graph.create_node("get_attr", name), weight)
    node.replace_input_with(weight, held)
