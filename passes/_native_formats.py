"""Layers whose weights alone are narrow, where torch has a kernel that pays: bfloat16 layers, look-ups in int4 tables.

Linear layers on int4 and int8 weights are widened ahead: torch's own kernels for them (`_weight_int4pack_mm_for_cpu`,
`_weight_int8pack_mm`) are faster than float32 for one row of a wide layer only, and only with activations rounded to
bfloat16; from 16 rows on they are slower (torch 2.13).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from fxquant import groups, recurrent
from fxquant.keep_float import BY_DECISION
from fxquant.passes._canonical import attribute_name
from fxquant.passes._weights import BFLOAT16_WEIGHTS, held_as
from fxquant.placed import placed_as
from fxquant.targets import isa

if TYPE_CHECKING:
    from fxquant.passes._native_graph import NativeGraph

PLACED_LAYERS = _BFLOAT16 = (F.linear, F.conv1d, F.conv2d, F.conv3d)


def lower(native: NativeGraph, node: fx.Node) -> fx.Node | None:
    """The kernel's call; None for other nodes, and where the CPU has none."""
    if placed_as(node) == "bfloat16":
        return _placed_layer(native, node)
    if node.op != "call_function" or node in native.avoid:
        return None
    if node.target in _BFLOAT16:
        return _bfloat16_layer(native, node)
    if node.target is F.embedding:
        return _grouped_table(native, node)
    return _float_recurrent(native, node) if node.target in _FLOAT_KERNELS else None


def _bfloat16_layer(native: NativeGraph, node: fx.Node) -> fx.Node | None:
    if not isa().bf16 or held_as(node, native.canonical) != BFLOAT16_WEIGHTS:
        return None
    half, bias = node.args[1].args[0], node.args[2]  # type: ignore[union-attr]
    if isinstance(bias, fx.Node) and bias.op != "get_attr":
        return None
    name = attribute_name(half)
    weight = native.hold(f"{name}_bf16", native.tensor_of(half))
    held = None if bias is None else native.hold(f"{name}_bias_bf16", native.tensor_of(bias).to(torch.bfloat16))
    arguments = (native.values[node.args[0]], weight, held, *node.args[3:])  # type: ignore[index]
    made: fx.Node = native.graph.call_function(KERNELS[node.target], arguments)  # type: ignore[index]
    return made


def _placed_layer(native: NativeGraph, node: fx.Node) -> fx.Node | None:
    """A layer that placement put in bfloat16, on its int8 weight: widened ahead."""
    if node.op != "call_function" or node.target not in PLACED_LAYERS or not isa().bf16:
        return None
    if native.avoid.get(node, BY_DECISION) != BY_DECISION:
        return None  # the parity check found it wanting
    weight, bias = node.args[1], node.args[2]
    held = native.weight_of(weight)
    if held is None or (isinstance(bias, fx.Node) and bias.op != "get_attr"):
        return None
    name = attribute_name(weight.args[0])  # type: ignore[union-attr]
    half = native.hold(f"{name}_bf16", held.dequantize().to(torch.bfloat16))
    half_bias = None if bias is None else native.hold(f"{name}_bias_bf16", native.tensor_of(bias).to(torch.bfloat16))
    arguments = (native.values[node.args[0]], half, half_bias, *node.args[3:])  # type: ignore[index]
    made: fx.Node = native.graph.call_function(KERNELS[node.target], arguments)
    return made


