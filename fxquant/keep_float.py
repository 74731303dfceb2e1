"""Nodes that stay float32 whatever the plan says, and why. The mark travels in node.meta; observers read it."""

from __future__ import annotations

from torch import fx

BY_DECISION = "it stays float by decision"  # what a lowering is told of nodes with the mark
_KEPT = "fxq_keep_float"


def keep_float(node: fx.Node, reason: str) -> None:
    """From here on no pass folds, fuses or quantizes `node`."""
    node.meta[_KEPT] = reason


def is_kept_float(node: fx.Node) -> bool:
    """Whether an earlier pass said that the node stays float32."""
    return _KEPT in node.meta


def kept_because(node: fx.Node) -> str:
    """The reason of the mark; empty where there is none."""
    reason: str = node.meta.get(_KEPT, "")
    return reason
