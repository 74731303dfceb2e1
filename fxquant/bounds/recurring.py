"""Recurrent layers: torch's fused float calls written out as `fxquant.recurrent` has them, and a GRU's step as a whole.

h' = z h + (1 - z) n,   e' = z e_h + (1 - z) e_n + |h - n| e_z + e_z (e_h + e_n)      z is between 0 and 1
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from fxquant import recurrent
from fxquant.bounds.bounded import RULES, Bounded, NoBound, lifted, made, rule


def _layer(op: Callable[..., Any], states: int) -> Callable[..., Any]:
    def layer(
        input: Any,
        hx: Any,
        weights: Any,
        has_biases: bool,
        num_layers: int,
        dropout: float,
        training: bool,
        is_bidirectional: bool,
        is_batch_first: bool,
    ) -> Any:
        size, cells = (4 if has_biases else 2), num_layers * (2 if is_bidirectional else 1)
        if not isinstance(weights, (tuple, list)) or len(weights) != size * cells or (training and dropout):
            raise NoBound("a packed sequence, a projection, or dropout")
        flat: list[Tensor | None] = []
        for start in range(0, len(weights), size):
            cell = list(weights[start : start + size])
            flat += cell if has_biases else [*cell, None, None]
        given = tuple(lifted(state) for state in (hx if isinstance(hx, (tuple, list)) else (hx,)))
        state = given if states > 1 else given[0]
        return op(lifted(input), state, flat, num_layers, is_bidirectional, is_batch_first, False, False)

    return layer


def _cell(op: Callable[..., Any]) -> Callable[..., Any]:
    def cell(input: Any, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None) -> Any:
        return op(lifted(input), hx, (w_ih, w_hh, b_ih, b_hh), False, False)

    return cell


RULES["lstm"], RULES["gru"] = _layer(recurrent.lstm, 2), _layer(recurrent.gru, 1)
RULES["lstm_cell"], RULES["gru_cell"] = _cell(recurrent.lstm_cell), _cell(recurrent.gru_cell)
RULES["rnn_tanh_cell"], RULES["rnn_relu_cell"] = _cell(recurrent.rnn_tanh_cell), _cell(recurrent.rnn_relu_cell)


@rule("_gru_step")
def gru_step(inputs: Any, hidden: Any, state: tuple[Any, ...]) -> tuple[Bounded, ...]:
    """An average of the old state and the new one: op by op its errors would add where they are averaged."""
    (input_r, input_z, input_n), (hidden_r, hidden_z, hidden_n) = (
        RULES["chunk"](lifted(gates), 3, -1) for gates in (inputs, hidden)
    )
    n = RULES["tanh"](input_n + RULES["sigmoid"](input_r + hidden_r) * hidden_n)
    z, h = RULES["sigmoid"](input_z + hidden_z), lifted(state[0])
    value = n.value + z.value * (h.value - n.value)
    apart = (h.value - n.value).abs()
    error = z.value * h.error + (1 - z.value) * n.error + z.error * (apart + h.error + n.error)
    variance = z.value.square() * h.variance + (1 - z.value).square() * n.variance + z.variance * apart.square()
    return (made(value, error, variance, of=value.abs() + n.value.abs() + h.value.abs() + error),)
