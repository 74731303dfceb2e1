"""Functional layers whose weights are arguments, as modules that hold those very weights. One builder an op."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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


def _holding(module: nn.Module, **tensors: torch.Tensor | None) -> nn.Module:
    """The module with these very tensors for its parameters."""
    for name, tensor in tensors.items():
        setattr(module, name, None if tensor is None else as_parameter(tensor))
    return module


LAYERS: dict[object, Callable[..., Built]] = {
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
}

TENSORS = frozenset({"weight", "bias", "running_mean", "running_var"})  # the parameters of builders that are tensors
