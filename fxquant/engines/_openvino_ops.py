"""Our ops in OpenVINO's: what its PyTorch front end calls for each of them.

    quantize(x, s, z, low, high)       FakeQuantize from [(low - z) s, (high - z) s] to [low, high], Convert to codes
    dequantize(codes, s, z)            Convert to float32, Subtract z, Multiply by s

OpenVINO's own passes fold this form into FakeQuantize (activations) or keep it as compressed constants (weights).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import openvino.opset13 as ops
from openvino.frontend.pytorch import ConversionExtension
from torch import fx

Convert = Callable[[Any], list[Any]]
_NAMED = ("FakeQuantize", "Convert", "Multiply", "MatMul", "Squeeze", "LSTMSequence", "GRUSequence")
_MAXIMA = ("ReduceMax", "ReduceMin", "AdaptiveMaxPool")
_LAYERS = ("MatMul", "Convolution", "GroupConvolution")


def extensions(graph_module: fx.GraphModule) -> list[ConversionExtension]:
    """One conversion for each op of ours, and for ops of torch that the front end would take apart.

    The front end goes through the graph in order, so the nth call of a conversion is for the nth node of its op.
    """
    nodes = [node for node in graph_module.graph.nodes if node.op == "call_function"]
    named = {op: iter([node.name for node in nodes if str(node.target) == op]) for op in _CONVERSIONS}
    return [ConversionExtension(op, _naming(convert, named[op])) for op, convert in _CONVERSIONS.items()]


def _naming(convert: Convert, names: Iterator[str]) -> Convert:
    """The conversion, giving what it makes the node's name as the front end does with its own."""

    def named(context: Any) -> list[Any]:
        made, name = convert(context), next(names, "")
        for output in made:
            node = output.get_node()
            for one in (node, *(source.get_node() for source in node.input_values())):
                if one.get_type_name() in _NAMED and "/" not in one.get_friendly_name():
                    one.set_friendly_name(f"{name}/{one.get_friendly_name()}")
        return made

    return named


def _quantize(context: Any) -> list[Any]:
    scale, zero_point, low, high = (_number(context, index) for index in (1, 2, 3, 4))
    is_signed = low < 0
    bounds = [_float((limit - zero_point) * scale) for limit in (low, high)]
    levels, x = int(high - low) + 1, context.get_input(0)
    is_apart = _is_of_a_maximum(x)
    flat = ops.reshape(x, [-1], False) if is_apart else x
    codes = ops.fake_quantize(flat, *bounds, _float(low), _float(high), levels)
    made = ops.convert(codes, "i8" if is_signed else "u8")
    return [(ops.reshape(made, ops.shape_of(x), False) if is_apart else made).output(0)]


def _is_of_a_maximum(x: Any) -> bool:
    """Would its quantize be fused into a ReduceMax? That kernel keeps its maxima in the type of its result: it rounds
    them to whole numbers before it quantizes (2026.4). Flattened they are quantized by themselves;
    behind an unsqueeze the reduction would only keep its axis."""
    node = x.get_node()
    kind, given = node.get_type_name(), [one for one in node.input_values() if not _is_constant(one)]
    if kind in _MAXIMA:
        return True
    if kind == "Concat":
        return any(map(_is_of_a_maximum, given))
    is_moved = kind == "Reshape" and bool(given)
    return kind not in _LAYERS and (len(given) == 1 or is_moved) and _is_of_a_maximum(given[0])


def _is_constant(output: Any) -> bool:
    is_it: bool = output.get_node().get_type_name() == "Constant"
    return is_it


def _dequantize(context: Any) -> list[Any]:
    scale, zero_point = _number(context, 1), _number(context, 2)
    value = ops.convert(context.get_input(0), "f32")
    if zero_point:
        value = ops.subtract(value, _float(zero_point))
    return [ops.multiply(value, _float(scale)).output(0)]


def _dequantize_channels(context: Any) -> list[Any]:
    codes, scale, zero_point = (context.get_input(index) for index in (0, 1, 2))
    dims = codes.get_partial_shape().rank.get_length()
    shape = np.ones(dims, dtype=np.int64)
    shape[int(_number(context, 3))] = -1
    value = ops.convert(codes, "f32")
    if _values(zero_point).any():
        value = ops.subtract(value, ops.constant(_values(zero_point).astype(np.float32).reshape(shape)))
    return [ops.multiply(value, ops.constant(_values(scale).astype(np.float32).reshape(shape))).output(0)]


