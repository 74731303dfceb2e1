"""Which values count positions: `arange(height)` and what arithmetic makes of it and of data, as boxes and anchors.

    xy = (2 · sigmoid(x) + grid(height, width)) · stride

Their range hangs on the size of the picture: one that was seen at another size would cut them off.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

_COUNTS: frozenset[Any] = frozenset({torch.arange})
_KEEPS: frozenset[Any] = frozenset({
    operator.add, operator.sub, operator.mul, operator.neg, operator.getitem, torch.add, torch.sub, torch.mul, "add",
    "sub", "mul", torch.meshgrid, torch.stack, torch.cat, torch.flatten, torch.reshape, torch.unsqueeze, torch.squeeze,
    torch.transpose, torch.permute, torch.repeat_interleave, "flatten", "view", "reshape", "unsqueeze", "squeeze",
    "expand", "expand_as", "repeat", "repeat_interleave", "to", "float", "type_as", "contiguous", "clone", "transpose",
    "permute", operator.truediv, torch.div, "div",
})  # fmt: skip

_SHAPES: frozenset[Any] = frozenset({
    getattr, "size", "dim", torch.full_like, torch.ones_like, torch.zeros_like,
})  # fmt: skip


def positions(graph_module: fx.GraphModule) -> set[fx.Node]:
    """Values whose range hangs on a size, and that no layer reads, nor what they are joined with: those want codes."""
    counting, found = _counting(graph_module), set[fx.Node]()
    for node in reversed(graph_module.graph.nodes):
        is_free = (reader in found or reader.op == "output" or _asks_for_the_shape(reader) for reader in node.users)
        if node in counting and all(is_free):
            found.add(node)
    return found


def _counting(graph_module: fx.GraphModule) -> set[fx.Node]:
    found: set[fx.Node] = set()
    for node in graph_module.graph.nodes:
        is_count = node.target in _COUNTS and bool(node.all_input_nodes)
        if is_count or (_keeps(node) and any(source in found for source in node.all_input_nodes)):
            found.add(node)
    return found


def _keeps(node: fx.Node) -> bool:
    is_observer = node.op == "call_module" and "activation_post_process" in str(node.target)
    return is_observer or node.target in _KEEPS


def _asks_for_the_shape(node: fx.Node) -> bool:
    return node.target in _SHAPES
