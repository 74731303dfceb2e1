"""The grid of a quantize: which values it can give."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import fx

from fxquant import qdq


class Grid(NamedTuple):
    """(code - zero_point) · scale for codes from low to high. In order, what quantize takes after its input."""

    scale: float
    zero_point: int
    low: int
    high: int
    dtype: torch.dtype

    @property
    def ends(self) -> tuple[float, float]:
        """The smallest and the largest value."""
        return (self.low - self.zero_point) * self.scale, (self.high - self.zero_point) * self.scale


def grid_of(node: Any) -> Grid | None:
    """The grid of a quantize of a static activation; None for any other node."""
    if not isinstance(node, fx.Node) or node.target is not qdq.quantize_per_tensor:
        return None
    limits: Any = node.args[1:]
    return None if any(isinstance(limit, fx.Node) for limit in limits) else Grid(*limits)
