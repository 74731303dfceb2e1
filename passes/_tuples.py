"""Putting several nodes in the place of one node that gave a tuple."""

from __future__ import annotations

import operator
from typing import Any

from torch import fx

from fxquant.origin import carry


def substitute(graph: fx.Graph, node: fx.Node, value: Any, owner: fx.Node | None = None) -> None:
    """Let everything that reads `node` read `value`: a node, None, or a tuple of these, which getitem looks into.

    The getitems that go are told where `owner` is, or where the item itself is that they took.
    """
    for user in list(node.users):
        if isinstance(value, tuple) and user.op == "call_function" and user.target is operator.getitem:
            index = user.args[1]
            if isinstance(index, int):
                heir = owner or value[index]
                if isinstance(heir, fx.Node):
                    carry(heir, heir, user)
                substitute(graph, user, value[index], owner)
                continue
        _replace(user, node, value)
    graph.erase_node(node)


def _replace(user: fx.Node, node: fx.Node, value: Any) -> None:
    def chosen(source: fx.Node) -> Any:
        return value if source is node else source

    user.args = fx.map_arg(user.args, chosen)
    user.kwargs = fx.map_arg(user.kwargs, chosen)


def reads_only_first(node: fx.Node) -> bool:
    """Does everything that reads this tuple take its first item and nothing else?"""
    return all(
        user.op == "call_function" and user.target is operator.getitem and user.args[1] == 0 for user in node.users
    )
