"""Quantized weights as plain integers: a qconfig's weight observer is run; codes, scales and bias share one name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxquant import qdq, recurrent
from fxquant.floors import without_dead_channels
from fxquant.observation import QParams, read_qparams
from fxquant.origin import adopt
from fxquant.passes._held import HALVES, WIDENS, HalfWeight, Held, hold, own_ask, told
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
    qparams = read_qparams(observer, scale, zero_point, is_weight=True)
    if qparams.axis is None or qparams.is_float_zero_point or not weight.numel():
        return qparams
    return replace(qparams, scale=without_dead_channels(qparams.scale, weight, qparams.axis))


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


def held_weight(weight: Tensor, bias: Tensor | None, qconfig: Any) -> QuantizedWeight | Held:
    """The weight as a qconfig's weight observer has it."""
    ask = own_ask(qconfig)
    if ask is not None:
        return hold(weight, bias, ask)
    qparams = observe_weight(weight, qconfig)
    return QuantizedWeight(quantize_weight(weight, qparams), qparams, bias)


def store(
    graph_module: fx.GraphModule, name: str, weight: Tensor, bias: Tensor | None, qconfig: Any
) -> QuantizedWeight | Held:
    """Put the quantized weight in the place of the module called `name`."""
    held = held_weight(weight, bias, qconfig)
    put(graph_module, name, held)
    return held


def store_half(graph_module: fx.GraphModule, name: str, module: nn.Module, dtype: torch.dtype) -> HalfWeight:
    """Put a float16 or bfloat16 weight in the place of the module called `name`."""
    held = HalfWeight(module.weight, getattr(module, "bias", None), dtype)  # type: ignore[arg-type]
    put(graph_module, name, held)
    return held


INT8_WEIGHTS, HALF_WEIGHTS, BFLOAT16_WEIGHTS = "int8 weights", *HALVES.values()


def is_widened_weight(node: Any, graph_module: fx.GraphModule) -> bool:
    """Does this node make a float32 weight of codes or of 16-bit floats that `convert` stored?"""
    if not isinstance(node, fx.Node) or not node.args:
        return False
    if node.op == "call_function" and node.target in (*qdq.DEQUANTIZE, *WIDENS):
        return all(source.op == "get_attr" for source in node.all_input_nodes)
    return half_dtype(node, graph_module) is not None


def half_dtype(node: Any, graph_module: fx.GraphModule) -> torch.dtype | None:
    """The 16-bit dtype of the constant that this node widens to float32; None for any other node."""
    if not isinstance(node, fx.Node) or node.op != "call_method" or node.target != "to" or not node.args:
        return None
    source = node.args[0]
    if not isinstance(source, fx.Node) or source.op != "get_attr" or node.args[1:] != (torch.float32,):
        return None
    held = fetched(graph_module, str(source.target))  # by what it is: a loaded graph has no HalfWeight modules
    return held.dtype if isinstance(held, Tensor) and held.dtype in HALVES else None


def held_as(node: fx.Node, graph_module: fx.GraphModule) -> str:
    """How the weight of this canonical call is stored: 'int8 weights', 'bfloat16 weights', ...; '' where as float32."""
    if node.op != "call_function" or len(node.args) < 2:
        return ""
    weight: Any = node.args[1]
    if getattr(node.target, "__module__", "") == recurrent.__name__:
        weight = node.args[2][0]  # type: ignore[index]  # of the first cell; all cells are held alike
    if not is_widened_weight(weight, graph_module):
        return ""
    half = half_dtype(weight, graph_module)
    return HALVES[half] if half is not None else told(weight) or INT8_WEIGHTS


def put(graph_module: fx.GraphModule, name: str, held: nn.Module) -> None:
    """Let `held` stand at `name`."""
    parent, _, last = name.rpartition(".")
    setattr(graph_module.get_submodule(parent), last, held)


def fetch(graph: fx.Graph, name: str, held: QuantizedWeight | Held, like: fx.Node) -> tuple[fx.Node, fx.Node | None]:
    """Nodes that give the dequantized weight and the bias; the graph's insertion point is the caller's."""

    def get(part: str) -> fx.Node:
        return adopt(graph.get_attr(f"{name}.{part}"), like)

    if isinstance(held, Held):
        return held.widened(graph, name, like), None if held.bias is None else get("bias")
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
