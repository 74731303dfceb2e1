"""Quantized weights as plain integers: a qconfig's weight observer is run; codes, scales and bias share one name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from fxquant import qdq
from fxquant.observation import QParams, read_qparams
from fxquant.origin import adopt
from fxquant.torch_ao import quiet
from fxquant.values import fetched


class QuantizedWeight(nn.Module):
    """Stands at a layer's name in the canonical graph and holds its tensors; it is never called.

    Buffers: `weight` (int8 or uint8 codes), `weight_scale` (float32), `weight_zero_point` (int64), `bias` (float32 or
    None).
    """

    def __init__(self, codes: Tensor, qparams: QParams, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight", codes)
        self.register_buffer("weight_scale", qparams.scale)
        self.register_buffer("weight_zero_point", qparams.zero_point)
        self.register_buffer("bias", None if bias is None else bias.detach())
        self.axis = qparams.axis
        self.is_rows = qparams.is_float_zero_point

    def forward(self) -> None:
        """Not called: the graph fetches the buffers."""
        raise NotImplementedError("the graph fetches this module's buffers")


def observe_weight(weight: Tensor, qconfig: Any) -> QParams:
    """Scale and zero point of a weight by the qconfig's own weight observer."""
    with quiet(), torch.no_grad():
        observer = qconfig.weight()
        observer(weight)
        scale, zero_point = observer.calculate_qparams()
    return read_qparams(observer, scale, zero_point)


def quantize_weight(weight: Tensor, qparams: QParams) -> Tensor:
    """The codes of a weight."""
    limits = qparams.quant_min, qparams.quant_max, qparams.dtype
    with torch.no_grad():
        if qparams.is_float_zero_point:
            scaled = (weight / qparams.scale.view(-1, 1)).add_(qparams.zero_point.view(-1, 1))  # tables are large
            return scaled.round_().clamp_(qparams.quant_min, qparams.quant_max).to(qparams.dtype)
        if qparams.axis is None:
            return qdq.quantize_per_tensor(weight, float(qparams.scale), int(qparams.zero_point), *limits)
        return qdq.quantize_per_channel(weight, qparams.scale, qparams.zero_point, qparams.axis, *limits)


def store(
    graph_module: fx.GraphModule, name: str, weight: Tensor, bias: Tensor | None, qconfig: Any
) -> QuantizedWeight:
    """Put the quantized weight in the place of the module called `name`."""
    qparams = observe_weight(weight, qconfig)
    held = QuantizedWeight(quantize_weight(weight, qparams), qparams, bias)
    put(graph_module, name, held)
    return held


class HalfWeight(nn.Module):
    """Stands at a layer's name and holds its weight as float16, its bias as float32; it is never called."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        limit = torch.finfo(torch.float16).max
        self.register_buffer("weight", weight.detach().clamp(-limit, limit).to(torch.float16))
        self.register_buffer("bias", None if bias is None else bias.detach())

    def forward(self) -> None:
        """Not called: the graph fetches the buffers."""
        raise NotImplementedError("the graph fetches this module's buffers")


def store_half(graph_module: fx.GraphModule, name: str, module: nn.Module) -> None:
    """Put a float16 weight in the place of the module called `name`."""
    put(graph_module, name, HalfWeight(module.weight, getattr(module, "bias", None)))  # type: ignore[arg-type]


INT8_WEIGHTS, HALF_WEIGHTS = "int8 weights", "float16 weights"


def is_widened_weight(node: Any, graph_module: fx.GraphModule) -> bool:
    """Does this node make a float32 weight of codes or of float16 values that `convert` stored?"""
    if not isinstance(node, fx.Node) or not node.args:
        return False
    if node.op == "call_function" and node.target in qdq.DEQUANTIZE:
        return all(source.op == "get_attr" for source in node.all_input_nodes)
    source = node.args[0]
    if node.op != "call_method" or node.target != "to" or not isinstance(source, fx.Node) or source.op != "get_attr":
        return False
    held = fetched(graph_module, str(source.target))  # by what it is: a loaded graph has no HalfWeight modules
    return isinstance(held, Tensor) and held.dtype is torch.float16 and node.args[1:] == (torch.float32,)


def held_as(node: fx.Node, graph_module: fx.GraphModule) -> str:
    """How the weight of this canonical call is stored: INT8_WEIGHTS, HALF_WEIGHTS, or '' for neither."""
    weight = node.args[1] if node.op == "call_function" and len(node.args) > 1 else None
    if not is_widened_weight(weight, graph_module):
        return ""
    return HALF_WEIGHTS if weight.op == "call_method" else INT8_WEIGHTS  # type: ignore[union-attr]


def put(graph_module: fx.GraphModule, name: str, held: nn.Module) -> None:
    """Let `held` stand at `name`."""
    parent, _, last = name.rpartition(".")
    setattr(graph_module.get_submodule(parent), last, held)


def fetch(graph: fx.Graph, name: str, held: QuantizedWeight, like: fx.Node) -> tuple[fx.Node, fx.Node | None]:
    """Nodes that give the dequantized weight and the bias; the graph's insertion point is the caller's."""

    def get(part: str) -> fx.Node:
        return adopt(graph.get_attr(f"{name}.{part}"), like)

    codes = get("weight")
    if held.is_rows:
        weight = graph.call_function(qdq.dequantize_rows, (codes, get("weight_scale"), get("weight_zero_point")))
    elif held.axis is None:
        literals = float(held.weight_scale), int(held.weight_zero_point)  # type: ignore[arg-type]
        weight = graph.call_function(qdq.dequantize_per_tensor, (codes, *literals))
    else:
        qparams = get("weight_scale"), get("weight_zero_point"), held.axis
        weight = graph.call_function(qdq.dequantize_per_channel, (codes, *qparams))
    return adopt(weight, like), None if held.bias is None else get("bias")
