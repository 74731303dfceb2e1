"""Recurrent layers on torch's own dynamic kernels: how their weights are packed, and how the kernels are called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from fxquant import recurrent
from fxquant.passes._weights import HALF_WEIGHTS, INT8_WEIGHTS, held_as
from fxquant.recurrent import zeros

if TYPE_CHECKING:
    from fxquant.passes._native_graph import NativeGraph

_OPS = torch.ops.quantized


def lower(native: NativeGraph, node: fx.Node) -> fx.Node | None:
    """The kernel's call for a canonical recurrent op; None for other nodes, and where the engine refuses."""
    if node.op != "call_function" or node.target not in KERNELS or node in native.avoid:
        return None
    is_dynamic = node.args[-2]
    if held_as(node, native.canonical) != (INT8_WEIGHTS if is_dynamic else HALF_WEIGHTS):
        return None  # these kernels quantize activations with int8 weights, and with none else
    arguments: Any = node.args
    x, hx, weights, *options, _, is_reduced = arguments
    cells = [weights[start : start + 4] for start in range(0, len(weights), 4)]
    packed = []
    for cell in cells:
        parts = _packed(native, node, cell, is_reduced, has_params=bool(options))
        if parts is None:
            return None
        packed.append(parts)
    held = tuple(
        native.hold(f"{node.name}_cell{index}_{place}", part)
        for index, parts in enumerate(packed)
        for place, part in enumerate(parts)
    )
    hidden_size = native.codes_of(cells[0][1]).shape[1]
    inputs = fx.map_arg((x, hx), native.values.__getitem__)
    made: fx.Node = native.graph.call_function(KERNELS[node.target], (*inputs, held, hidden_size, *options))
    return made


def _packed(
    native: NativeGraph, node: fx.Node, cell: Sequence[Any], is_reduced: Any, *, has_params: bool
) -> tuple[Any, ...] | None:
    """What the kernel wants of one cell: its parameters as one object, or two packed weights and two biases."""
    w_ih, w_hh = (native.codes_of(weight) for weight in cell[:2])
    biases = [native.tensor_of(bias) for bias in cell[2:]]
    b_ih, b_hh = (
        torch.zeros(weight.shape[0]) if bias is None else bias
        for weight, bias in zip((w_ih, w_hh), biases, strict=True)
    )
    prepack = _OPS.linear_prepack if w_ih.is_quantized else _OPS.linear_prepack_fp16
    try:
        ih, hh = prepack(w_ih, b_ih), prepack(w_hh, b_hh)
    except RuntimeError as error:
        if not w_ih.is_quantized:  # without a float16 kernel its weights are widened when they are used
            return None
        native.refuse(node, f"{native.target} refuses its weights: {str(error).splitlines()[0]}")
        return None
    if not has_params:
        return ih, hh, b_ih, b_hh
    if w_ih.is_quantized:
        return (_OPS.make_quantized_cell_params_dynamic(ih, hh, b_ih, b_hh, bool(is_reduced)),)
    return (_OPS.make_quantized_cell_params_fp16(ih, hh),)


def quantized_lstm(
    x: Tensor,
    hx: tuple[Tensor, Tensor] | None,
    cells: Sequence[Any],
    hidden_size: int,
    num_layers: int,
    is_bidirectional: bool,
    is_batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(output, h, c) of torch's quantized LSTM."""
    sequence, state = _entering(x, hx, 2, len(cells), hidden_size, is_batch_first)
    options = True, num_layers, 0.0, False, is_bidirectional, is_batch_first and x.dim() == 3
    output, h, c = torch.quantized_lstm(sequence, state, list(cells), *options, dtype=torch.qint8, use_dynamic=True)
    return (output, h, c) if x.dim() == 3 else (output.squeeze(1), h.squeeze(1), c.squeeze(1))


def quantized_gru(
    x: Tensor,
    hx: Tensor | None,
    cells: Sequence[Any],
    hidden_size: int,
    num_layers: int,
    is_bidirectional: bool,
    is_batch_first: bool,
) -> tuple[Tensor, Tensor]:
    """(output, h) of torch's quantized GRU."""
    given = None if hx is None else (hx,)
    sequence, (state,) = _entering(x, given, 1, len(cells), hidden_size, is_batch_first)
    options = True, num_layers, 0.0, False, is_bidirectional, is_batch_first and x.dim() == 3
    output, h = torch.quantized_gru(sequence, state, list(cells), *options)
    return (output, h) if x.dim() == 3 else (output.squeeze(1), h.squeeze(1))


def _entering(
    x: Tensor, hx: Sequence[Tensor] | None, states: int, layers: int, hidden_size: int, is_batch_first: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The sequence with a batch, and a state."""
    if x.dim() == 2:
        sequence = x.unsqueeze(1)
        return sequence, zeros(sequence, states, layers, hidden_size) if hx is None else tuple(
            h.unsqueeze(1) for h in hx
        )
    return x, zeros(x.transpose(0, 1) if is_batch_first else x, states, layers, hidden_size) if hx is None else tuple(
        hx
    )


def _cell(op: Callable[..., Any], states: int, name: str) -> Callable[..., Any]:
    def call(x: Tensor, hx: Any, cell: Sequence[Any], hidden_size: int) -> Any:
        batch = x.unsqueeze(0) if x.dim() == 1 else x
        given = (hx,) if isinstance(hx, Tensor) else hx
        state = tuple(x.new_zeros(batch.shape[0], hidden_size) for _ in range(states)) if given is None else given
        state = tuple(part.view(batch.shape[0], hidden_size) for part in state)
        result = op(batch, list(state) if states > 1 else state[0], *cell)
        if x.dim() > 1:
            return result
        return tuple(part.squeeze(0) for part in result) if states > 1 else result.squeeze(0)

    call.__name__ = call.__qualname__ = name
    return call


quantized_lstm_cell = _cell(_OPS.quantized_lstm_cell_dynamic, 2, "quantized_lstm_cell")
quantized_gru_cell = _cell(_OPS.quantized_gru_cell_dynamic, 1, "quantized_gru_cell")
quantized_rnn_tanh_cell = _cell(_OPS.quantized_rnn_tanh_cell_dynamic, 1, "quantized_rnn_tanh_cell")
quantized_rnn_relu_cell = _cell(_OPS.quantized_rnn_relu_cell_dynamic, 1, "quantized_rnn_relu_cell")

# canonical op → the kernel's call
KERNELS: dict[Callable[..., Any], Callable[..., Any]] = {
    recurrent.lstm: quantized_lstm,
    recurrent.gru: quantized_gru,
    recurrent.lstm_cell: quantized_lstm_cell,
    recurrent.gru_cell: quantized_gru_cell,
    recurrent.rnn_tanh_cell: quantized_rnn_tanh_cell,
    recurrent.rnn_relu_cell: quantized_rnn_relu_cell,
}
