"""Recurrent layers as OpenVINO's sequences: one for each layer and direction, over (batch, steps, features).

    LSTM  gates f i c o, torch has i f c o;  bias b_ih + b_hh
    GRU   gates z r n, torch has r z n;      bias z and r summed, n's two apart: n = tanh(W x + b + r (R h + b'))

h' = (1 - z) n + z h in both. The ops have no kernels: they exist between torch.export and OpenVINO's front end.

The first of several layers may compute on codes, where |x| ≤ β is known without looking: of rows of a constant table,
which then is a table of codes of x / β.
One grid is for x and h, 8 bits over [-1, 1), and one scale for the rows of W and R together: W x = (β W)(x / β), and
|h| = |σ(o) tanh(c)| < 1. The last layer stays in float, because its h is the result: 24 dB on that grid, where the
rounding of the first layer's leaves 32. OpenVINO computes nonsense for two such layers in a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fxquant import recurrent

_LIBRARY = torch.library.Library("fxquant", "FRAGMENT")  # type: ignore[no-untyped-call]
_ARGUMENTS = "Tensor w, Tensor r, Tensor b, bool is_backward"
_LIBRARY.define(f"lstm_sequence(Tensor x, Tensor h, Tensor c, {_ARGUMENTS}, bool is_cell) -> Tensor")  # type: ignore[no-untyped-call]
_LIBRARY.define(  # type: ignore[no-untyped-call]
    "lstm_codes_sequence(Tensor x, Tensor w, Tensor r, Tensor scale, Tensor b, bool is_backward, "
    "bool is_cell) -> Tensor"
)
_LIBRARY.define(f"gru_sequence(Tensor x, Tensor h, {_ARGUMENTS}) -> Tensor")  # type: ignore[no-untyped-call]

Cell = tuple[Tensor, ...]  # (w, r, b), or on codes (w, r, scale, b)
CODES = ("w", "r", "scale", "b")
# (sequence, first states, cell, is it backward) → outputs of all steps, then each last state
Step = Callable[[Tensor, tuple[Tensor, ...], Cell, bool], tuple[Tensor, ...]]


@torch.library.register_fake("fxquant::lstm_sequence", lib=_LIBRARY)  # type: ignore[untyped-decorator]
def _lstm_shape(
    x: Tensor, h: Tensor, c: Tensor, w: Tensor, r: Tensor, b: Tensor, is_backward: bool, is_cell: bool
) -> Tensor:
    """Hidden states (batch, steps, hidden), or with `is_cell` the last cell state (batch, hidden)."""
    return torch.empty_like(c) if is_cell else x.new_empty(*x.shape[:2], r.shape[-1])


@torch.library.register_fake("fxquant::lstm_codes_sequence", lib=_LIBRARY)  # type: ignore[untyped-decorator]
def _lstm_codes_shape(
    x: Tensor, w: Tensor, r: Tensor, scale: Tensor, b: Tensor, is_backward: bool, is_cell: bool
) -> Tensor:
    """As of `lstm_sequence`."""
    batch, steps = x.shape[:2]
    return x.new_empty(batch, r.shape[-1]) if is_cell else x.new_empty(batch, steps, r.shape[-1])


@torch.library.register_fake("fxquant::gru_sequence", lib=_LIBRARY)  # type: ignore[untyped-decorator]
def _gru_shape(x: Tensor, h: Tensor, w: Tensor, r: Tensor, b: Tensor, is_backward: bool) -> Tensor:
    """Hidden states (batch, steps, hidden)."""
    return x.new_empty(*x.shape[:2], r.shape[-1])


def lstm(
    x: Tensor,
    hx: Any,
    weights: Sequence[Cell],
    num_layers: int,
    is_bidirectional: bool,
    is_batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `recurrent.lstm`, of arranged weights; `x` is x / β where the first cells are on codes."""

    def step(given: Tensor, state: tuple[Tensor, ...], cell: Cell, is_backward: bool) -> tuple[Tensor, ...]:
        if len(cell) == len(CODES):
            op, given_to = torch.ops.fxquant.lstm_codes_sequence, (given, *cell)
        else:
            op, given_to = torch.ops.fxquant.lstm_sequence, (given, *state, *cell)
        output, last = op(*given_to, is_backward, False), op(*given_to, is_backward, True)
        return output, output[:, 0 if is_backward else -1], last

    output, (h, c) = _layers(x, hx, weights, step, 2, num_layers, is_bidirectional, is_batch_first)
    return output, h, c


