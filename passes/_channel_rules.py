"""Which rule follows channels through a call, for every kind of call that has one."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from fxquant.passes._channel_flow import Rule
from fxquant.passes._channel_layers import LAYERS
from fxquant.passes._channel_math import MATH, is_pointwise, pointwise
from fxquant.passes._channel_moves import MOVES
from fxquant.passes._channel_reshapes import RESHAPES

_RULES: dict[Any, Rule] = {**LAYERS, **MATH, **MOVES, **RESHAPES}


def rule_of(node: fx.Node, module: nn.Module | None) -> Rule | None:
    """The rule of a call; None where channels cannot be followed. A subclass of a layer may do anything."""
    if module is not None:
        return _RULES.get(type(module))
    return _RULES.get(node.target) or (pointwise if is_pointwise(node.target) else None)
