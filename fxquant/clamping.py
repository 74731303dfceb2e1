"""Activations that only clamp: the ends of one, and the op for given ends."""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from torch import fx, nn

Ends = tuple[float, float]


def ends_of(node: fx.Node) -> Ends | None:
    """What a ReLU6 or hardtanh clamps its first argument to; None for any other node, and for computed ends."""
    if not node.args or not isinstance(node.args[0], fx.Node):
        return None
    if node.op == "call_module":
        module: Any = node.graph.owning_module.get_submodule(str(node.target))  # type: ignore[union-attr]
        return (float(module.min_val), float(module.max_val)) if type(module) in (nn.ReLU6, nn.Hardtanh) else None
    if node.target is F.relu6:
        return 0.0, 6.0
    if node.target is not F.hardtanh:
        return None
    given = dict(zip(("min_val", "max_val"), node.args[1:3], strict=False)) | dict(node.kwargs)
    low, high = given.get("min_val", -1.0), given.get("max_val", 1.0)
    return (float(low), float(high)) if isinstance(low, (int, float)) and isinstance(high, (int, float)) else None


def clamped(value: fx.Node, ends: Ends) -> fx.Node:
    """The value between these ends, by a new node where its graph inserts nodes now."""
    if ends == (0.0, math.inf):
        return value.graph.call_function(F.relu, (value,))
    return value.graph.call_function(F.hardtanh, (value, *ends))
