"""The canonical graph in the words that inductor's int8 patterns look for, on a copy of it.

    quantize(x, s, z, 0, 255, uint8)       ⇒   quantized_decomposed.quantize_per_tensor
    quantize(x, s, z, -128, 127, int8)     ⇒   the same with z + 128, 0, 255, uint8: equal values, since oneDNN's
                                               convolution takes unsigned codes alone
    conv(x', dequantize(w, s, 0))          ⇒   conv(x', quantized_decomposed.dequantize_per_channel(w, s, 0))

A weight is spelled so only where its layer can match: inductor folds any other dequantize into a float constant, but
never this one. The kernels clamp to the full range of a byte, so narrower ranges stay plain arithmetic.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from fxquant import qdq, recurrent
from fxquant.aliasing import stored_buffers
from fxquant.engines.engine import EngineRefusal
from fxquant.graphmodule import copied
from fxquant.torch_ao import decomposed_ops
from fxquant.values import fetched

FUSED = (F.conv1d, F.conv2d, F.linear)  # what has int8 patterns: other layers compute on a float weight
CANONICAL = "fxq_canonical"  # key in meta['custom'], which torch's tracers carry along

_SMALL_SCALE = 6.1e-5  # torch's kernels choose no smaller scale


def decomposed_op(name: str) -> Any:
    """An op on plain integer tensors of torch's, such as 'quantize_per_tensor.default'."""
    packet, _, overload = name.partition(".")
    return getattr(getattr(decomposed_ops(), packet), overload)


def decomposed(canonical: fx.GraphModule, plain: frozenset[str] = frozenset()) -> fx.GraphModule:
    """A copy in inductor's words; the layers named in `plain` compute in float. EngineRefusal for what has no form."""
    _check(canonical)
    made = copied(canonical)
    for node in made.graph.nodes:
        node.meta["custom"] = {CANONICAL: node.name}
    on_codes = [node for node in made.graph.nodes if node.name not in plain and _is_layer_on_codes(node, made)]
    for node in list(made.graph.nodes):
        if node.op == "call_function" and node.target in _WRITTEN:
            _WRITTEN[node.target](node)
    for node in on_codes:
        _spell_weight(made, node)
    made.graph.eliminate_dead_code()
    made.recompile()
    return made


def layers_on_codes(canonical: fx.GraphModule) -> tuple[str, ...]:
    """Names of the layers whose input and weight are codes that the patterns can take."""
    return tuple(node.name for node in canonical.graph.nodes if _is_layer_on_codes(node, canonical))


def _is_layer_on_codes(node: fx.Node, graph_module: fx.GraphModule) -> bool:
    """A convolution or linear layer on codes of full range, with symmetric int8 weights."""
    if node.op != "call_function" or node.target not in FUSED:
        return False
    return _is_activation(node.args[0]) and _is_symmetric_weight(node.args[1], graph_module)


def _is_activation(node: Any) -> bool:
    is_dequantize = isinstance(node, fx.Node) and node.target is qdq.dequantize_per_tensor
    return is_dequantize and isinstance(node.args[0], fx.Node) and _is_full(node.args[0])


def _is_full(node: fx.Node) -> bool:
    """A quantize to all codes of its dtype."""
    return node.target is qdq.quantize_per_tensor and qdq.FULL.get(node.args[5]) == (node.args[3], node.args[4])  # type: ignore[arg-type]


def _is_symmetric_weight(node: Any, graph_module: fx.GraphModule) -> bool:
    if not isinstance(node, fx.Node) or node.target not in (qdq.dequantize_per_channel, qdq.dequantize_per_tensor):
        return False
    codes, _, zero_point = (_value(argument, graph_module) for argument in node.args[:3])
    if not isinstance(codes, Tensor) or codes.dtype is not torch.int8:
        return False
    is_along_rows = node.target is qdq.dequantize_per_tensor or node.args[3] == 0
    return bool(is_along_rows and zero_point is not None and not torch.as_tensor(zero_point).any())


def _value(argument: Any, graph_module: fx.GraphModule) -> Any:
    """The constant behind an argument; None where it is computed."""
    if not isinstance(argument, fx.Node):
        return argument
    return fetched(graph_module, str(argument.target)) if argument.op == "get_attr" else None


