"""Recurrent layers in plain torch: what the engines' dynamic kernels compute, step by step, on dequantized weights.

    x' = dequantize(quantize(x))  with the range of the whole sequence,   h' likewise at each step
    gates = x' @ w_ih.T + b_ih + h' @ w_hh.T + b_hh

With `is_dynamic` False nothing is quantized on the way, which is what float16 weights want. Weights come as flat tuples
(w_ih, w_hh, b_ih, b_hh) for each layer, and for each direction within it; a bias may be None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function, has_torch_function_unary

from fxquant import qdq

Weights = Sequence[Any]  # of Tensor | None
Step = Callable[[Tensor, Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]  # (input gates, hidden gates, state) → state
# (sequence, first states, number of the cell, is it backward) → (outputs of all steps, last states)
Run = Callable[[Tensor, tuple[Tensor, ...], int, bool], tuple[Tensor, tuple[Tensor, ...]]]


def lstm(
    x: Tensor,
    hx: tuple[Tensor, Tensor] | None,
    weights: Weights,
    num_layers: int,
    is_bidirectional: bool,
    is_batch_first: bool,
    is_dynamic: bool,
    is_reduced: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(output, h, c) of an LSTM; shapes as in torch.nn.LSTM."""
    shape = num_layers, is_bidirectional, is_batch_first, is_dynamic, is_reduced
    output, (h, c) = _layers(x, hx, weights, _lstm_step, 2, *shape)
    return output, h, c


def gru(
    x: Tensor,
    hx: Tensor | None,
    weights: Weights,
    num_layers: int,
    is_bidirectional: bool,
    is_batch_first: bool,
    is_dynamic: bool,
    is_reduced: bool,
) -> tuple[Tensor, Tensor]:
    """(output, h) of a GRU; shapes as in torch.nn.GRU."""
    shape = num_layers, is_bidirectional, is_batch_first, is_dynamic, is_reduced
    output, (h,) = _layers(x, None if hx is None else (hx,), weights, _gru_step, 1, *shape)
    return output, h


def lstm_cell(
    x: Tensor, hx: tuple[Tensor, Tensor] | None, weights: Weights, is_dynamic: bool, is_reduced: bool
) -> tuple[Tensor, Tensor]:
    """(h, c) of one step of an LSTM."""
    h, c = _cell(x, hx, weights, _lstm_step, 2, is_dynamic, is_reduced)
    return h, c


def gru_cell(x: Tensor, hx: Tensor | None, weights: Weights, is_dynamic: bool, is_reduced: bool) -> Tensor:
    """h of one step of a GRU."""
    return _cell(x, None if hx is None else (hx,), weights, _gru_step, 1, is_dynamic, is_reduced)[0]


def rnn_tanh_cell(x: Tensor, hx: Tensor | None, weights: Weights, is_dynamic: bool, is_reduced: bool) -> Tensor:
    """h of one step of an Elman cell with tanh."""
    return _cell(x, None if hx is None else (hx,), weights, _tanh_step, 1, is_dynamic, is_reduced)[0]


def rnn_relu_cell(x: Tensor, hx: Tensor | None, weights: Weights, is_dynamic: bool, is_reduced: bool) -> Tensor:
    """h of one step of an Elman cell with relu."""
    return _cell(x, None if hx is None else (hx,), weights, _relu_step, 1, is_dynamic, is_reduced)[0]


def zeros(x: Tensor, states: int, layers: int, hidden_size: int, *, batch_axis: int = 1) -> tuple[Tensor, ...]:
    """The initial state of `x`, (steps, batch, features) or with `batch_axis` 0 the other way, where none is given."""
    return tuple(x.new_zeros(layers, x.shape[batch_axis], hidden_size) for _ in range(states))


