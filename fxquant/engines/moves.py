"""Ops that only move values: quantizing before them or after them gives the same codes.

q(move(x)) = move(q(x))        and for max pooling q(max(x)) = max(q(x)), since q is monotonic
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

_FUNCTIONS = (
    torch.flatten, torch.reshape, torch.unsqueeze, torch.squeeze, F.max_pool1d, F.max_pool2d, F.pixel_shuffle,
    F.pixel_unshuffle, F.channel_shuffle,
)  # fmt: skip
_METHODS = ("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "contiguous", "clone")
_MODULES = (
    nn.Flatten, nn.Unflatten, nn.Identity, nn.MaxPool1d, nn.MaxPool2d, nn.PixelShuffle, nn.PixelUnshuffle,
    nn.ChannelShuffle,
)  # fmt: skip
_TRANSPOSES = (
    torch.transpose, torch.permute, torch.swapaxes, torch.movedim,
    "transpose", "permute", "swapaxes", "movedim", "t",
)  # fmt: skip
JOINS = (torch.cat, torch.concat, torch.concatenate)


def joined(node: Any) -> Any:
    """The parts of a concatenation."""
    return node.args[0] if node.args and isinstance(node.args[0], (list, tuple)) else ()


def moved(node: Any) -> fx.Node | None:
    """What this node only moves; None where it computes."""
    return node.args[0] if _has_input(node) and (_keeps_order(node) or node.target in _TRANSPOSES) else None


def moves_codes_well(node: Any) -> bool:
    """Does it, with all that moves before it, move codes at least as fast as floats?

    Transposing bytes is slow: 41 µs where bfloat16 takes 8; and OpenVINO lets a transpose sink below a quantize.
    """
    source = moved(node)
    return source is not None and _keeps_order(node) and (moved(source) is None or moves_codes_well(source))


def _has_input(node: Any) -> bool:
    return isinstance(node, fx.Node) and bool(node.args) and isinstance(node.args[0], fx.Node)


def _keeps_order(node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(node.graph.owning_module.get_submodule(str(node.target)), _MODULES)  # type: ignore[union-attr]
    if node.op == "call_method":
        return node.target in _METHODS
    return node.op == "call_function" and node.target in _FUNCTIONS
