"""Ops that only move values: quantizing before them or after them gives the same codes.

q(move(x)) = move(q(x))        and for max pooling q(max(x)) = max(q(x)), since q is monotonic
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

_MOVING_FUNCTIONS = (
    torch.flatten, torch.reshape, torch.transpose, torch.permute, torch.unsqueeze, torch.squeeze, torch.swapaxes,
    torch.movedim, F.max_pool1d, F.max_pool2d, F.pixel_shuffle, F.pixel_unshuffle, F.channel_shuffle,
)  # fmt: skip
_MOVING_METHODS = (
    "view", "reshape", "transpose", "permute", "flatten", "unflatten", "squeeze", "unsqueeze", "swapaxes", "movedim",
    "contiguous", "clone", "t",
)  # fmt: skip
_MOVING_MODULES = (
    nn.Flatten, nn.Unflatten, nn.Identity, nn.MaxPool1d, nn.MaxPool2d, nn.PixelShuffle, nn.PixelUnshuffle,
    nn.ChannelShuffle,
)  # fmt: skip


def moved(node: Any) -> fx.Node | None:
    """What this node only moves; None where it computes."""
    if not isinstance(node, fx.Node) or not node.args or not isinstance(node.args[0], fx.Node):
        return None
    if node.op == "call_function":
        is_moving = node.target in _MOVING_FUNCTIONS
    elif node.op == "call_method":
        is_moving = node.target in _MOVING_METHODS
    else:
        is_moving = node.op == "call_module" and isinstance(_module(node), _MOVING_MODULES)
    return node.args[0] if is_moving else None


def _module(node: fx.Node) -> nn.Module:
    return node.graph.owning_module.get_submodule(str(node.target))  # type: ignore[union-attr]
