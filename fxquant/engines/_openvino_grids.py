"""Grids of codes as OpenVINO's int8 kernels want them.

    value = (code - zero_point) · scale        signed ranges: zero_point = 0, scale = max(-low, high) / 127, int8
                                               others: all 256 codes of uint8 over the same ends

Kernels for codes take 255 or 256 levels; a range of fewer (7 bits, against sums that saturate elsewhere) is cut finer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import fx, nn

from fxquant import qdq
from fxquant.clamping import Ends, clamped, ends_of
from fxquant.engines._openvino_moves import JOINS, joined, moved
from fxquant.origin import carry

_SEVEN_BITS = 127  # fewer codes than that were asked for, to be simulated
_NOT_NEGATIVE = (
    F.relu, torch.relu, "relu", "relu_", F.relu6, torch.sigmoid, F.sigmoid, "sigmoid", torch.softmax, F.softmax,
    "softmax", F.hardsigmoid,
)  # fmt: skip
_NOT_NEGATIVE_MODULES = (nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Softmax, nn.Hardsigmoid)


class Grid(NamedTuple):
    """The values that a quantize can give."""

    scale: float
    zero_point: int
    low: int
    high: int
    dtype: torch.dtype

    @property
    def limits(self) -> tuple[float, int, int, int, torch.dtype]:
        """The arguments of quantize after its input."""
        return self.scale, self.zero_point, self.low, self.high, self.dtype

    @property
    def ends(self) -> Ends:
        """The smallest and the largest value."""
        return (self.low - self.zero_point) * self.scale, (self.high - self.zero_point) * self.scale

    @property
    def for_kernels(self) -> Grid:
        """The grid that an int8 kernel reads in its place; itself where it simulates fewer bits."""
        is_symmetric = (self.zero_point, self.low, self.high) == (0, -128, 127)
        if is_symmetric or self.high - self.low < _SEVEN_BITS:
            return self
        low, high = self.ends
        if self.zero_point == self.low:
            return self if self.high - self.low == 255 else Grid(high / 255, 0, 0, 255, torch.uint8)
        return Grid(max(-low, high) / 127, 0, -128, 127, torch.int8)

    def without_clamps(self, value: fx.Node) -> tuple[fx.Node, Grid, Ends | None]:
        """(what the clamps before this grid read, a grid that clamps as they do, the ends of what went)."""
        grid, gone = self, None
        while (ends := ends_of(value)) is not None and len(value.users) == 1:
            narrowed = grid._narrowed(*ends)
            if narrowed is None:
                break
            grid, gone = narrowed, ends if gone is None else (max(gone[0], ends[0]), min(gone[1], ends[1]))
            value = value.args[0]  # type: ignore[assignment]
        return value, grid, gone

    def _narrowed(self, low: float, high: float) -> Grid | None:
        """This grid within a clamp: as it is, or with its upper end moved where both begin at zero."""
        own_low, own_high = self.ends
        slack = self.scale / 2
        if low <= own_low + slack and own_high - slack <= high:
            return self
        return self._replace(scale=high / (self.high - self.low)) if low == own_low == 0.0 else None


def grid_of(node: Any) -> Grid | None:
    """The grid of a quantize of a static activation; None for any other node."""
    if not isinstance(node, fx.Node) or node.target is not qdq.quantize_per_tensor:
        return None
    limits: Any = node.args[1:]
    return None if any(isinstance(limit, fx.Node) for limit in limits) else Grid(*limits)


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
