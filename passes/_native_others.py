"""Ops without packed weights on quantized tensors, as the table in _native_ops has them."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from fxquant.origin import adopt
from fxquant.passes._canonical import attribute_name, grid_of, is_activation_dequantize, qparams_of
from fxquant.passes._native_ops import BINARY, FIXED_MODULES, OWN_MODULES, is_shared, takes_plain_order
from fxquant.values import known_value

if TYPE_CHECKING:
    from fxquant.passes._native_graph import NativeGraph

_SUMS = (operator.add, torch.add)


def lower(native: NativeGraph, node: fx.Node, layer: fx.Node, relu: fx.Node | None) -> fx.Node | None:
    """Ops without weights of their own: see the table."""
    scale, zero_point = node.args[1], node.args[2]
    if layer.op == "call_function" and layer.target in BINARY and not layer.kwargs:
        op, op_relu = BINARY[layer.target]
        chosen = op if relu is None else op_relu
        if chosen is None or len(layer.args) != 2 or not all(map(native.is_coded, layer.args)):
            return None
        pair = _largest_first(layer) if layer.target in _SUMS else layer.args
        return (
            None if pair is None else native.graph.call_function(chosen, (*map(native.coded, pair), scale, zero_point))
        )
    if relu is not None:
        return None
    if layer.op == "call_function" and layer.target is torch.cat:
        return _cat(native, layer, scale, zero_point)
    module = native.module_of(layer)
    if not layer.args or (layer.kwargs and layer.op == "call_module"):
        return None
    if not native.is_coded(layer.args[0]):
        return None
    x, kind = native.coded(layer.args[0]), type(module) if module is not None else nn.Module
    if kind in OWN_MODULES and not getattr(module, "track_running_stats", False):
        op, options = OWN_MODULES[kind](module)
        x = _plainly(native, layer, x)
        return native.graph.call_function(op, (x, *_held(native, layer, options), scale, zero_point))
    if kind in FIXED_MODULES:
        op, fixed_scale, fixed_zero = FIXED_MODULES[kind]
        same = abs(float(scale) - fixed_scale) < 1e-9 and zero_point == fixed_zero  # type: ignore[arg-type]
        return native.graph.call_function(op, (x,)) if same else None
    return _shared(native, node, layer)


def _largest_first(layer: fx.Node) -> tuple[Any, ...] | None:
    """The summands, the one of the sum's shape first: the kernel makes its result like the first, and prints a
    warning in each call where it has to grow. None where it would have to."""
    summands: Any = layer.args
    shapes = [getattr(known_value(node), "shape", None) for node in (*summands, layer)]
    if None in shapes or shapes[0] == shapes[2]:
        return layer.args
    return layer.args[::-1] if shapes[1] == shapes[2] else None


def move(native: NativeGraph, node: fx.Node) -> fx.Node | None:
    """The codes that an op of this float value has moved, where what it reads is codes and stays on its grid."""
    grid = grid_of(node)
    if grid is None or is_activation_dequantize(node):
        return None
    if node.target is torch.cat:
        return _cat(native, node, *grid[:2])
    if not native.is_coded(node.args[0]):
        return None
    inner = {node.args[0]: native.coded(node.args[0])}
    return native.graph.node_copy(node, lambda source: inner[source])


def _shared(native: NativeGraph, node: fx.Node, layer: fx.Node) -> fx.Node | None:
    """An op that keeps scale and zero point, where the result is quantized with its input's."""
    if not is_shared(layer.op, layer.target, native.module_of(layer)):
        return None
    if qparams_of(layer.args[0]) != (node.args[1], node.args[2], node.args[5]):
        return None
    others = [source for source in layer.all_input_nodes if source is not layer.args[0]]
    if any(is_activation_dequantize(source) for source in others):
        return None
    inner = {layer.args[0]: _plainly(native, layer, native.coded(layer.args[0]))}
    return native.graph.node_copy(layer, lambda source: inner.get(source) or native.values[source])


def _plainly(native: NativeGraph, layer: fx.Node, codes: fx.Node) -> fx.Node:
    """The codes in the order that this kernel reads them in: qnnpack's clamping and softmax take no channels-last."""
    if native.target != "qnnpack" or not takes_plain_order(layer.op, layer.target, native.module_of(layer)):
        return codes
    return adopt(native.graph.call_method("contiguous", (codes,)), layer)


def _cat(native: NativeGraph, layer: fx.Node, scale: Any, zero_point: Any) -> fx.Node | None:
    items, dim = layer.args[0], layer.args[1] if len(layer.args) > 1 else layer.kwargs.get("dim", 0)
    if not isinstance(items, (tuple, list)) or not all(map(native.is_coded, items)):
        return None
    coded = [native.coded(item) for item in items]
    return native.graph.call_function(torch.ops.quantized.cat.default, (coded, dim, scale, zero_point))


def _held(native: NativeGraph, layer: fx.Node, options: tuple[Any, ...]) -> tuple[Any, ...]:
    """Options of a kernel with tensors among them: those become attributes."""
    held = []
    for index, option in enumerate(options):
        if isinstance(option, Tensor):
            option = native.hold(f"{attribute_name(layer)}_{index}", option.detach())
        held.append(option)
    return tuple(held)
