"""Reading the canonical graph: which nodes quantize and dequantize activations, and with what."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxquant import qdq

_FULL = {torch.uint8: (0, 255), torch.int8: (-128, 127)}


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
    return _FULL.get(dtype) == (low, high)


def qparams_of(dequantize: Any) -> tuple[Any, Any, Any]:
    """Scale, zero point and dtype of the codes behind a dequantize."""
    quantize = dequantize.args[0]
    return quantize.args[1], quantize.args[2], quantize.args[5]


def attribute_name(node: Any) -> str:
    """A name for something that belongs to this node, as an attribute of the root: no dots."""
    return str(node.target if node.op == "get_attr" else node.name).replace(".", "_")