def gru(
    x: Tensor, hx: Any, weights: Sequence[Cell], num_layers: int, is_bidirectional: bool, is_batch_first: bool
) -> tuple[Tensor, Tensor]:
    """As `recurrent.gru`, of arranged weights."""

    def step(given: Tensor, state: tuple[Tensor, ...], cell: Cell, is_backward: bool) -> tuple[Tensor, ...]:
        output = torch.ops.fxquant.gru_sequence(given, *state, *cell, is_backward)
        return output, output[:, 0 if is_backward else -1]

    state = None if hx is None else (hx,)
    output, (h,) = _layers(x, state, weights, step, 1, num_layers, is_bidirectional, is_batch_first)
    return output, h


def lstm_module(*given: Any) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """As a float nn.LSTM returns it."""
    output, h, c = lstm(*given)
    return output, (h, c)


MODULES: dict[Any, Any] = {nn.LSTM: lstm_module, nn.GRU: gru}
LAYERS: dict[Any, Any] = {recurrent.lstm: lstm, recurrent.gru: gru}


def arranged(layer: Any, weights: Sequence[Tensor | None]) -> list[Cell]:
    """(w, r, b) of each cell, of (w_ih, w_hh, b_ih, b_hh) of each: gates in OpenVINO's order, below an axis of 1."""
    made: list[Cell] = []
    for index in range(0, len(weights), 4):
        w, r, *biases = weights[index : index + 4]
        assert w is not None and r is not None
        b_ih, b_hh = (w.new_zeros(w.shape[0]) if bias is None else bias for bias in biases)
        parts = _of_lstm(w, r, b_ih, b_hh) if layer is not gru else _of_gru(w, r, b_ih, b_hh)
        made.append(tuple(part.unsqueeze(0).contiguous() for part in parts))
    return made


def on_codes(cell: Cell, bound: float) -> Cell:
    """(w, r, b) → int8 codes of β w and r on one scale a row, that scale, b."""
    w, r, b = cell
    w = bound * w
    scale = torch.maximum(w.abs().amax(-1), r.abs().amax(-1)).clamp(min=torch.finfo(w.dtype).tiny) / 127
    codes = [(part / scale.unsqueeze(-1)).round().clamp(-127, 127).to(torch.int8) for part in (w, r)]
    return (*codes, scale, b)


def _of_lstm(w: Tensor, r: Tensor, b_ih: Tensor, b_hh: Tensor) -> tuple[Tensor, ...]:
    def reordered(part: Tensor) -> Tensor:
        i, f, c, o = part.chunk(4)
        return torch.cat((f, i, c, o))

    return reordered(w), reordered(r), reordered(b_ih + b_hh)


def _of_gru(w: Tensor, r: Tensor, b_ih: Tensor, b_hh: Tensor) -> tuple[Tensor, ...]:
    def reordered(part: Tensor) -> Tensor:
        r, z, n = part.chunk(3)
        return torch.cat((z, r, n))

    summed, of_n = reordered(b_ih + b_hh), (b_ih.chunk(3)[2], b_hh.chunk(3)[2])
    return reordered(w), reordered(r), torch.cat((*summed.chunk(3)[:2], *of_n))


def _layers(
    x: Tensor,
    hx: tuple[Tensor, ...] | None,
    weights: Sequence[Cell],
    step: Step,
    states: int,
    num_layers: int,
    is_bidirectional: bool,
    is_batch_first: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    def run(
        sequence: Tensor, state: tuple[Tensor, ...], index: int, is_backward: bool
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        output, *last = step(sequence, state, weights[index], is_backward)
        return output, tuple(last)

    shape = num_layers, is_bidirectional, is_batch_first
    return recurrent.over_layers(x, hx, run, states, weights[0][1].shape[-1], *shape, batch_axis=0)
