"""Ops that only move values, and ops whose results stay within the range of what they read."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

KEEPS_VALUES: tuple[type[nn.Module], ...] = (
    nn.Flatten,
    nn.Unflatten,
    nn.Identity,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.ChannelShuffle,
)

# Each result is one of the values read: codes stay codes, whatever their scale. Engines have all of these on codes.
_MOVING_MODULES: frozenset[type[nn.Module]] = frozenset(
    {nn.Flatten, nn.Identity, nn.MaxPool1d, nn.MaxPool2d, nn.PixelShuffle}
)
_MOVING_FUNCTIONS: frozenset[Any] = frozenset(
    {
        torch.flatten,
        torch.max_pool1d,
        torch.permute,
        torch.reshape,
        torch.squeeze,
        torch.transpose,
        torch.unsqueeze,
        F.max_pool1d,
        F.max_pool2d,
        F.pixel_shuffle,
    }
)
_MOVING_METHODS: frozenset[str] = frozenset(
    {"contiguous", "flatten", "permute", "reshape", "squeeze", "transpose", "unsqueeze", "view"}
)

# Each result is a mean of values read.
_AVERAGING: frozenset[Any] = frozenset(
    {
        nn.AdaptiveAvgPool1d,
        nn.AdaptiveAvgPool2d,
        nn.AdaptiveAvgPool3d,
        torch.mean,
        F.adaptive_avg_pool1d,
        F.adaptive_avg_pool2d,
        F.adaptive_avg_pool3d,
        "mean",
    }
)


def moves_values(node: fx.Node) -> bool:
    """Is each value of the result one value of the first argument, the only tensor that it reads?"""
    if len(node.all_input_nodes) != 1 or node.args[:1] != (node.all_input_nodes[0],) or node.kwargs:
        return False
    match node.op:
        case "call_module":
            module = _module(node)
            return type(module) in _MOVING_MODULES and not getattr(module, "return_indices", False)
        case "call_function":
            return node.target in _MOVING_FUNCTIONS
        case "call_method":
            # view(dtype) looks at the bits, which are others in codes
            return node.target in _MOVING_METHODS and not any(isinstance(other, torch.dtype) for other in node.args)
    return False


def keeps_range(node: fx.Node) -> bool:
    """Does the result lie between the smallest and the largest value of the first argument?"""
    if len(node.all_input_nodes) != 1:
        return False
    kind = type(_module(node)) if node.op == "call_module" else node.target
    return moves_values(node) or kind in _AVERAGING or kind in KEEPS_VALUES


def _module(node: fx.Node) -> nn.Module:
    return node.graph.owning_module.get_submodule(str(node.target))  # type: ignore[union-attr]