def over_layers(
    x: Tensor,
    hx: tuple[Tensor, ...] | None,
    run: Run,
    states: int,
    hidden_size: int,
    num_layers: int,
    is_bidirectional: bool,
    is_batch_first: bool,
    *,
    batch_axis: int = 1,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """(output, last states), shaped as torch's layers shape them, of cells that `run` runs over whole sequences.

    `batch_axis`: where those sequences have the batch, which is one where `x` has none.
    """
    is_batched, directions = x.dim() == 3, 2 if is_bidirectional else 1
    is_turned = is_batched and is_batch_first != (batch_axis == 0)
    sequence = x.unsqueeze(batch_axis) if not is_batched else x.transpose(0, 1) if is_turned else x
    if hx is None:
        hx = zeros(sequence, states, num_layers * directions, hidden_size, batch_axis=batch_axis)
    elif not is_batched:
        hx = tuple(state.unsqueeze(1) for state in hx)
    last: list[tuple[Tensor, ...]] = []
    for forward in range(0, num_layers * directions, directions):
        outputs = []
        for index in range(forward, forward + directions):
            output, state = run(sequence, tuple(part[index] for part in hx), index, index > forward)
            outputs.append(output)
            last.append(state)
        sequence = torch.cat(outputs, -1) if is_bidirectional else outputs[0]
    final = tuple(torch.stack([state[part] for state in last]) for part in range(states))
    if not is_batched:
        return sequence.squeeze(batch_axis), tuple(part.squeeze(1) for part in final)
    return sequence.transpose(0, 1) if is_turned else sequence, final


def _layers(
    x: Tensor,
    hx: tuple[Tensor, ...] | None,
    weights: Weights,
    step: Step,
    states: int,
    num_layers: int,
    is_bidirectional: bool,
    is_batch_first: bool,
    is_dynamic: bool,
    is_reduced: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    def run(
        sequence: Tensor, state: tuple[Tensor, ...], index: int, is_backward: bool
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        of_cell = weights[4 * index : 4 * index + 4]
        return _sequence(sequence, state, of_cell, step, is_backward, is_dynamic, is_reduced)

    shape = num_layers, is_bidirectional, is_batch_first
    return over_layers(x, hx, run, states, weights[1].shape[1], *shape)


def _sequence(
    x: Tensor,
    state: tuple[Tensor, ...],
    weights: Weights,
    step: Step,
    is_backward: bool,
    is_dynamic: bool,
    is_reduced: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One layer in one direction over (steps, batch, features)."""
    w_ih, w_hh, b_ih, b_hh = weights
    inputs = F.linear(_seen(x, is_dynamic, is_reduced), w_ih, b_ih)
    outputs = []
    for gates in reversed(inputs.unbind(0)) if is_backward else inputs.unbind(0):
        state = step(gates, F.linear(_seen(state[0], is_dynamic, is_reduced), w_hh, b_hh), state)
        outputs.append(state[0])
    return torch.stack(outputs[::-1] if is_backward else outputs), state


def _cell(
    x: Tensor,
    hx: tuple[Tensor, ...] | None,
    weights: Weights,
    step: Step,
    states: int,
    is_dynamic: bool,
    is_reduced: bool,
) -> tuple[Tensor, ...]:
    w_ih, w_hh, b_ih, b_hh = weights
    state = tuple(x.new_zeros(*x.shape[:-1], w_hh.shape[1]) for _ in range(states)) if hx is None else tuple(hx)
    inputs = F.linear(_seen(x, is_dynamic, is_reduced), w_ih, b_ih)
    return step(inputs, F.linear(_seen(state[0], is_dynamic, is_reduced), w_hh, b_hh), state)


def _seen(x: Tensor, is_dynamic: bool, is_reduced: bool) -> Tensor:
    """What a dynamic kernel makes of its input: quantized to 8 bits of the input's own range, and back."""
    if has_torch_function_unary(x):  # what stands for a tensor has an answer of its own
        answer: Tensor = handle_torch_function(_seen, (x,), x, is_dynamic, is_reduced)
        return answer
    if not is_dynamic:
        return x
    scale, zero_point = qdq.choose_qparams(x.detach(), is_reduced)
    if x.requires_grad:  # the same values, and gradients that pass straight through
        return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, 0, 255)
    codes = qdq.quantize_per_tensor(x, scale, zero_point, 0, 255, torch.uint8)
    return qdq.dequantize_per_tensor(codes, scale, zero_point)


def _lstm_step(inputs: Tensor, hidden: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    i, f, g, o = (inputs + hidden).chunk(4, -1)
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def _gru_step(inputs: Tensor, hidden: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    given = (inputs, hidden, *state)
    if has_torch_function(given):  # z·h + (1 - z)·n is seen to be an average only as a whole
        answer: tuple[Tensor, ...] = handle_torch_function(_gru_step, given, inputs, hidden, state)
        return answer
    (input_r, input_z, input_n), (hidden_r, hidden_z, hidden_n) = inputs.chunk(3, -1), hidden.chunk(3, -1)
    n = torch.tanh(input_n + torch.sigmoid(input_r + hidden_r) * hidden_n)
    return (n + torch.sigmoid(input_z + hidden_z) * (state[0] - n),)


def _tanh_step(inputs: Tensor, hidden: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (torch.tanh(inputs + hidden),)


def _relu_step(inputs: Tensor, hidden: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (torch.relu(inputs + hidden),)
