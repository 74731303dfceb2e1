"""Canonical functions that look at values, as functions that do not: what torch.export traces in their place.

Recurrent layers are torch's own on the dequantized weights: their inputs are not quantized at each step, so they come
closer to the float model than the canonical loop does (by the noise of 8-bit activations).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant import recurrent
from fxquant.engines import recurrent_ops


def lstm(
    x: Tensor, hx: tuple[Tensor, Tensor] | None, weights: Sequence[Any], layers: int, both_ways: bool, batch_first: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """`recurrent.lstm` on unquantized inputs."""
    sequence, (h, c) = _batched(x, hx, weights, 2, layers, both_ways, batch_first)
    output, h, c = recurrent_ops.LSTM(sequence, h, c, _given(weights), layers, both_ways, batch_first)
    return (output, h, c) if x.dim() == 3 else (_alone(output, batch_first), h.squeeze(1), c.squeeze(1))


def gru(
    x: Tensor, hx: Tensor | None, weights: Sequence[Any], layers: int, both_ways: bool, batch_first: bool
) -> tuple[Tensor, Tensor]:
    """`recurrent.gru` on unquantized inputs."""
    sequence, (state,) = _batched(x, None if hx is None else (hx,), weights, 1, layers, both_ways, batch_first)
    output, h = recurrent_ops.GRU(sequence, state, _given(weights), layers, both_ways, batch_first)
    return (output, h) if x.dim() == 3 else (_alone(output, batch_first), h.squeeze(1))


def lstm_module(x: Tensor, hx: Any, weights: Sequence[Any], *options: Any) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """A float nn.LSTM."""
    output, h, c = lstm(x, hx, weights, *options)
    return output, (h, c)


def _batched(
    x: Tensor,
    hx: tuple[Tensor, ...] | None,
    weights: Sequence[Any],
    states: int,
    layers: int,
    both_ways: bool,
    batch_first: bool,
) -> tuple[Tensor, list[Tensor]]:
    """The sequence and its first states, with a batch of one where there is none."""
    sequence = x if x.dim() == 3 else x.unsqueeze(0 if batch_first else 1)
    if hx is None:
        shape = layers * (1 + both_ways), sequence.shape[0 if batch_first else 1], weights[1].shape[1]
        return sequence, [x.new_zeros(shape) for _ in range(states)]
    return sequence, [state if x.dim() == 3 else state.unsqueeze(1) for state in hx]


def _alone(output: Tensor, batch_first: bool) -> Tensor:
    return output.squeeze(0 if batch_first else 1)


def _given(weights: Sequence[Any]) -> list[Tensor]:
    """Without the biases where there are none: a layer has them all or none."""
    return [weight for weight in weights if weight is not None]


def look_up(indices: Tensor, codes: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Rows of codes, dequantized after they were looked up: the table itself stays small."""
    rows = F.embedding(indices, codes).to(torch.float32)
    return (rows - F.embedding(indices, zero_point.view(-1, 1))) * F.embedding(indices, scale.view(-1, 1))


LAYERS = {recurrent.lstm: lstm, recurrent.gru: gru}
CELLS = (recurrent.lstm_cell, recurrent.gru_cell, recurrent.rnn_tanh_cell, recurrent.rnn_relu_cell)
MODULES = {nn.LSTM: lstm_module, nn.GRU: gru}
