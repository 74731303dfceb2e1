"""The canonical graph without what a graph for OpenVINO cannot say, and with recurrent layers as its own sequences.

    choose_qparams(x) → quantize → dequantize   ⇒   x            OpenVINO's kernels for int8 weights take float rows
    recurrent.lstm(x, hx, weights, ...)         ⇒   fxquant::lstm_sequence for each layer and direction

Both compute what the canonical graph computes without its rounding of activations on the way; with `has_codes`, some
LSTMs compute on codes (see _openvino_recurrent).
"""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxquant import qdq
from fxquant.engines import _openvino_recurrent, forms
from fxquant.graphs.snapshot import TensorInfo
from fxquant.origin import adopt
from fxquant.values import fetched, known_value


def write_forms(graph_module: fx.GraphModule, *, has_codes: bool = False) -> None:
    """Change the graph in place."""
    for node in list(graph_module.graph.nodes):
        if node.op == "call_module":
            _write_module(graph_module, node)
        if node.op != "call_function":
            continue
        if node.target is qdq.dequantize_per_tensor and _is_dynamic(node.args[0]):
            node.replace_all_uses_with(node.args[0].args[0])
        elif node.target is F.linear and _is_vector(node.args[0]):
            _write_row(graph_module, node)
        elif node.target in _openvino_recurrent.LAYERS:
            _write_layer(graph_module, node, has_codes=has_codes)
        elif node.target in forms.CELLS:
            node.args = (*node.args[:-2], False, False)
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()


def _is_vector(value: Any) -> bool:
    known = known_value(value)
    return isinstance(known, TensorInfo) and len(known.shape) == 1


def _write_row(graph_module: fx.GraphModule, node: fx.Node) -> None:
    """linear(x) of a vector ⇒ flatten(linear(unsqueeze(x, 0))): its kernels give a row, and say that it is a vector."""
    with graph_module.graph.inserting_before(node):
        row = adopt(graph_module.graph.call_function(torch.unsqueeze, (node.args[0], 0)), node)
    node.update_arg(0, row)
    with graph_module.graph.inserting_after(node):
        flat = adopt(graph_module.graph.call_function(torch.flatten, (node,)), node)
    node.replace_all_uses_with(flat, delete_user_cb=lambda user: user is not flat)


def _is_dynamic(codes: Any) -> bool:
    """Codes of a range that is read off the tensor itself."""
    if not isinstance(codes, fx.Node) or codes.target is not qdq.quantize_per_tensor:
        return False
    scale = codes.args[1]
    if not isinstance(scale, fx.Node) or scale.target is not operator.getitem:
        return False
    chosen = scale.args[0]
    return isinstance(chosen, fx.Node) and chosen.target is qdq.choose_qparams


def _write_layer(graph_module: fx.GraphModule, node: fx.Node, *, has_codes: bool) -> None:
    """The weights become floats in OpenVINO's order of gates, or codes."""
    x, hx, weights, *options = node.args
    known = [None if part is None else constant(graph_module, part) for part in weights]  # type: ignore[union-attr]
    if any(found is None and part is not None for found, part in zip(known, weights, strict=True)):  # type: ignore[arg-type]
        node.args = (x, hx, weights, *options[:3], False, False)  # computed weights: step by step
        return
    node.target = _openvino_recurrent.LAYERS[node.target]
    cells = _openvino_recurrent.arranged(node.target, known)
    bound = _bound_of(graph_module, x) if has_codes and _may_have_codes(node, hx, *options) else math.inf
    if math.isfinite(bound):
        first = 2 if options[1] else 1
        cells = [*(_openvino_recurrent.on_codes(cell, bound) for cell in cells[:first]), *cells[first:]]
        x = _rows_of_codes(graph_module, node, x, bound)  # type: ignore[arg-type]
    node.args = (x, hx, _held_cells(graph_module, node, cells), *options[:3])


