"""Values that depend on the model's own state only, so that a branch on a flag or a counter in a buffer is decided."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

_IN_PLACE = frozenset((
    operator.setitem, operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv, operator.imod,
    operator.ipow, operator.imatmul, operator.iand, operator.ior, operator.ixor, operator.ilshift, operator.irshift,
))  # fmt: skip


def constant_of(node: fx.Node, fetch: Callable[[str], Any]) -> Any | None:
    """The value of a node computed from parameters and buffers alone; None when an input or a write is involved."""
    chain: dict[fx.Node, None] = {}
    unseen = [node]
    while unseen:
        one = unseen.pop()
        is_state = one.op == "get_attr" and not any(_writes(user) for user in one.users)
        if not is_state and (one.op not in ("call_function", "call_method") or not one.all_input_nodes or _writes(one)):
            return None
        chain.pop(one, None)
        chain[one] = None
        unseen.extend(one.all_input_nodes)
    values: dict[fx.Node, Any] = {}
    with torch.no_grad():
        for one in reversed(chain):
            values[one] = _run(one, values, fetch)
    return values[node]


def _run(node: fx.Node, values: dict[fx.Node, Any], fetch: Callable[[str], Any]) -> Any:
    if node.op == "get_attr":
        return fetch(str(node.target))
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    assert callable(node.target)
    return node.target(*args, **kwargs)


def _writes(node: fx.Node) -> bool:
    if node.op == "call_method":
        return str(node.target).endswith("_") and not str(node.target).endswith("__")
    return node.target in _IN_PLACE or "out" in node.kwargs
