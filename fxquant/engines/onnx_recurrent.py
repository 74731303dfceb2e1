"""fxquant::lstm and fxquant::gru as ONNX's LSTM and GRU, one node a layer.

    torch's gates  lstm: i f g o    gru: r z n         ONNX's  LSTM: i o f c    GRU: z r h
    torch's b_ih, b_hh                                 ONNX's  one vector: b_ih then b_hh

The rows of weights are put in order by a Gather, which `onnx_tidying` carries out on the stored codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
from onnxscript import opset21

op: Any = opset21
_GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}


def lstm(
    x: Any, h: Any, c: Any, weights: Sequence[Any], layers: int, both_ways: bool, batch_first: bool
) -> tuple[Any, Any, Any]:
    """Translation of fxquant::lstm."""
    output, (h, c) = _layers("LSTM", x, (h, c), weights, layers, both_ways, batch_first)
    return output, h, c


def gru(x: Any, h: Any, weights: Sequence[Any], layers: int, both_ways: bool, batch_first: bool) -> tuple[Any, Any]:
    """Translation of fxquant::gru."""
    output, (h,) = _layers("GRU", x, (h,), weights, layers, both_ways, batch_first)
    return output, h


def _layers(
    kind: str, x: Any, states: tuple[Any, ...], weights: Sequence[Any], layers: int, both_ways: bool, batch_first: bool
) -> tuple[Any, tuple[Any, ...]]:
    directions = 1 + both_ways
    each = len(weights) // (layers * directions)
    sequence = op.Transpose(x, perm=[1, 0, 2]) if batch_first else x
    last: list[tuple[Any, ...]] = []
    for layer in range(layers):
        cells = [
            weights[each * cell : each * (cell + 1)] for cell in range(layer * directions, (layer + 1) * directions)
        ]
        first = [_between(state, layer * directions, directions, layers) for state in states]
        sequence, *final = _layer(kind, sequence, first, cells)
        last.append(tuple(final))
    output = op.Transpose(sequence, perm=[1, 0, 2]) if batch_first else sequence
    return output, tuple(op.Concat(*parts, axis=0) if layers > 1 else parts[0] for parts in zip(*last, strict=True))


def _layer(kind: str, x: Any, states: list[Any], cells: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
    """(output, last states) of one layer: (length, batch, directions · hidden), (directions, batch, hidden)."""
    hidden = int(cells[0][1].shape[1])
    w, r = (_joined([_ordered(kind, cell[index], hidden) for cell in cells]) for index in (0, 1))
    is_biased = len(cells[0]) == 4
    b = _joined([_bias(kind, cell[2:], hidden) for cell in cells]) if is_biased else None
    options: dict[str, Any] = {"direction": "bidirectional" if len(cells) == 2 else "forward", "hidden_size": hidden}
    if kind == "LSTM":
        y, *last = op.LSTM(x, w, r, b, None, *states, **options)
    else:
        y, *last = op.GRU(x, w, r, b, None, *states, linear_before_reset=1, **options)
    return (op.Reshape(op.Transpose(y, perm=[0, 2, 1, 3]), _integers(0, 0, len(cells) * hidden)), *last)


def _ordered(kind: str, weight: Any, hidden: int) -> Any:
    return op.Unsqueeze(_gathered(kind, weight, hidden), _integers(0))


def _bias(kind: str, halves: Sequence[Any], hidden: int) -> Any:
    return op.Unsqueeze(op.Concat(*(_gathered(kind, half, hidden) for half in halves), axis=0), _integers(0))


def _gathered(kind: str, tensor: Any, hidden: int) -> Any:
    rows = [gate * hidden + row for gate in _GATES[kind] for row in range(hidden)]
    return op.Gather(tensor, _integers(*rows), axis=0)


def _joined(parts: list[Any]) -> Any:
    return parts[0] if len(parts) == 1 else op.Concat(*parts, axis=0)


def _between(state: Any, start: int, size: int, layers: int) -> Any:
    if layers == 1:
        return state
    return op.Slice(state, _integers(start), _integers(start + size), _integers(0))


def _integers(*values: int) -> Any:
    return op.Constant(value=ir.tensor(list(values), dtype=ir.DataType.INT64))
