"""The mark of a node that stays float whatever the plan says, and why."""

from __future__ import annotations

from torch import fx

_KEY = "fxq_keep_float"


def keep_float(node: fx.Node, reason: str) -> None:
    """From here on this node gets no qconfig."""
    node.meta[_KEY] = reason


def is_kept_float(node: fx.Node) -> bool:
    """Was this node marked?"""
    return _KEY in node.meta
