"""The registry of float layers: torch's own modules that a graph may call, each by a name of ours and its options.

A layer is made without memory (on the meta device, so that no random number is drawn) and given its tensors from the
file; a tensor of another shape than the layer wants is refused. Classes of the user's own are not made here: the
caller of load() hands those in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.artifact.text import malformed
from fxquant.errors import UnsafeError
from fxquant.torch_ao import fused_with_relu, split_fused

Options = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Kind:
    """A class, and the names of the options with which an equal one can be made."""

    kind: type[nn.Module]
    options: Options = ()


def _has(name: str) -> Callable[[nn.Module], bool]:
    return lambda module: getattr(module, name, None) is not None


# Options that a module keeps under another name, or not at all.
_READ: Mapping[str, Callable[[Any], Any]] = {
    "bias": lambda module: module.bias if isinstance(module, nn.RNNBase | nn.RNNCellBase) else _has("bias")(module),
    "num_embeddings": lambda module: module.weight.shape[0],
    "add_bias_kv": _has("bias_k"),
    "num_parameters": lambda module: module.weight.numel(),
}

_CONV: Options = (
    "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "bias", "padding_mode",
)  # fmt: skip
_TRANSPOSED: Options = (*_CONV, "output_padding")
_BATCHNORM: Options = ("num_features", "eps", "momentum", "affine", "track_running_stats")
_RECURRENT: Options = (
    "input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional",
)  # fmt: skip
_CELL: Options = ("input_size", "hidden_size", "bias")
_MAX_POOL: Options = ("kernel_size", "stride", "padding", "dilation", "return_indices", "ceil_mode")
_AVG_POOL: Options = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")
_RATE: Options = ("p", "inplace")

_ALIKE: dict[Options, str] = {  # classes with the same options
    (): "LogSigmoid Sigmoid Softsign Tanh Tanhshrink Softmax2d Identity",
    ("inplace",): "Hardsigmoid Hardswish ReLU ReLU6 SELU SiLU Mish",
    ("dim",): "GLU Softmin Softmax LogSoftmax",
    ("lambd",): "Hardshrink Softshrink",
    ("alpha", "inplace"): "ELU CELU",
    _RATE: "Dropout Dropout1d Dropout2d Dropout3d AlphaDropout FeatureAlphaDropout",
    _BATCHNORM: "BatchNorm1d BatchNorm2d BatchNorm3d InstanceNorm1d InstanceNorm2d InstanceNorm3d",
    _CONV: "Conv1d Conv2d Conv3d",
    _TRANSPOSED: "ConvTranspose1d ConvTranspose2d ConvTranspose3d",
    _MAX_POOL: "MaxPool1d MaxPool2d MaxPool3d",
    _AVG_POOL: "AvgPool1d",
    (*_AVG_POOL, "divisor_override"): "AvgPool2d AvgPool3d",
    ("output_size",): "AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d",
    ("output_size", "return_indices"): "AdaptiveMaxPool1d AdaptiveMaxPool2d AdaptiveMaxPool3d",
    ("norm_type", "kernel_size", "stride", "ceil_mode"): "LPPool1d LPPool2d",
    ("padding",): "ZeroPad1d ZeroPad2d ZeroPad3d ReflectionPad1d ReflectionPad2d ReflectionPad3d ReplicationPad1d "
    "ReplicationPad2d ReplicationPad3d CircularPad1d CircularPad2d CircularPad3d",
    ("padding", "value"): "ConstantPad1d ConstantPad2d ConstantPad3d",
    ("kernel_size", "stride", "padding"): "MaxUnpool1d MaxUnpool2d MaxUnpool3d",
    _CELL: "LSTMCell GRUCell",
}

_SINGLE: dict[str, Options] = {
    "Hardtanh": ("min_val", "max_val", "inplace"),
    "LeakyReLU": ("negative_slope", "inplace"),
    "PReLU": ("num_parameters",),
    "RReLU": ("lower", "upper", "inplace"),
    "GELU": ("approximate",),
    "Softplus": ("beta", "threshold"),
    "Threshold": ("threshold", "value", "inplace"),
    "LayerNorm": ("normalized_shape", "eps", "elementwise_affine", "bias"),
    "GroupNorm": ("num_groups", "num_channels", "eps", "affine"),
    "RMSNorm": ("normalized_shape", "eps", "elementwise_affine"),
    "LocalResponseNorm": ("size", "alpha", "beta", "k"),
    "Linear": ("in_features", "out_features", "bias"),
    "Bilinear": ("in1_features", "in2_features", "out_features", "bias"),
    "Embedding": (
        "num_embeddings", "embedding_dim", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse",
    ),
    "EmbeddingBag": (
        "num_embeddings", "embedding_dim", "max_norm", "norm_type", "scale_grad_by_freq", "mode", "sparse",
        "include_last_offset", "padding_idx",
    ),
    "LSTM": (*_RECURRENT, "proj_size"),
    "GRU": _RECURRENT,
    "RNN": (*_RECURRENT, "nonlinearity"),
    "RNNCell": (*_CELL, "nonlinearity"),
    "MultiheadAttention": (
        "embed_dim", "num_heads", "dropout", "add_bias_kv", "add_zero_attn", "kdim", "vdim", "batch_first",
    ),
    "Upsample": ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor"),
    "PixelShuffle": ("upscale_factor",),
    "PixelUnshuffle": ("downscale_factor",),
    "ChannelShuffle": ("groups",),
    "Flatten": ("start_dim", "end_dim"),
    "Unflatten": ("dim", "unflattened_size"),
    "Fold": ("output_size", "kernel_size", "dilation", "padding", "stride"),
    "Unfold": ("kernel_size", "dilation", "padding", "stride"),
    "CosineSimilarity": ("dim", "eps"),
}  # fmt: skip


def _spelled(name: str) -> str:
    """The name of ours for a class: 'AdaptiveAvgPool2d' is 'adaptive_avg_pool2d', 'ReLU6' is 'relu6'."""
    for odd in ("LogSigmoid", "ReLU", "SiLU", "GELU", "SELU", "CELU", "ELU", "GLU", "LSTM", "GRU", "RNN", "RMS", "LP"):
        name = name.replace(odd, odd.capitalize())
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


LAYERS: dict[str, _Kind] = {
    _spelled(name): _Kind(getattr(nn, name), options)
    for options, names in (*_ALIKE.items(), *((options, name) for name, options in _SINGLE.items()))
    for name in names.split()
}
_NAMES = {kind.kind: name for name, kind in LAYERS.items()}
_RELU = "+relu"  # a layer and the ReLU that was fused after it, where neither was quantized in the end


def describe(module: nn.Module) -> tuple[str, dict[str, Any]] | None:
    """The name and the options of a layer of torch's own; None for any other module."""
    layer, has_relu = split_fused(module)
    name = _NAMES.get(type(layer))
    if name is None:
        return None
    options = {option: _READ.get(option, lambda m, o=option: getattr(m, o))(layer) for option in LAYERS[name].options}
    if name == "multihead_attention":
        options["bias"] = layer.in_proj_bias is not None
    return name + (_RELU if has_relu else ""), options


