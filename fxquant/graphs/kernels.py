"""Which operations torch's engines compute on codes, by the names that snapshots have: classes, functions, methods."""

from __future__ import annotations

import re

from fxquant.graphs.snapshot import NodeRecord

LAYERS = frozenset(
    {"linear", "Linear", "LinearReLU"}
    | {f"conv{dims}d" for dims in (1, 2, 3)}
    | {f"conv_transpose{dims}d" for dims in (1, 2, 3)}
    | {f"Conv{dims}d" for dims in (1, 2, 3)}
    | {f"ConvReLU{dims}d" for dims in (1, 2, 3)}
    | {f"ConvTranspose{dims}d" for dims in (1, 2, 3)}
)
FLOAT_RESULTS = frozenset({"qlinear_pointwise", "qconv1d_pointwise", "qconv2d_pointwise"})  # codes in, float32 out
RECURRENT = frozenset({"lstm", "gru", "LSTM", "GRU", "LSTMCell", "GRUCell", "RNNCell"})
LOOK_UPS = frozenset({"embedding", "embedding_bag", "Embedding", "EmbeddingBag"})
RELUS = frozenset({"relu", "relu_", "ReLU"})
BINARY = frozenset({"add", "mul", "matmul"})
BINARY_WITH_RELU = frozenset({"add", "mul"})

SHARED_MODULES = frozenset(
    {"AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveAvgPool3d", "AvgPool1d", "AvgPool2d", "AvgPool3d"}
    | {"ChannelShuffle", "Dropout", "Flatten", "Hardtanh", "Identity", "MaxPool1d", "MaxPool2d"}
    | {"PixelShuffle", "PixelUnshuffle", "ReLU", "ReLU6", "Upsample"}
)
SHARED_FUNCTIONS = frozenset(
    {"adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d"}
    | {"channel_shuffle", "chunk", "clamp", "flatten", "getitem", "hardtanh", "interpolate", "max_pool1d"}
    | {"max_pool2d", "mean", "narrow", "permute", "pixel_shuffle", "pixel_unshuffle", "relu", "relu6"}
    | {"repeat_interleave", "reshape", "split", "squeeze", "transpose", "unsqueeze"}
)
SHARED_METHODS = frozenset(
    {"clamp", "contiguous", "detach", "flatten", "mean", "permute", "relu", "repeat", "repeat_interleave"}
    | {"reshape", "squeeze", "transpose", "unsqueeze", "view"}
)
MOVING_MODULES = frozenset({"Flatten", "Identity", "MaxPool1d", "MaxPool2d", "PixelShuffle"})  # codes stay the same
MOVING_FUNCTIONS = frozenset(
    {"flatten", "max_pool1d", "max_pool2d", "permute", "pixel_shuffle", "reshape", "squeeze", "transpose", "unsqueeze"}
)
MOVING_METHODS = frozenset({"contiguous", "flatten", "permute", "reshape", "squeeze", "transpose", "unsqueeze", "view"})
OWN_MODULES = frozenset(
    {"GroupNorm", "Hardswish", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d", "LayerNorm", "LeakyReLU"}
    | {"Sigmoid", "Softmax"}
)
FIXED_MODULES = {"Tanh": (2.0 / 256.0, 128), "Hardsigmoid": (1.0 / 256.0, 0)}  # the one scale and zero point they give

_TWO_NODES = re.compile(r"\(%\w+, %\w+\)(\{\})?")


def operation(node: NodeRecord) -> str:
    """What a node calls, without an overload's name: 'quantize_per_tensor', 'conv2d', 'relu'."""
    if node.op == "call_function" and node.target.startswith("torch._ops."):
        parts = node.target.split(".")
        return parts[3] if len(parts) > 3 else node.kind
    return node.kind


def is_shared(node: NodeRecord) -> bool:
    """Does this operation keep its input's scale and zero point?"""
    match node.op:
        case "call_module":
            return node.kind in SHARED_MODULES
        case "call_method":
            return node.kind in SHARED_METHODS
        case "call_function":
            name = operation(node)
            is_aten = node.target.startswith("torch._ops.aten.")
            return name in SHARED_FUNCTIONS or (is_aten and name in SHARED_METHODS)
    return False


def is_moving(node: NodeRecord) -> bool:
    """Is each value of its result one of the values that it reads?"""
    match node.op:
        case "call_module":
            return node.kind in MOVING_MODULES
        case "call_method":
            return node.kind in MOVING_METHODS
        case "call_function":
            return operation(node) in MOVING_FUNCTIONS
    return False


def is_own(node: NodeRecord) -> bool:
    """Does this module's kernel take the result's scale and zero point?"""
    is_running = "track_running_stats=True" in node.attribute("options")
    return node.op == "call_module" and node.kind in OWN_MODULES and not is_running


def is_of_two(node: NodeRecord) -> bool:
    """Is it an addition, a multiplication or a matmul of two nodes, with no number among the arguments?"""
    is_known = node.op == "call_function" and operation(node) in BINARY
    return is_known and _TWO_NODES.fullmatch(node.args) is not None
