"""Taking a quantize → dequantize pair away: the float value that stays.

A quantize clamps, and may stand for an activation that it clamps as; without it that activation has to be there again.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from fxquant import qdq
from fxquant.clamping import clamped, ends_of
from fxquant.engines.moves import JOINS, joined, moved
from fxquant.grids import grid_of
from fxquant.origin import carry

_NOT_NEGATIVE = (
    F.relu, torch.relu, "relu", "relu_", F.relu6, torch.sigmoid, F.sigmoid, "sigmoid", torch.softmax, F.softmax,
    "softmax", F.hardsigmoid,
)  # fmt: skip
_NOT_NEGATIVE_MODULES = (nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Softmax, nn.Hardsigmoid)


def put_back(graph: fx.Graph, quantize: Any) -> fx.Node:
    """The float value that a quantize reads, clamped as the quantize clamped in the place of an activation.

    A quantize that was read from a file does not say so: one whose codes begin at zero may stand for a ReLU.
    """
    value, grid = quantize.args[0], grid_of(quantize)
    assert grid is not None
    low, high = quantize.meta.get(qdq.FOLDED, (0.0, grid.ends[1]) if grid.zero_point == grid.low else (None, None))
    if low is None or (qdq.FOLDED not in quantize.meta and _is_not_negative(value)):
        return value  # type: ignore[no-any-return]
    with graph.inserting_before(quantize):
        return carry(clamped(value, (low, high)), *quantize.users)


def _is_not_negative(value: Any) -> bool:
    if value.target in JOINS:
        return all(map(_is_not_negative, joined(value)))
    source, ends = moved(value), ends_of(value)
    if ends is not None:
        return ends[0] >= 0
    if source is not None:
        return _is_not_negative(source)
    if value.op == "call_module":
        module = value.graph.owning_module.get_submodule(str(value.target))
        return isinstance(module, _NOT_NEGATIVE_MODULES)
    return value.target in _NOT_NEGATIVE
