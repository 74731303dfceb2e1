"""torch's LSTM and GRU as ops whose length stays open: torch.export would trace torch's own step by step.

    fxquant::lstm(x, h, c, weights, layers, both_ways, batch_first)      output, h, c
    fxquant::gru(x, h, weights, layers, both_ways, batch_first)          output, h

`weights` are flat, in torch's order: w_ih, w_hh and, where there are biases, b_ih, b_hh for each layer and direction.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_LIBRARY: Any = torch.library.Library("fxquant", "FRAGMENT")  # type: ignore[no-untyped-call]
_OPTIONS = "Tensor[] weights, int layers, bool both_ways, bool batch_first"
_LIBRARY.define(f"lstm(Tensor x, Tensor h, Tensor c, {_OPTIONS}) -> (Tensor, Tensor, Tensor)")
_LIBRARY.define(f"gru(Tensor x, Tensor h, {_OPTIONS}) -> (Tensor, Tensor)")


def has_bias(weights: list[Tensor], layers: int, both_ways: bool) -> bool:
    """Four tensors for each layer and direction, or two."""
    return len(weights) == 4 * layers * (1 + both_ways)


def lstm(
    x: Tensor, h: Tensor, c: Tensor, weights: list[Tensor], layers: int, both_ways: bool, batch_first: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """fxquant::lstm in plain torch."""
    is_biased = has_bias(weights, layers, both_ways)
    return torch.lstm(x, [h, c], weights, is_biased, layers, 0.0, False, both_ways, batch_first)


def gru(
    x: Tensor, h: Tensor, weights: list[Tensor], layers: int, both_ways: bool, batch_first: bool
) -> tuple[Tensor, Tensor]:
    """fxquant::gru in plain torch."""
    is_biased = has_bias(weights, layers, both_ways)
    return torch.gru(x, h, weights, is_biased, layers, 0.0, False, both_ways, batch_first)


def _output_like(x: Tensor, h: Tensor, both_ways: bool) -> Tensor:
    return x.new_empty((*x.shape[:2], h.shape[2] * (1 + both_ways)))


def _lstm_like(
    x: Tensor, h: Tensor, c: Tensor, weights: list[Tensor], layers: int, both_ways: bool, batch_first: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return _output_like(x, h, both_ways), torch.empty_like(h), torch.empty_like(c)


def _gru_like(
    x: Tensor, h: Tensor, weights: list[Tensor], layers: int, both_ways: bool, batch_first: bool
) -> tuple[Tensor, Tensor]:
    return _output_like(x, h, both_ways), torch.empty_like(h)


for _name, _run, _shapes in (("lstm", lstm, _lstm_like), ("gru", gru, _gru_like)):
    _LIBRARY.impl(_name, _run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fxquant::{_name}", _shapes, lib=_LIBRARY)

LSTM = torch.ops.fxquant.lstm.default
GRU = torch.ops.fxquant.gru.default
