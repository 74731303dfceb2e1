"""Runs of arithmetic with plain numbers: their steps are not quantized one by one, only the result is.

Rounding to 8 bits between two float steps would cost precision and time, and serve nobody.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from fxquant.observation import observer_of

_ARITHMETIC: frozenset[Any] = frozenset({
    operator.add, operator.sub, operator.mul, operator.truediv, torch.add, torch.sub, torch.mul, torch.div,
    "add", "sub", "mul", "div",
})  # fmt: skip
_CLAMPS: frozenset[Any] = frozenset({F.relu, F.relu6, F.hardtanh, torch.relu, torch.clamp, "relu", "clamp"})
_CLAMP_MODULES = (nn.ReLU, nn.ReLU6, nn.Hardtanh)


def observers_within(graph_module: fx.GraphModule) -> list[fx.Node]:
    """Observers whose source and readers all belong to such a run."""
    found: list[fx.Node] = []
    in_float: set[fx.Node] = set()  # clamps that read a value which is not rounded
    for node in graph_module.graph.nodes:
        if observer_of(graph_module, node) is None:
            continue
        source, readers = node.all_input_nodes[0], tuple(node.users)
        clamps = {reader for reader in readers if is_clamp(graph_module, reader)}
        if (_is_scalar(source) or source in in_float) and all(_is_scalar(r) or r in clamps for r in readers):
            found.append(node)
            in_float |= clamps
    return found


def give_own_observers(graph_module: fx.GraphModule, made: Callable[[fx.Node], nn.Module | None]) -> None:
    """prepare lets `5 * sigmoid(x)` share the observer of its input, here one fixed to [0, 1]: each gets its own.

    What shares with the arithmetic in its turn (a flatten after it) shares the new one. `made` builds an observer for
    a node, as its qconfig says.
    """
    renewed: dict[fx.Node, tuple[nn.Module, nn.Module]] = {}  # observer → (the old module, the new one)
    for node in graph_module.graph.nodes:
        observation = observer_of(graph_module, node)
        if observation is None:
            continue
        source, old = node.all_input_nodes[0], observation.module
        before = [renewed[o][1] for o in source.all_input_nodes if o in renewed and renewed[o][0] is old]
        fresh = made(source) if _is_scalar(source) else next(iter(before), None)
        if fresh is not None:
            renewed[node] = old, fresh
            graph_module.set_submodule(str(node.target), fresh)


def _is_scalar(node: fx.Node) -> bool:
    if node.target not in _ARITHMETIC or len(node.args) != 2 or node.kwargs:
        return False
    kinds = [isinstance(argument, fx.Node) for argument in node.args]
    numbers = [isinstance(argument, (int, float)) for argument in node.args]
    return sum(kinds) == 1 and sum(numbers) == 1


def is_clamp(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Is this a ReLU, ReLU6, hardtanh or clamp between numbers?"""
    if node.op == "call_module":
        return isinstance(graph_module.get_submodule(str(node.target)), _CLAMP_MODULES)
    return node.target in _CLAMPS and len(node.all_input_nodes) == 1