def _may_have_codes(node: fx.Node, hx: Any, layers: Any, is_bidirectional: Any, is_batch_first: Any, *how: Any) -> bool:
    """The first of several layers of an LSTM that starts at zero, whose activations are to be quantized."""
    is_dynamic = bool(how[0])
    return node.target is _openvino_recurrent.lstm and hx is None and int(layers) > 1 and is_dynamic


def _bound_of(graph_module: fx.GraphModule, node: Any) -> float:
    """β ≥ |x| for all x that come, where the graph tells: rows of a constant table; infinity else."""
    if not isinstance(node, fx.Node) or node.target is not F.embedding:
        return math.inf
    table = constant(graph_module, node.args[1])
    most = float(table.abs().max()) if table is not None and table.numel() else 0.0
    return most if 0.0 < most < math.inf else math.inf


def _rows_of_codes(graph_module: fx.GraphModule, node: fx.Node, embedded: fx.Node, bound: float) -> fx.Node:
    """x / β for x = table[ids], by a table of uint8 codes; 128 is zero."""
    table = constant(graph_module, embedded.args[1])
    assert table is not None
    codes = (table * (128 / bound)).round().clamp(-128, 127) + 128
    with graph_module.graph.inserting_before(node):
        held = _held(graph_module, f"_{node.name}_table", codes.to(torch.uint8))
        rows = graph_module.graph.call_function(F.embedding, (embedded.args[0], held))
        made = graph_module.graph.call_function(qdq.dequantize_per_tensor, (rows, 1 / 128, 128))
    return adopt(made, embedded)


def _held_cells(graph_module: fx.GraphModule, node: fx.Node, cells: list[tuple[Tensor, ...]]) -> Any:
    """The weights as buffers of the graph, read before the node."""
    with graph_module.graph.inserting_before(node):
        return tuple(
            tuple(_held(graph_module, f"_{node.name}_{index}_{place}", part) for place, part in enumerate(cell))
            for index, cell in enumerate(cells)
        )


def _write_module(graph_module: fx.GraphModule, node: fx.Node) -> None:
    """A float layer, of the same form; one with projections has none."""
    module = graph_module.get_submodule(str(node.target))
    if not node.args or type(module) not in _openvino_recurrent.MODULES:
        return
    if not isinstance(module, nn.RNNBase) or module.proj_size:
        return
    layer = _openvino_recurrent.MODULES[type(module)]
    known = [part for names in module._all_weights for part in _four(module, names)]
    held = _held_cells(graph_module, node, _openvino_recurrent.arranged(layer, known))
    hx = node.args[1] if len(node.args) > 1 else node.kwargs.get("hx")
    options = module.num_layers, module.bidirectional, module.batch_first
    node.op, node.target, node.kwargs = "call_function", layer, {}
    node.args = (node.args[0], hx, held, *options)


def _four(module: nn.Module, names: list[str]) -> list[Tensor | None]:
    """(w_ih, w_hh, b_ih, b_hh) of one cell; None for biases that it does not have."""
    found: list[Tensor | None] = [getattr(module, name).detach() for name in names]
    return [*found, None, None][:4]


def _held(graph_module: fx.GraphModule, name: str, value: Tensor) -> fx.Node:
    graph_module.register_buffer(name, value)
    return graph_module.graph.get_attr(name)


def constant(graph_module: fx.GraphModule, node: Any) -> Tensor | None:
    """The value of a node that hangs on stored tensors only; None for others."""
    try:
        value = _computed(graph_module, node)
    except _Given:
        return None
    return value.detach() if isinstance(value, Tensor) else None


class _Given(Exception):
    """It hangs on what a call brings."""


def _computed(graph_module: fx.GraphModule, node: fx.Node) -> Any:
    if node.op == "get_attr":
        return fetched(graph_module, str(node.target))
    if node.op != "call_function":
        raise _Given
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda source: _computed(graph_module, source))
    return node.target(*args, **kwargs)  # type: ignore[operator]
