"""Ops that precision placement put in floating point. The mark is that of `keep_float`, so a saved graph has it too."""

from __future__ import annotations

from torch import fx

from fxquant.keep_float import keep_float, kept_because

_PLACED = "placed in "
FORMATS = ("float32", "bfloat16")


def place_in(node: fx.Node, floating: str, why: str) -> None:
    """From here on `node` computes in this format ('float32', 'bfloat16'), though the plan asked for int8."""
    keep_float(node, f"{_PLACED}{floating}: {why}")


def placed_as(node: fx.Node) -> str:
    """The format that a node was placed in; '' where it was not."""
    told = kept_because(node)
    return next((floating for floating in FORMATS if told.startswith(f"{_PLACED}{floating}")), "")
