"""The algebra of low-rank factorization: a layer's weight as a matrix, and the two layers of a rank.

    weight SVD   W (out, in·k)  = U S Vᵀ ≈ (U_r √S_r)(√S_r V_rᵀ)     Linear → two Linears; k×k conv → k×k to r, then 1×1
    spatial SVD  W[o,c,i,j] = M[(c,i),(o,j)],  M ≈ the same form     k×k conv → k×1 to r, then 1×k

By Eckart and Young no matrix of rank r is nearer: ‖W − W_r‖_F = sqrt(Σ_{j>r} σ_j²). The square root of S goes to either
side, so that both factors have ranges alike, which is what quantization wants.

Source: Jaderberg et al. 2014 (arXiv:1405.3866, scheme 2) for the spatial form; Zhang et al. 2016 (arXiv:1505.06798).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d
Factored = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
KINDS: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def is_spatial(module: nn.Module, method: str) -> bool:
    """Whether a layer becomes a column and a row: a Conv2d whose kernel has both sides. Others have one form only."""
    return method == "spatial" and isinstance(module, nn.Conv2d) and min(module.kernel_size) > 1


def matrix(weight: Tensor, *, spatial: bool) -> Tensor:
    """The weight as the matrix that is factorized, in float64: (out, in·k), or (in·kh, out·kw)."""
    if not spatial:
        return weight.detach().double().flatten(1)
    out, inputs, height, width = weight.shape
    return weight.detach().double().permute(1, 2, 0, 3).reshape(inputs * height, out * width)


def pair(module: Factored, rank: int, *, spatial: bool) -> nn.Sequential:
    """Two layers that compute what `module` does with its weight cut to this rank. RNG and module stay as they are."""
    left, values, right = torch.linalg.svd(matrix(module.weight, spatial=spatial), full_matrices=False)
    root = values[:rank].sqrt()
    left, right = left[:, :rank] * root, root[:, None] * right[:rank]
    first, second = _geometry(module, rank, spatial=spatial)
    first_weight, second_weight = _shaped(left, right, module, spatial=spatial)
    first.weight, second.weight = _parameter(first_weight, module), _parameter(second_weight, module)
    second.register_parameter("bias", cast(nn.Parameter | None, module.bias))
    return nn.Sequential(first, second).train(module.training)


def _geometry(module: Factored, rank: int, *, spatial: bool) -> tuple[Factored, Factored]:
    """The two layers, without weights."""
    if isinstance(module, nn.Linear):
        return _linears(module, rank)
    return _columns_and_rows(cast(nn.Conv2d, module), rank) if spatial else _convolutions(module, rank)


def _shaped(left: Tensor, right: Tensor, module: Factored, *, spatial: bool) -> tuple[Tensor, Tensor]:
    """The two factors as weights."""
    shape, rank = module.weight.shape, left.shape[1]
    if not spatial:
        return right.reshape(rank, *shape[1:]), left.reshape(shape[0], rank, *(1,) * (len(shape) - 2))
    out, inputs, height, width = shape
    column = left.T.reshape(rank, inputs, height, 1)
    return column, right.reshape(rank, out, 1, width).transpose(0, 1)


def _parameter(value: Tensor, module: Factored) -> nn.Parameter:
    old = module.weight
    return nn.Parameter(value.to(old.dtype).contiguous(), requires_grad=old.requires_grad)


def _linears(module: nn.Linear, rank: int) -> tuple[nn.Linear, nn.Linear]:
    first = nn.Linear(module.in_features, rank, bias=False, device="meta")
    return first, nn.Linear(rank, module.out_features, bias=module.bias is not None, device="meta")


def _convolutions(module: Conv, rank: int) -> tuple[Conv, Conv]:
    """The first one has all of the old one's geometry."""
    first = type(module)(
        module.in_channels,
        rank,
        module.kernel_size,  # type: ignore[arg-type]  # of the right length
        module.stride,  # type: ignore[arg-type]
        module.padding,  # type: ignore[arg-type]
        module.dilation,  # type: ignore[arg-type]
        bias=False,
        padding_mode=module.padding_mode,
        device="meta",
    )
    return first, type(module)(rank, module.out_channels, 1, bias=module.bias is not None, device="meta")


def _columns_and_rows(module: nn.Conv2d, rank: int) -> tuple[nn.Conv2d, nn.Conv2d]:
    """Each one has the old one's geometry along its own dimension."""
    (height, width), (down, right), (tall, wide) = module.kernel_size, module.stride, module.dilation
    padding = module.padding
    vertical, horizontal = (padding, padding) if isinstance(padding, str) else ((padding[0], 0), (0, padding[1]))
    first = nn.Conv2d(
        module.in_channels,
        rank,
        (height, 1),
        (down, 1),
        vertical,
        (tall, 1),
        bias=False,
        padding_mode=module.padding_mode,
        device="meta",
    )
    second = nn.Conv2d(
        rank,
        module.out_channels,
        (1, width),
        (1, right),
        horizontal,
        (1, wide),
        bias=module.bias is not None,
        padding_mode=module.padding_mode,
        device="meta",
    )
    return first, second
