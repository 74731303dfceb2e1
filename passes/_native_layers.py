"""Linear and convolution layers on packed weights: static, dynamic, and linear on float16 weights."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import fx

from fxquant import qdq
from fxquant.origin import adopt
from fxquant.passes._canonical import attribute_name
from fxquant.passes._packing import HALF_ENGINES, PACKED, pack_half_linear
from fxquant.passes._weights import HALF_WEIGHTS, held_as

if TYPE_CHECKING:
    from fxquant.passes._native_graph import NativeGraph


def static(native: NativeGraph, node: fx.Node, layer: fx.Node, relu: fx.Node | None) -> fx.Node | None:
    """conv, transposed conv or linear on a packed weight."""
    if layer.op != "call_function" or layer.target not in PACKED:
        return None
    x = layer.args[0]
    if not native.is_coded(x) and not _is_reflected(native, layer, x):
        return None
    _, op, op_relu = PACKED[layer.target]
    chosen = op if relu is None else op_relu
    packed = None if chosen is None else _packed(native, layer)
    if packed is None:
        return None
    codes = native.coded(x) if native.is_coded(x) else _reflected(native, x)
    return native.graph.call_function(chosen, (codes, packed, node.args[1], node.args[2]))


def _is_reflected(native: NativeGraph, layer: fx.Node, x: Any) -> bool:
    """Is the input of this 2-d convolution a coded value with a reflected border? That much works on codes."""
    is_pad = isinstance(x, fx.Node) and x.op == "call_function" and x.target is F.pad and x.args[2:] == ("reflect",)
    return layer.target is F.conv2d and is_pad and native.is_coded(x.args[0])


def _reflected(native: NativeGraph, pad: Any) -> fx.Node:
    return adopt(native.graph.call_function(F.pad, (native.coded(pad.args[0]), *pad.args[1:])), pad)


def _packed(native: NativeGraph, layer: fx.Node) -> fx.Node | None:
    """A get_attr of the layer's packed weight; None where the engine refuses it."""
    weight, bias = layer.args[1], layer.args[2]
    held = native.weight_of(weight)
    if held is None or (isinstance(bias, fx.Node) and bias.op != "get_attr"):
        return None
    name = native.own_name(f"{attribute_name(weight.args[0])}_packed")  # type: ignore[union-attr]
    if name not in native.constants:
        pack = PACKED[layer.target][0]  # type: ignore[index]
        try:
            native.constants[name] = pack(held, native.tensor_of(bias), *layer.args[3:])
        except RuntimeError as error:
            native.refuse(layer, f"{native.target} refuses its weight: {str(error).splitlines()[0]}")
            return None
    return native.graph.create_node("get_attr", name)


def dynamic_linear(native: NativeGraph, node: fx.Node) -> fx.Node | None:
    """linear on an input that is quantized as it comes."""
    if node.op != "call_function" or node.target is not F.linear or node in native.avoid:
        return None
    value = node.args[0]
    codes = value.args[0] if isinstance(value, fx.Node) and value.args else None
    scale = codes.args[1] if isinstance(codes, fx.Node) and len(codes.args) > 1 else None
    qparams = scale.args[0] if isinstance(scale, fx.Node) and scale.target is operator.getitem else None
    if not isinstance(qparams, fx.Node) or qparams.target is not qdq.choose_qparams or len(qparams.args) != 2:
        return None  # a third argument asks for fewer bits than the kernel has
    packed = _packed(native, node)
    if packed is None:
        return None
    x, is_reduced = qparams.args
    arguments = (native.values[x], packed, is_reduced)  # type: ignore[index]
    return native.graph.call_function(torch.ops.quantized.linear_dynamic.default, arguments)


def half_linear(native: NativeGraph, node: fx.Node) -> fx.Node | None:
    """linear on a weight that is held as float16, where the engine has a kernel for it."""
    if node.op != "call_function" or node.target is not F.linear or native.target not in HALF_ENGINES:
        return None
    if node in native.avoid or held_as(node, native.canonical) != HALF_WEIGHTS:
        return None
    half, bias = node.args[1].args[0], node.args[2]  # type: ignore[union-attr]
    name = native.own_name(f"{attribute_name(half)}_packed")
    native.constants[name] = pack_half_linear(native.tensor_of(half), native.tensor_of(bias))
    arguments = (native.values[node.args[0]], native.graph.create_node("get_attr", name))  # type: ignore[index]
    return native.graph.call_function(torch.ops.quantized.linear_dynamic_fp16.default, arguments)