def _check(canonical: fx.GraphModule) -> None:
    for node in canonical.graph.nodes:
        if node.op == "call_function" and getattr(node.target, "__module__", "") == recurrent.__name__:
            raise EngineRefusal(f"it would unroll {node.target.__name__} step by step", node.name)
    if stored := stored_buffers(canonical.graph):
        raise EngineRefusal(f"the graph writes to its buffer '{stored[0]}', and frozen constants do not change")


# Each node in inductor's words --------------------------------------------------------------------------------------


def _quantize(node: fx.Node) -> None:
    x, scale, zero_point, low, high, dtype = node.args
    if not _is_full(node):
        return
    if isinstance(scale, fx.Node):  # of a dynamic activation, computed from the tensor itself
        node.target, node.args = decomposed_op("quantize_per_tensor.tensor"), (x, scale, zero_point, low, high, dtype)
        return
    if dtype is torch.int8 and _is_read_as_values(node):
        zero_point, low, high, dtype = zero_point + 128, 0, 255, torch.uint8  # type: ignore[operator]
    node.target, node.args = decomposed_op("quantize_per_tensor.default"), (x, scale, zero_point, low, high, dtype)


def _is_read_as_values(node: fx.Node) -> bool:
    return all(user.target is qdq.dequantize_per_tensor for user in node.users)


def _dequantize(node: fx.Node) -> None:
    """Its quantize stands before it in the graph, and is written already."""
    codes = node.args[0]
    if not isinstance(codes, fx.Node):
        return
    if codes.target is decomposed_op("quantize_per_tensor.tensor"):
        node.target, node.args = decomposed_op("dequantize_per_tensor.tensor"), (codes, *codes.args[1:])
    elif codes.target is decomposed_op("quantize_per_tensor.default"):
        node.target, node.args = decomposed_op("dequantize_per_tensor.default"), (codes, *codes.args[1:])


def _choose(node: fx.Node) -> None:
    if len(node.args) == 2:  # else of fewer bits: simulated, so nothing matches
        node.target = chosen_qparams


def chosen_qparams(x: Tensor, reduce_range: bool) -> tuple[Tensor, Tensor]:
    """`qdq.choose_qparams` as a computation on tensors: scale (float64) and zero point (int64), both without dims.

    With [low, high] the range of x widened to hold zero and n = 255 (127 with `reduce_range`):

        scale = (high - low) / n          zero_point = round(-low / scale) or round(n - high / scale),
                                          of the two the one that is computed with the smaller error
    """
    levels = 127 if reduce_range else 255
    low = x.amin().clamp(max=0.0).to(torch.float64)
    high = x.amax().clamp(min=0.0).to(torch.float64)
    scale = ((high - low) / levels).to(torch.float32).to(torch.float64)
    scale = torch.where(scale == 0.0, 0.1, scale)
    stretch = torch.where(scale < _SMALL_SCALE, _SMALL_SCALE / scale, 1.0)
    low, high, scale = low * stretch, high * stretch, scale.clamp(min=_SMALL_SCALE)
    from_low, from_high = -low / scale, levels - high / scale
    is_low_nearer = (low / scale).abs() < levels + (high / scale).abs()
    zero_point = torch.where(is_low_nearer, from_low, from_high).clamp(0, levels).round()
    return scale, zero_point.to(torch.int64)


def _spell_weight(graph_module: fx.GraphModule, layer: fx.Node) -> None:
    """Give the layer a dequantize of its own weight that inductor keeps."""
    weight: Any = layer.args[1]
    codes, scale, zero_point = weight.args[:3]
    rows = fetched(graph_module, str(codes.target)).shape[0]
    values = (_value(argument, graph_module) for argument in (scale, zero_point))
    held = [torch.as_tensor(value).expand(rows).contiguous() for value in values]
    names = [f"_{layer.name}_scale", f"_{layer.name}_zero_point"]
    for name, value, dtype in zip(names, held, (torch.float32, torch.int64), strict=True):
        graph_module.register_buffer(name, value.to(dtype))
    with graph_module.graph.inserting_before(layer):
        qparams = [graph_module.graph.get_attr(name) for name in names]
        spelled = graph_module.graph.call_function(
            decomposed_op("dequantize_per_channel.default"), (codes, *qparams, 0, -128, 127, torch.int8)
        )
    spelled.meta["custom"] = {CANONICAL: layer.name}
    layer.replace_input_with(weight, spelled)


_WRITTEN = {
    qdq.quantize_per_tensor: _quantize,
    qdq.dequantize_per_tensor: _dequantize,
    qdq.choose_qparams: _choose,
}
