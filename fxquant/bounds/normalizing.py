"""Softmax by its exact interval; norms of own statistics by the reverse triangle inequality; batch norm is linear.

u = x - mean(x),  sigma = sqrt(mean(u²) + eps),  y = u / sigma
|sigma_q - sigma| <= rms(e) = d          (both are lengths of vectors that differ by at most e; centring shortens)
|y_q - y| <= (e_u + |y| d) / max(sigma - d, sqrt(eps)),  and no |y| exceeds sqrt(n - 1)
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fxquant.bounds.bounded import ROUNDING, Bounded, NoBound, apply, double, made, rule

_SUM_SLACK = 1e-12  # of float64 sums that are subtracted from


@rule("softmax", "_softmax")
def softmax(input: Bounded, dim: int = -1, _stacklevel: int = 3, dtype: Any = None) -> Bounded:
    """p_i lies between its values with z_i at one end and all others at their other ends."""
    value = torch.softmax(input.value, dim)
    top = (input.value + input.error).amax(dim, keepdim=True)
    high, low = (torch.exp(input.value + sign * input.error - top) for sign in (1, -1))
    rest_high, rest_low = ((part.sum(dim, keepdim=True) - part).clamp(min=0) for part in (high, low))
    most, least = high / (high + rest_low), low / (low + rest_high)
    error = torch.maximum(most - value, value - least) + _SUM_SLACK
    trivial = torch.maximum(value, 1 - value)
    error = torch.where(error.isfinite(), torch.minimum(error, trivial), trivial)
    spread = (value.square() * input.variance).sum(dim, keepdim=True)
    variance = value.square() * (input.variance * (1 - 2 * value) + spread)
    count = value.shape[dim]
    return made(value, error, variance, slack=(count + 16) * ROUNDING)


@rule("log_softmax")
def log_softmax(input: Bounded, dim: int = -1, _stacklevel: int = 3, dtype: Any = None) -> Bounded:
    """z_i - log Σ exp z: twice the largest error at most."""
    value = torch.log_softmax(input.value, dim)
    error = input.error + input.error.amax(dim, keepdim=True)
    p = value.exp()
    variance = input.variance * (1 - 2 * p) + (p.square() * input.variance).sum(dim, keepdim=True)
    size = value.abs() + input.value.abs()
    return made(value, error, variance.clamp(min=0), slack=(value.shape[dim] + 16) * ROUNDING, of=size)


def normalized(x: Bounded, dims: tuple[int, ...], eps: float) -> Bounded:
    """u / sigma over `dims`, without weight and bias."""
    count = math.prod(x.shape[dim] for dim in dims)
    centred = x.value - x.value.mean(dims, keepdim=True)
    sigma = (centred.square().mean(dims, keepdim=True) + eps).sqrt()
    value = centred / sigma
    shift = x.error.square().mean(dims, keepdim=True).sqrt()
    error = x.error * (1 - 2 / count) + x.error.mean(dims, keepdim=True) if count > 1 else torch.zeros_like(x.error)
    least = torch.maximum(sigma - shift, torch.full_like(sigma, math.sqrt(eps)))
    error = (error + value.abs() * shift) / least
    error = torch.minimum(
        torch.nan_to_num(error, nan=math.inf, posinf=math.inf), math.sqrt(max(count - 1, 0)) + value.abs()
    )
    noise = (value.square() * x.variance).mean(dims, keepdim=True) * value.square() / count
    variance = (x.variance * (1 - 2 / count) + x.variance.mean(dims, keepdim=True) / count).clamp(min=0)
    variance = (variance + noise) / sigma.square()
    size = (x.value.abs() + x.error).mean(dims, keepdim=True) / sigma + value.abs() + error
    return made(value, error, variance, slack=4 * (math.sqrt(count) + 8) * ROUNDING, of=size)


def _affine(x: Bounded, weight: Any, bias: Any, shape: tuple[int, ...] | None = None) -> Bounded:
    if weight is not None:
        x = apply("mul", x, double(weight) if shape is None else double(weight).view(shape))
    if bias is not None:
        x = apply("add", x, double(bias) if shape is None else double(bias).view(shape))
    return x


@rule("layer_norm")
def layer_norm(
    input: Bounded, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Bounded:
    """Over the last dimensions."""
    dims = tuple(range(-len(normalized_shape), 0))
    return _affine(normalized(input, dims, eps), weight, bias)


@rule("group_norm")
def group_norm(input: Bounded, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Bounded:
    """Over groups of channels."""
    batch, channels, *rest = input.shape
    grouped = apply("reshape", input, batch, num_groups, -1)
    found = apply("reshape", normalized(grouped, (-1,), eps), input.shape)
    return _affine(found, weight, bias, (channels, *[1] * len(rest)))


@rule("instance_norm")
def instance_norm(
    input: Bounded,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Bounded:
    """Over the places of each channel; by running statistics it is batch norm."""
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, eps=eps)
    dims = tuple(range(2, input.dim()))
    return _affine(normalized(input, dims, eps), weight, bias, (-1, *[1] * len(dims)))


@rule("batch_norm")
def batch_norm(
    input: Bounded,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *rest: Any,
) -> Bounded:
    """(x - mean) / sqrt(var + eps) · w + b, with running statistics."""
    if training or running_mean is None:
        raise NoBound("batch norm by the batch's own statistics")
    shape = (-1, *[1] * (input.dim() - 2))
    scale: Tensor = (double(running_var) + eps).rsqrt() * (1.0 if weight is None else double(weight))
    shift = (0.0 if bias is None else double(bias)) - double(running_mean) * scale
    scale, shift = scale.view(shape), shift.view(shape)
    value = input.value * scale + shift
    size = (input.value.abs() + input.error) * scale.abs() + shift.abs()
    return made(value, input.error * scale.abs(), input.variance * scale.square(), of=size)
