"""Reading the canonical graph: which nodes quantize and dequantize activations, and with what."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxquant import qdq
from fxquant.passes._moving import moves_values


def is_activation_quantize(node: fx.Node) -> bool:
    """A quantize with a scale that is known: a static activation."""
    return (
        node.op == "call_function" and node.target is qdq.quantize_per_tensor and not isinstance(node.args[1], fx.Node)
    )


def is_activation_dequantize(node: Any) -> bool:
    """The dequantize of a static activation."""
    if not isinstance(node, fx.Node) or node.op != "call_function" or node.target is not qdq.dequantize_per_tensor:
        return False
    source = node.args[0]
    return isinstance(source, fx.Node) and is_activation_quantize(source)


def is_native(node: Any) -> bool:
    """Do the engines have this type and range of codes?"""
    low, high, dtype = node.args[3:6]
    return qdq.FULL.get(dtype) == (low, high)


def grid_of(value: Any) -> tuple[Any, ...] | None:
    """(scale, zero_point, quant_min, quant_max, dtype) that these float values are on; None where it is not known."""
    if is_activation_dequantize(value):
        return value.args[0].args[1:]  # type: ignore[no-any-return]
    if not isinstance(value, fx.Node):
        return None
    if moves_values(value):
        return grid_of(value.args[0])
    is_joined = value.op == "call_function" and value.target is torch.cat and bool(value.args)
    if is_joined and isinstance(value.args[0], (tuple, list)):
        grids = {grid_of(item) for item in value.args[0]}
        return grids.pop() if len(grids) == 1 else None
    return None


def qparams_of(value: Any) -> tuple[Any, Any, Any]:
    """Scale, zero point and dtype of the codes behind a value that is on a grid."""
    scale, zero_point, _, _, dtype = grid_of(value) or (None,) * 5
    return scale, zero_point, dtype


def attribute_name(node: Any) -> str:
    """A name for something that belongs to this node, as an attribute of the root: no dots."""
    return str(node.target if node.op == "get_attr" else node.name).replace(".", "_")
