"""Functional calls that have a module form: one builder an op, and a builder's signature is that of its op."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from fxquant.passes._functional_layers import LAYERS, Built, Ints, Rank


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


def _plain(value: Any) -> Any:
    """fx keeps lists as its own immutable ones; modules show and store tuples."""
    return tuple(value) if isinstance(value, (tuple, list)) else value


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
    **LAYERS,
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
