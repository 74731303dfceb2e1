"""The canonical ops: quantize and dequantize as plain functions on plain integer tensors, no quantized dtypes.

    codes = clamp(round(x / scale) + zero_point, quant_min, quant_max)        x ≈ (codes - zero_point) * scale

Rounding is to nearest even and the division is a multiplication by 1/scale, as torch's own kernels have it, so codes
agree with them (two in 300,000 differ by one where x/scale is a near tie).
"""

from __future__ import annotations

import torch
from torch import Tensor


def quantize_per_tensor(
    x: Tensor, scale: float, zero_point: int, quant_min: int, quant_max: int, dtype: torch.dtype
) -> Tensor:
    """Codes of `x` (any shape) with one scale and zero point."""
    return torch.clamp(torch.round(x * (1.0 / scale)) + zero_point, quant_min, quant_max).to(dtype)


def dequantize_per_tensor(codes: Tensor, scale: float, zero_point: int) -> Tensor:
    """float32 values of codes with one scale and zero point."""
    return codes.to(torch.float32).sub_(zero_point).mul_(scale)


def quantize_per_channel(
    x: Tensor, scale: Tensor, zero_point: Tensor, axis: int, quant_min: int, quant_max: int, dtype: torch.dtype
) -> Tensor:
    """Codes of `x` with one scale and zero point for each index along `axis`; both have shape (x.shape[axis],)."""
    shape = _along(axis, x.dim())
    codes = (x * (1.0 / scale.to(torch.float32)).view(shape)).round_().add_(zero_point.view(shape))
    return codes.clamp_(quant_min, quant_max).to(dtype)


def dequantize_per_channel(codes: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    """float32 values of codes with one scale and zero point for each index along `axis`."""
    shape = _along(axis, codes.dim())
    return codes.to(torch.float32).sub_(zero_point.view(shape)).mul_(scale.view(shape))


def dequantize_rows(codes: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """float32 rows of an embedding table whose zero points are floats: (codes - zero_point) * scale, per row."""
    return codes.to(torch.float32).sub_(zero_point.view(-1, 1)).mul_(scale.view(-1, 1))


def choose_qparams(x: Tensor, reduce_range: bool, num_bits: int = 8) -> tuple[float, int]:
    """Scale and zero point of a dynamically quantized uint8 activation, from this tensor's own range.

    The range is widened to hold zero; `reduce_range` asks for 7 bits, for engines whose 16-bit sums could saturate.
    Fewer than 8 `num_bits` are for simulation: no engine has them.
    """
    if x.numel() == 0:
        return 1.0, 0  # no value is quantized with them
    if num_bits < 8:
        low, high = min(float(x.amin()), 0.0), max(float(x.amax()), 0.0)
        width = max((high - low) / ((1 << num_bits) - 1), 2.0**-100)
        return width, round(-low / width)
    scale, zero_point = torch._choose_qparams_per_tensor(x, reduce_range)
    return float(scale), int(zero_point)


def _along(axis: int, dims: int) -> list[int]:
    shape = [1] * dims
    shape[axis] = -1
    return shape


QUANTIZE = (quantize_per_tensor, quantize_per_channel)
DEQUANTIZE = (dequantize_per_tensor, dequantize_per_channel, dequantize_rows)
FULL = {torch.uint8: (0, 255), torch.int8: (-128, 127)}  # all codes of a type
FOLDED = "fxq_clamp"  # meta key of a quantize: the ends of a clamp (a ReLU6, say) that its range stands for
