"""Weighted modules as functional calls of the canonical graph: what each computes, given its weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import fx, nn

# module type → (function, the module's attributes that follow input, weight and bias, in order)
WEIGHTED: dict[type[nn.Module], tuple[Callable[..., Any], tuple[str, ...]]] = {
    nn.Linear: (F.linear, ()),
    nn.Conv1d: (F.conv1d, ("stride", "padding", "dilation", "groups")),
    nn.Conv2d: (F.conv2d, ("stride", "padding", "dilation", "groups")),
    nn.Conv3d: (F.conv3d, ("stride", "padding", "dilation", "groups")),
    nn.ConvTranspose1d: (F.conv_transpose1d, ("stride", "padding", "output_padding", "groups", "dilation")),
    nn.ConvTranspose2d: (F.conv_transpose2d, ("stride", "padding", "output_padding", "groups", "dilation")),
    nn.ConvTranspose3d: (F.conv_transpose3d, ("stride", "padding", "output_padding", "groups", "dilation")),
}


def is_weighted(module: nn.Module | None) -> bool:
    """Is this a layer whose weight the canonical graph can hold as codes?"""
    return type(module) in WEIGHTED


def emit(graph: fx.Graph, module: nn.Module, x: Any, weight: fx.Node, bias: fx.Node | None) -> fx.Node:
    """The functional call that computes what `module` computes on `x`, with this weight and bias."""
    function, names = WEIGHTED[type(module)]
    options = {name: getattr(module, name) for name in names}
    if getattr(module, "padding_mode", "zeros") != "zeros":
        x = graph.call_function(F.pad, (x, *_padding_of(module)))
        options["padding"] = 0
    return graph.call_function(function, (x, weight, bias, *options.values()))


def _padding_of(module: Any) -> tuple[Any, str]:
    """How F.pad does what a convolution with this padding_mode does first."""
    return tuple(module._reversed_padding_repeated_twice), module.padding_mode
