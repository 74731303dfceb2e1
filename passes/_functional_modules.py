"""Functional calls that have a module form: one builder an op, and a builder's signature is that of its op."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from fxquant.passes._placing import as_parameter

Ints = int | tuple[int, ...] | list[int]


@dataclass(frozen=True, slots=True)
class Refusal:
    """The op has a module form, but this call of it does not: why."""

    reason: str


Built = nn.Module | Refusal | None  # None: this call is left as it is
Rank = Callable[[], int | None]  # stands for the input: its number of dimensions, where it is known


def _relu(input: Rank, inplace: bool = False) -> Built:
    return nn.ReLU(inplace)


def _relu6(input: Rank, inplace: bool = False) -> Built:
    return nn.ReLU6(inplace)


def _hardtanh(input: Rank, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Built:
    return nn.Hardtanh(min_val, max_val, inplace) if min_val < max_val else None


def _hardswish(input: Rank, inplace: bool = False) -> Built:
    return nn.Hardswish(inplace)


def _hardsigmoid(input: Rank, inplace: bool = False) -> Built:
    return nn.Hardsigmoid(inplace)


def _sigmoid(input: Rank) -> Built:
    return nn.Sigmoid()


def _tanh(input: Rank) -> Built:
    return nn.Tanh()


def _gelu(input: Rank, *, approximate: str = "none") -> Built:
    return nn.GELU(approximate)


def _silu(input: Rank, inplace: bool = False) -> Built:
    return nn.SiLU(inplace)


def _elu(input: Rank, alpha: float = 1.0, inplace: bool = False) -> Built:
    return nn.ELU(alpha, inplace)


def _leaky_relu(input: Rank, negative_slope: float = 0.01, inplace: bool = False) -> Built:
    return nn.LeakyReLU(negative_slope, inplace)


def _softmax(input: Rank, dim: int | None = None, dtype: torch.dtype | None = None) -> Built:
    return nn.Softmax(dim) if dim is not None and dtype is None else None


def _functional_softmax(
    input: Rank, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> Built:
    return _softmax(input, dim, dtype)


def _linear(input: Rank, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Built:
    if weight.ndim != 2 or not weight.is_floating_point():
        return None
    module = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    return _holding(module, weight=weight, bias=bias)


def _conv(dimensions: int, kind: type[nn.Conv1d | nn.Conv2d | nn.Conv3d]) -> Callable[..., Built]:
    def build(
        input: Rank,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        stride: Ints = 1,
        padding: str | Ints = 0,
        dilation: Ints = 1,
        groups: int = 1,
    ) -> Built:
        if weight.ndim != dimensions + 2 or not weight.is_floating_point():
            return None
        steps, spread = _spread(dilation, dimensions), explicit_padding(padding, weight.shape[2:], dilation)
        if isinstance(spread, Refusal):
            return spread
        module = kind(
            weight.shape[1] * groups,
            weight.shape[0],
            tuple(weight.shape[2:]),  # type: ignore[arg-type]  # of the right length
            _spread(stride, dimensions),  # type: ignore[arg-type]
            _spread(spread, dimensions),  # type: ignore[arg-type]
            steps,  # type: ignore[arg-type]
            groups,
            bias=bias is not None,
            device="meta",
        )
        return _holding(module, weight=weight, bias=bias)

    return build


def _conv_transpose(
    dimensions: int, kind: type[nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d]
) -> Callable[..., Built]:
    def build(
        input: Rank,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        stride: Ints = 1,
        padding: Ints = 0,
        output_padding: Ints = 0,
        groups: int = 1,
        dilation: Ints = 1,
    ) -> Built:
        if weight.ndim != dimensions + 2 or not weight.is_floating_point():
            return None
        module = kind(
            weight.shape[0],
            weight.shape[1] * groups,
            tuple(weight.shape[2:]),  # type: ignore[arg-type]  # of the right length
            _spread(stride, dimensions),  # type: ignore[arg-type]
            _spread(padding, dimensions),  # type: ignore[arg-type]
            _spread(output_padding, dimensions),  # type: ignore[arg-type]
            groups,
            bias is not None,
            _spread(dilation, dimensions),  # type: ignore[arg-type]
            device="meta",
        )
        return _holding(module, weight=weight, bias=bias)

    return build


def _batch_norm(
    input: Rank,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Built:
    kinds = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    kind = kinds.get(input() or 0)
    if kind is None or training or running_mean is None or running_var is None or (weight is None) != (bias is None):
        return None
    module = kind(running_mean.shape[0], eps, momentum, affine=weight is not None)
    module.running_mean, module.running_var = running_mean.detach(), running_var.detach()
    return _holding(module, weight=weight, bias=bias)


def _layer_norm(
    input: Rank,
    normalized_shape: Ints,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> Built:
    if weight is None and bias is not None:
        return None
    shape = [normalized_shape] if isinstance(normalized_shape, int) else list(normalized_shape)
    module = nn.LayerNorm(shape, eps, elementwise_affine=weight is not None, bias=bias is not None)
    return _holding(module, weight=weight, bias=bias)


def _embedding(
    input: Rank,
    weight: torch.Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Built:
    if max_norm is not None or weight.ndim != 2:  # max_norm rewrites the table in each call
        return None
    rows, width = weight.shape
    module = nn.Embedding(rows, width, padding_idx, scale_grad_by_freq=scale_grad_by_freq, sparse=sparse, device="meta")
    return _holding(module, weight=weight)


def _max_pool(kind: type[nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d]) -> Callable[..., Built]:
    def build(
        input: Rank,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        dilation: Ints = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Built:
        if return_indices:
            return None
        step = _plain(stride) if stride else None
        return kind(_plain(kernel_size), step, _plain(padding), _plain(dilation), ceil_mode=ceil_mode)

    return build


def _avg_pool1d(
    input: Rank,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Built:
    step = _plain(stride) if stride else None
    return nn.AvgPool1d(_plain(kernel_size), step, _plain(padding), ceil_mode, count_include_pad)  # type: ignore[arg-type]


def _avg_pool(kind: type[nn.AvgPool2d | nn.AvgPool3d]) -> Callable[..., Built]:
    def build(
        input: Rank,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Built:
        step = _plain(stride) if stride else None
        return kind(_plain(kernel_size), step, _plain(padding), ceil_mode, count_include_pad, divisor_override)

    return build


def _adaptive_avg_pool(kind: type[nn.Module]) -> Callable[..., Built]:
    def build(input: Rank, output_size: Any) -> Built:
        return kind(_plain(output_size))

    return build


def explicit_padding(padding: str | Ints, kernel: torch.Size, dilation: Ints) -> Ints | Refusal:
    """Padding in numbers. 'same' adds d·(k − 1) to each dimension, half of it on either side; odd sums have no half."""
    if not isinstance(padding, str):
        return padding
    if padding == "valid":
        return 0
    totals = [step * (size - 1) for step, size in zip(_spread(dilation, len(kernel)), kernel, strict=True)]
    if any(total % 2 for total in totals):
        return Refusal(f"padding='same' of kernel {tuple(kernel)} pads more on one side, which no engine serves")
    return tuple(total // 2 for total in totals)


def _spread(value: Ints, dimensions: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * dimensions if len(values) == 1 else values


def _plain(value: Any) -> Any:
    """fx keeps lists as its own immutable ones; modules show and store tuples."""
    return tuple(value) if isinstance(value, (tuple, list)) else value


def _holding(module: nn.Module, **tensors: torch.Tensor | None) -> nn.Module:
    """The module with these very tensors for its parameters."""
    for name, tensor in tensors.items():
        setattr(module, name, None if tensor is None else as_parameter(tensor))
    return module


BUILDERS: dict[object, Callable[..., Built]] = {
    **dict.fromkeys((F.relu, torch.relu, "relu"), _relu),
    F.relu6: _relu6,
    F.hardtanh: _hardtanh,
    F.hardswish: _hardswish,
    F.hardsigmoid: _hardsigmoid,
    **dict.fromkeys((F.sigmoid, torch.sigmoid, torch.special.expit, "sigmoid"), _sigmoid),
    **dict.fromkeys((F.tanh, torch.tanh, "tanh"), _tanh),
    F.gelu: _gelu,
    F.silu: _silu,
    F.elu: _elu,
    F.leaky_relu: _leaky_relu,
    F.softmax: _functional_softmax,
    **dict.fromkeys((torch.softmax, "softmax"), _softmax),
    F.linear: _linear,
    F.conv1d: _conv(1, nn.Conv1d),
    F.conv2d: _conv(2, nn.Conv2d),
    F.conv3d: _conv(3, nn.Conv3d),
    F.conv_transpose1d: _conv_transpose(1, nn.ConvTranspose1d),
    F.conv_transpose2d: _conv_transpose(2, nn.ConvTranspose2d),
    F.conv_transpose3d: _conv_transpose(3, nn.ConvTranspose3d),
    F.batch_norm: _batch_norm,
    F.layer_norm: _layer_norm,
    F.embedding: _embedding,
    **dict.fromkeys((F.max_pool1d, torch.max_pool1d), _max_pool(nn.MaxPool1d)),
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d), _max_pool(nn.MaxPool2d)),
    **dict.fromkeys((F.max_pool3d, torch.max_pool3d), _max_pool(nn.MaxPool3d)),
    F.avg_pool1d: _avg_pool1d,
    F.avg_pool2d: _avg_pool(nn.AvgPool2d),
    F.avg_pool3d: _avg_pool(nn.AvgPool3d),
    F.adaptive_avg_pool1d: _adaptive_avg_pool(nn.AdaptiveAvgPool1d),
    F.adaptive_avg_pool2d: _adaptive_avg_pool(nn.AdaptiveAvgPool2d),
    F.adaptive_avg_pool3d: _adaptive_avg_pool(nn.AdaptiveAvgPool3d),
}

SIGNATURES = {target: inspect.signature(builder) for target, builder in BUILDERS.items()}

TENSORS = frozenset({"weight", "bias", "running_mean", "running_var"})  # the parameters of builders that are tensors
