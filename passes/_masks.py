"""Which values carry an additive mask: numbers far below all others, put there for a softmax to send to zero.

No 8-bit range holds both a mask's -1e9 and the scores beside it, and calibration data without padding never shows it.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx

MASK = -100.0  # a fill with values at or below this is a mask
SCALED_MASK = -1000.0  # a buffer, or (1 - attention_mask) * -10000.0

_FILLS: frozenset[Any] = frozenset({"masked_fill", torch.masked_fill, torch.where, "where", torch.full, torch.full_like,
    "new_full", "fill"})  # fmt: skip
_PRODUCTS: frozenset[Any] = frozenset({operator.mul, torch.mul, "mul", torch.multiply})
_KEEPS: frozenset[Any] = frozenset({
    operator.add, operator.sub, operator.getitem, torch.add, torch.sub, "add", "sub", torch.maximum, torch.minimum,
    operator.eq, operator.ne, torch.rsub, "rsub", "bool", "logical_not", operator.invert, "long", "int",
    "masked_fill", torch.masked_fill, torch.where, "where", "view", "reshape", "unsqueeze", "squeeze", "expand",
    "expand_as", "repeat", "to", "float", "type_as", "contiguous", "transpose", "permute", "triu", "tril", "clone",
    torch.reshape, torch.unsqueeze, torch.squeeze, torch.triu, torch.tril, torch.transpose, torch.permute, torch.cat,
})  # fmt: skip


def masked_values(graph_module: fx.GraphModule) -> set[fx.Node]:
    """Nodes whose value holds a mask, observers in between included."""
    found: set[fx.Node] = set()
    for node in graph_module.graph.nodes:
        if _makes_mask(graph_module, node) or (
            _keeps(node) and any(source in found for source in node.all_input_nodes)
        ):
            found.add(node)
    return found | _sources(found)


def _sources(masked: set[fx.Node]) -> set[fx.Node]:
    """What masks are computed from, back to the input: `(1.0 - attention_mask[:, None].float()) * -10000.0`."""
    unseen, found = [node for node in masked if node.target in _PRODUCTS], set[fx.Node]()
    while unseen:
        sources = unseen.pop().all_input_nodes
        if len(sources) == 1 and sources[0] not in found:
            found.add(sources[0])
            unseen.extend(source for source in sources if _keeps(source))
    return found


def _keeps(node: fx.Node) -> bool:
    return node.target in _KEEPS or (node.op == "call_module" and "activation_post_process" in str(node.target))


def _makes_mask(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "get_attr":
        value: Any = graph_module
        for name in str(node.target).split("."):
            value = getattr(value, name, None)
        is_float = isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 0
        is_buffer = is_float and not isinstance(value, torch.nn.Parameter)
        return is_buffer and float(value.min()) <= SCALED_MASK and float(value.max()) == 0.0
    limit = MASK if node.target in _FILLS else SCALED_MASK if node.target in _PRODUCTS else None
    return limit is not None and any(number <= limit for number in _numbers(node))


def _numbers(node: fx.Node) -> Iterator[float]:
    for argument in (*node.args, *node.kwargs.values()):
        if isinstance(argument, (int, float)) and not isinstance(argument, bool):
            yield float(argument)
