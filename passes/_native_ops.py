"""What the native engines run on quantized tensors besides layers with weights: the table, one row per op.

SHARED ops keep their input's scale and zero point, so they run only where the canonical graph quantizes their result
with the same ones. OWN ops take the result's scale and zero point as arguments. Everything else becomes dequantize →
float → quantize.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

_OPS = torch.ops.quantized

SHARED_MODULES: frozenset[type[nn.Module]] = frozenset(
    {
        nn.AdaptiveAvgPool1d,
        nn.AdaptiveAvgPool2d,
        nn.AdaptiveAvgPool3d,
        nn.AvgPool1d,
        nn.AvgPool2d,
        nn.AvgPool3d,
        nn.ChannelShuffle,
        nn.Dropout,
        nn.Flatten,
        nn.Hardtanh,
        nn.Identity,
        nn.MaxPool1d,
        nn.MaxPool2d,
        nn.PixelShuffle,
        nn.PixelUnshuffle,
        nn.ReLU,
        nn.ReLU6,
        nn.Upsample,
    }
)

SHARED_FUNCTIONS: frozenset[Any] = frozenset(
    {
        operator.getitem,
        torch.avg_pool1d,
        torch.channel_shuffle,
        torch.chunk,
        torch.clamp,
        torch.flatten,
        torch.max_pool1d,
        torch.mean,
        torch.narrow,
        torch.permute,
        torch.relu,
        torch.repeat_interleave,
        torch.reshape,
        torch.split,
        torch.squeeze,
        torch.transpose,
        torch.unsqueeze,
        F.adaptive_avg_pool1d,
        F.adaptive_avg_pool2d,
        F.adaptive_avg_pool3d,
        F.avg_pool2d,
        F.avg_pool3d,
        F.hardtanh,
        F.interpolate,
        F.max_pool1d,
        F.max_pool2d,
        F.pixel_shuffle,
        F.pixel_unshuffle,
        F.relu,
        F.relu6,
    }
)

SHARED_METHODS: frozenset[str] = frozenset(
    {
        "clamp",
        "contiguous",
        "detach",
        "flatten",
        "mean",
        "permute",
        "relu",
        "repeat",
        "repeat_interleave",
        "reshape",
        "squeeze",
        "transpose",
        "unsqueeze",
        "view",
    }
)

# What an op needs besides its input: a function from the module to (op, arguments before scale and zero point).
Built = tuple[Any, tuple[Any, ...]]

OWN_MODULES: dict[type[nn.Module], Callable[[Any], Built]] = {
    nn.Hardswish: lambda _: (_OPS.hardswish.default, ()),
    nn.LayerNorm: lambda m: (_OPS.layer_norm.default, (list(m.normalized_shape), m.weight, m.bias, m.eps)),
    nn.GroupNorm: lambda m: (_OPS.group_norm.default, (m.num_groups, m.weight, m.bias, m.eps)),
    nn.InstanceNorm1d: lambda m: (_OPS.instance_norm.default, (m.weight, m.bias, m.eps)),
    nn.InstanceNorm2d: lambda m: (_OPS.instance_norm.default, (m.weight, m.bias, m.eps)),
    nn.InstanceNorm3d: lambda m: (_OPS.instance_norm.default, (m.weight, m.bias, m.eps)),
    nn.LeakyReLU: lambda m: (_OPS.leaky_relu.default, (m.negative_slope, False)),
    nn.Sigmoid: lambda _: (_OPS.sigmoid.default, ()),
    nn.Softmax: lambda m: (_OPS.softmax.default, (m.dim,)),
}

# (op, the same with a relu) of two quantized tensors
BINARY: dict[Any, tuple[Any, Any]] = {
    operator.add: (_OPS.add.default, _OPS.add_relu.default),
    torch.add: (_OPS.add.default, _OPS.add_relu.default),
    operator.mul: (_OPS.mul.default, _OPS.mul_relu.default),
    torch.mul: (_OPS.mul.default, _OPS.mul_relu.default),
    torch.matmul: (_OPS.matmul.default, None),
    operator.matmul: (_OPS.matmul.default, None),
}

# Ops whose quantized kernel always gives this scale and zero point.
FIXED_MODULES: dict[type[nn.Module], tuple[Any, float, int]] = {
    nn.Tanh: (torch.tanh, 2.0 / 256.0, 128),
    nn.Hardsigmoid: (F.hardsigmoid, 1.0 / 256.0, 0),
}

# Ops that only ask for the shape: they read it from the quantized tensor.
SHAPE_METHODS: frozenset[str] = frozenset({"size", "dim", "numel"})


def is_shared(kind: str, target: Any, module: nn.Module | None) -> bool:
    """Does this node's op keep its input's scale and zero point?"""
    match kind:
        case "call_module":
            return type(module) in SHARED_MODULES
        case "call_function":
            return target in SHARED_FUNCTIONS
        case "call_method":
            return target in SHARED_METHODS
    return False


# qnnpack reads the codes of these in plain order wherever they lie (torch 2.13): wrong values, and an error of softmax.
_PLAIN_ORDER: frozenset[Any] = frozenset(
    {nn.Hardtanh, nn.ReLU6, nn.Softmax, F.hardtanh, F.relu6, torch.clamp, "clamp"},
)


def takes_plain_order(kind: str, target: Any, module: nn.Module | None) -> bool:
    """Does qnnpack's kernel of this op misread codes that lie channels-last?"""
    return (type(module) if kind == "call_module" else target) in _PLAIN_ORDER


def reshape_for_view(graph: fx.Graph) -> None:
    """Kernels give tensors in channels-last order, which view() refuses where it took the float layer's: reshape()."""
    for node in graph.nodes:
        is_view = node.op == "call_method" and node.target == "view"
        if is_view and not any(isinstance(argument, torch.dtype) for argument in node.args):
            node.target = "reshape"