def linear_bf16(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Linear in bfloat16: products are summed in float32, the result is rounded."""
    return F.linear(x.to(torch.bfloat16), weight, bias).to(torch.float32)


def _convolution(name: str) -> Any:
    function = getattr(F, name)

    def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, *options: Any) -> Tensor:
        found: Tensor = function(x.to(torch.bfloat16), weight, bias, *options).to(torch.float32)
        return found

    convolve.__name__ = convolve.__qualname__ = f"{name}_bf16"
    return convolve


conv1d_bf16, conv2d_bf16, conv3d_bf16 = (_convolution(f"conv{dims}d") for dims in (1, 2, 3))
KERNELS = {F.linear: linear_bf16, F.conv1d: conv1d_bf16, F.conv2d: conv2d_bf16, F.conv3d: conv3d_bf16}


def _grouped_table(native: NativeGraph, node: fx.Node) -> fx.Node | None:
    indices, table, *_ = node.args
    if not isinstance(table, fx.Node) or table.target is not groups.dequantize_groups:
        return None
    packed, scale, zero_point, group_size, shape = table.args
    tensors = [native.tensor_of(argument) for argument in (packed, scale, zero_point)]
    name = attribute_name(packed)
    held = [
        None if tensor is None else native.hold(f"{name}_{part}", tensor)
        for part, tensor in zip(("packed", "scale", "zero_point"), tensors, strict=True)
    ]
    index = native.values[indices]  # type: ignore[index]
    made: fx.Node = native.graph.call_function(embedding_int4, (index, *held, group_size, shape))
    return made


def embedding_int4(
    indices: Tensor, packed: Tensor, scale: Tensor, zero_point: Tensor | None, group_size: int, shape: tuple[int, ...]
) -> Tensor:
    """Only the rows that are looked up are widened."""
    flat = indices.reshape(-1)
    zero = None if zero_point is None else zero_point.index_select(0, flat)
    picked = packed.index_select(0, flat), scale.index_select(0, flat), zero
    rows = groups.dequantize_groups(*picked, group_size, (flat.numel(), *shape[1:]))
    return rows.view(*indices.shape, *shape[1:])


def _float_recurrent(native: NativeGraph, node: fx.Node) -> fx.Node | None:
    """torch's own float layer on widened weights, where nothing is quantized on the way."""
    arguments: Any = node.args
    x, hx, weights, layers, is_bidirectional, is_batch_first, is_dynamic, _ = arguments
    if is_dynamic:
        return None
    given = fx.map_arg((x, hx, weights), native.values.__getitem__)
    options = layers, is_bidirectional, is_batch_first
    made: fx.Node = native.graph.call_function(_FLOAT_KERNELS[node.target], (*given, *options))  # type: ignore[index]
    return made


def lstm_on_widened_weights(
    x: Tensor, hx: Any, weights: Any, layers: int, is_bidirectional: bool, is_batch_first: bool
) -> Any:
    """(output, h, c) of torch's LSTM."""
    return _run(torch.lstm, 2, x, hx, weights, layers, is_bidirectional, is_batch_first)


def gru_on_widened_weights(
    x: Tensor, hx: Any, weights: Any, layers: int, is_bidirectional: bool, is_batch_first: bool
) -> Any:
    """(output, h) of torch's GRU."""
    return _run(torch.gru, 1, x, hx, weights, layers, is_bidirectional, is_batch_first)


def _run(
    kernel: Any,
    states: int,
    x: Tensor,
    hx: Any,
    weights: Any,
    layers: int,
    is_bidirectional: bool,
    is_batch_first: bool,
) -> Any:
    has_biases, is_batched = weights[2] is not None, x.dim() == 3
    flat = [weight for weight in weights if weight is not None]
    sequence, is_batch_first = (x, is_batch_first) if is_batched else (x.unsqueeze(1), False)
    if hx is None:
        steps = sequence.transpose(0, 1) if is_batch_first else sequence
        hx = recurrent.zeros(steps, states, layers * (2 if is_bidirectional else 1), weights[1].shape[1])
    else:
        hx = hx if isinstance(hx, (tuple, list)) else (hx,)
        hx = tuple(hx) if is_batched else tuple(state.unsqueeze(1) for state in hx)
    state = list(hx) if states > 1 else hx[0]
    found = kernel(sequence, state, flat, has_biases, layers, 0.0, False, is_bidirectional, is_batch_first)
    return found if is_batched else tuple(part.squeeze(1) for part in found)


_FLOAT_KERNELS = {recurrent.lstm: lstm_on_widened_weights, recurrent.gru: gru_on_widened_weights}
