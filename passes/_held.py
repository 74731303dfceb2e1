"""Weights in formats of fxquant's own (groups of 4 bits, small floats) and in 16-bit floats; how graphs read them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from fxquant import float_formats, groups
from fxquant.observers import WeightObserver, float_codes, grouped
from fxquant.origin import adopt
from fxquant.plan import Mode
from fxquant.qconfigs import TensorAsk

WIDENS = (groups.dequantize_groups, float_formats.dequantize_floats)


class Held(nn.Module):
    """Stands at a layer's name in the canonical graph and holds its tensors; it is never called."""

    def forward(self) -> None:
        """Not called: the graph fetches the buffers."""
        raise NotImplementedError("the graph fetches this module's buffers")

    def widened(self, graph: fx.Graph, name: str, like: fx.Node) -> fx.Node:
        """The node that gives the float32 weight."""
        raise NotImplementedError


class GroupedWeight(Held):
    """Buffers: `weight` (packed codes), `weight_scale` and `weight_zero_point` (None where symmetric), `bias`."""

    def __init__(self, weight: Tensor, bias: Tensor | None, ask: TensorAsk) -> None:
        super().__init__()
        made = grouped(weight, ask)
        self.register_buffer("weight", made.packed)
        self.register_buffer("weight_scale", made.scale)
        self.register_buffer("weight_zero_point", made.zero_point)
        self.register_buffer("bias", None if bias is None else bias.detach())
        self.group_size, self.shape = made.group_size, made.shape

    def widened(self, graph: fx.Graph, name: str, like: fx.Node) -> fx.Node:
        """dequantize_groups(weight, scale, zero point, group size, shape)."""
        zero_point = None if self.weight_zero_point is None else _get(graph, f"{name}.weight_zero_point", like)
        tensors = _get(graph, f"{name}.weight", like), _get(graph, f"{name}.weight_scale", like), zero_point
        return adopt(graph.call_function(groups.dequantize_groups, (*tensors, self.group_size, self.shape)), like)


class FloatWeight(Held):
    """Buffers: `weight` (codes of a small float format), `weight_scale` (float32), `bias`."""

    def __init__(self, weight: Tensor, bias: Tensor | None, ask: TensorAsk) -> None:
        super().__init__()
        made = float_codes(weight, ask)
        self.register_buffer("weight", made.codes)
        self.register_buffer("weight_scale", made.scale)
        self.register_buffer("bias", None if bias is None else bias.detach())
        self.fmt, self.axis = made.fmt, made.axis

    def widened(self, graph: fx.Graph, name: str, like: fx.Node) -> fx.Node:
        """dequantize_floats(weight, scale, exponent bits, mantissa bits, axis)."""
        tensors = _get(graph, f"{name}.weight", like), _get(graph, f"{name}.weight_scale", like)
        arguments = (*tensors, self.fmt.exponent_bits, self.fmt.mantissa_bits, self.axis)
        return adopt(graph.call_function(float_formats.dequantize_floats, arguments), like)


class HalfWeight(Held):
    """Buffers: `weight` (float16 or bfloat16), `bias` (float32)."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype = torch.float16) -> None:
        super().__init__()
        limit = torch.finfo(dtype).max
        self.register_buffer("weight", weight.detach().clamp(-limit, limit).to(dtype))
        self.register_buffer("bias", None if bias is None else bias.detach())

    def widened(self, graph: fx.Graph, name: str, like: fx.Node) -> fx.Node:
        """weight.to(float32)."""
        return adopt(graph.call_method("to", (_get(graph, f"{name}.weight", like), torch.float32)), like)


def _get(graph: fx.Graph, path: str, like: fx.Node) -> fx.Node:
    return adopt(graph.get_attr(path), like)


def own_ask(qconfig: Any) -> TensorAsk | None:
    """What a qconfig asks of the weight in a format of ours; None for one that torch.ao's observers serve."""
    observer = qconfig.weight()
    return observer.ask if isinstance(observer, WeightObserver) else None


def hold(weight: Tensor, bias: Tensor | None, ask: TensorAsk) -> Held:
    """The weight as `ask` wants it."""
    made: Held = (GroupedWeight if ask.granularity == "group" else FloatWeight)(weight, bias, ask)
    return made


HALVES = {torch.float16: "float16 weights", torch.bfloat16: "bfloat16 weights"}
HALF_MODES = {Mode.FLOAT16: torch.float16, Mode.BFLOAT16: torch.bfloat16}


def told(widening: fx.Node) -> str:
    """How a weight that this node widens is stored: 'int4 weights', 'e3m2 weights'; '' for any other node."""
    if widening.target is groups.dequantize_groups:
        return "int4 weights"
    if widening.target is float_formats.dequantize_floats:
        exponent_bits, mantissa_bits = widening.args[2:4]
        return f"{float_formats.FloatFormat(exponent_bits, mantissa_bits)} weights"  # type: ignore[arg-type]
    return ""