def _dequantize_blocks(context: Any) -> list[Any]:
    """Folded to floats here, of which OpenVINO makes its float type: blocks save no memory there."""
    codes, scale, zero_point = (_values(context.get_input(index)).astype(np.float32) for index in (0, 1, 2))
    size = int(_number(context, 3))

    def spread(of_block: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.repeat(of_block, size, 1)[:, : codes.shape[1]]

    return [ops.constant((codes - spread(zero_point)) * spread(scale)).output(0)]


def _lstm_sequence(context: Any) -> list[Any]:
    x, h, c, w, r, b = (context.get_input(index) for index in range(6))
    is_backward, is_cell = (bool(_number(context, index)) for index in (6, 7))
    state = [ops.unsqueeze(part, 1) for part in (h, c)]
    made = ops.lstm_sequence(x, *state, _lengths(x), w, r, b, _hidden_size(r), _direction(is_backward))
    return [ops.squeeze(made.output(2 if is_cell else 0), 1).output(0)]


def _lstm_codes_sequence(context: Any) -> list[Any]:
    """OpenVINO reads the state's codes by the zero point of x, whatever their own: 128 is zero there, and is put in.

    So this graph means what it says on int8 kernels alone: `runs_on_codes` (openvino.py) looks whether they run it.
    """
    x, w, r, scale, b = (context.get_input(index) for index in range(5))
    is_backward, is_cell = (bool(_number(context, index)) for index in (5, 6))
    sizes = ops.concat([_batch(x), ops.constant(np.array([1, _hidden_size(r)], dtype=np.int32))], 0)
    zero = ops.multiply(ops.convert(ops.constant(np.uint8(128)), "f32"), _float(1 / 128))
    h = ops.broadcast(zero, sizes)
    c = ops.broadcast(_float(0), sizes)
    scales = ops.constant(_values(scale).astype(np.float32)[..., None])
    w, r = (ops.multiply(ops.convert(codes, "f32"), scales) for codes in (w, r))
    made = ops.lstm_sequence(x, h, c, _lengths(x), w, r, b, _hidden_size(r.output(0)), _direction(is_backward))
    return [ops.squeeze(made.output(2 if is_cell else 0), 1).output(0)]


def _gru_sequence(context: Any) -> list[Any]:
    x, h, w, r, b = (context.get_input(index) for index in range(5))
    direction = _direction(bool(_number(context, 5)))
    made = ops.gru_sequence(
        x, ops.unsqueeze(h, 1), _lengths(x), w, r, b, _hidden_size(r), direction, linear_before_reset=True
    )
    return [ops.squeeze(made.output(0), 1).output(0)]


def _lengths(x: Any) -> Any:
    """The number of steps, for each row of the batch."""
    steps = ops.gather(ops.shape_of(x, "i32"), ops.constant([1]), ops.constant(0))
    return ops.broadcast(steps, _batch(x))


def _batch(x: Any) -> Any:
    """The number of rows, as a list of one."""
    return ops.gather(ops.shape_of(x, "i32"), ops.constant([0]), ops.constant(0))


def _hidden_size(r: Any) -> int:
    found: int = r.get_partial_shape()[2].get_length()
    return found


def _direction(is_backward: bool) -> str:
    return "reverse" if is_backward else "forward"


def _matmul(context: Any) -> list[Any]:
    """A transpose of the right side's last two axes becomes part of the product, which reads it as it lies."""
    left, right = context.get_input(0), context.get_input(1)
    inner = _untransposed(right)
    return [ops.matmul(left, right if inner is None else inner, False, inner is not None).output(0)]


def _untransposed(output: Any) -> Any:
    node = output.get_node()
    if node.get_type_name() != "Transpose" or node.input_value(1).get_node().get_type_name() != "Constant":
        return None
    order = list(_values(node.input_value(1)))
    swapped = [*range(len(order) - 2), len(order) - 1, len(order) - 2]
    return node.input_value(0) if len(order) > 1 and order == swapped else None


def _number(context: Any, index: int) -> float:
    found: float = context.get_values_from_const_input(index)
    return found


def _values(output: Any) -> np.ndarray[Any, Any]:
    """The numbers of a constant."""
    found: np.ndarray[Any, Any] = output.get_node().get_data()
    return found


def _float(value: float) -> Any:
    return ops.constant(np.float32(value))


_CONVERSIONS = {
    "fxquant.quantize.default": _quantize,
    "fxquant.dequantize.default": _dequantize,
    "fxquant.dequantize_channels.default": _dequantize_channels,
    "fxquant.dequantize_blocks.default": _dequantize_blocks,
    "fxquant.lstm_sequence.default": _lstm_sequence,
    "fxquant.lstm_codes_sequence.default": _lstm_codes_sequence,
    "fxquant.gru_sequence.default": _gru_sequence,
    "aten.matmul.default": _matmul,
}