def make(name: str, options: Mapping[str, Any], what: str) -> nn.Module:
    """The layer, its tensors on the meta device. FXQ604 for a name that is unknown, FXQ605 for options that fail."""
    kind = LAYERS.get(name.removesuffix(_RELU))
    if kind is None:
        raise malformed(f"{what} is a {name!r:.60}, and there is no such layer")
    wanted = {*kind.options, "bias"} if name.startswith("multihead") else set(kind.options)
    if options.keys() != wanted:
        raise malformed(f"{what} needs exactly the options {', '.join(sorted(wanted))}")
    try:
        with torch.device("meta"):
            layer = kind.kind(**options)
    except (TypeError, ValueError, RuntimeError, AssertionError, ZeroDivisionError, OverflowError, AttributeError,
            IndexError) as error:  # fmt: skip
        told = f"{what} cannot be made with these options: {error}"
        raise UnsafeError("FXQ605", told[:400]) from error
    made = fused_with_relu(layer) if name.endswith(_RELU) else layer
    if made is None:
        raise malformed(f"{what} is a {name!r:.60}, which has no fused form")
    return made.eval()


def fill(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Give a module that was made on the meta device its tensors. FXQ605 where one does not fit or is missing."""
    wanted = state_of(module)
    if wanted.keys() != tensors.keys():
        odd = ", ".join(sorted(wanted.keys() ^ tensors.keys())[:4])
        raise UnsafeError("FXQ605", f"{what} has other tensors than such a layer: {odd}")
    for name, tensor in tensors.items():
        expected = wanted[name]
        if expected.shape != tensor.shape or expected.dtype is not tensor.dtype:
            told = f"tensor '{name}' of {what} is {tensor.dtype} {list(tensor.shape)}, it takes {expected.dtype} "
            raise UnsafeError("FXQ605", f"{told}{list(expected.shape)}")
        owner, _, last = name.rpartition(".")
        home = module.get_submodule(owner)
        if last in home._parameters:
            setattr(home, last, nn.Parameter(tensor, requires_grad=False))
        else:
            home._buffers[last] = tensor


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer of a module by name, ties under each of theirs."""
    return dict((*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)))
