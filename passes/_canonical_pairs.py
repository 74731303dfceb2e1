"""Requantization to the same grid changes nothing: the pair goes.

    q(dq(c)) = c                                       for equal scale, zero point, range and dtype
    q(move(dq(c))) = move(c)                           where each result of `move` is one value of what it reads
    q(cat(dq(c1), dq(c2))) = cat(c1, c2)               where both, and the result, have one grid
    relu(dq(c)) = dq(c)                                where zero_point = quant_min: no code stands for less than zero

dq → move → q → dq → reader        →        dq → move → reader

The float value between them is exactly on the grid, and rounding it again gives it back: with equal scales
round(((c - z)·s)·(1/s)) + z = c for every code of 8 bits (held for scales from 1e-36 to 1e36). Engines move codes
through such ops themselves, where a pair after each would be a rounding of its own.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from fxquant import qdq
from fxquant.keep_float import is_kept_float
from fxquant.ledger import Ledger
from fxquant.origin import carry, origins, site_of
from fxquant.passes._canonical import grid_of, is_activation_dequantize, is_activation_quantize
from fxquant.passes._canonical_ranges import folded


def elide(graph: fx.Graph) -> int:
    """Drop every quantize → dequantize whose input is on its grid already. How many."""
    found = 0
    for quantize in [node for node in graph.nodes if is_activation_quantize(node)]:
        source, values = quantize.args[0], list(quantize.users)
        if not isinstance(source, fx.Node) or grid_of(source) != quantize.args[1:]:
            continue
        if folded(quantize) is not None or not all(map(is_activation_dequantize, values)):
            continue  # what a range stands for is not known of the one before it
        for value in values:
            value.replace_all_uses_with(source)
            graph.erase_node(value)
        graph.erase_node(quantize)
        found += 1
    return found


def drop_relus(graph: fx.Graph, floats: Collection[fx.Node], ledger: Ledger) -> int:
    """Drop every ReLU of values that are not below zero, but those that are to stay `floats`. How many."""
    found = 0
    for node in list(graph.nodes):
        source = node.args[0] if _is_relu(node) and node not in floats else None
        if not isinstance(source, fx.Node) or not is_activation_dequantize(source) or is_kept_float(node):
            continue
        quantize: Any = source.args[0]
        _, _, zero_point, quant_min, *_ = quantize.args
        if zero_point != quant_min:
            continue
        low, high = folded(quantize) or (0.0, math.inf)
        quantize.meta[qdq.FOLDED] = max(low, 0.0), high
        ledger.settle(node, "int8", f"folded into the range of '{site_of(source)}': its codes begin at zero")
        node.replace_all_uses_with(carry(source, source, node) if origins(source) else carry(source, node))
        graph.erase_node(node)
        found += 1
    return found


def _is_relu(node: fx.Node) -> bool:
    if node.op == "call_module":
        return type(node.graph.owning_module.get_submodule(str(node.target))) is nn.ReLU  # type: ignore[union-attr]
    return node.op == "call_function" and node.target in (F.relu, torch.relu)
