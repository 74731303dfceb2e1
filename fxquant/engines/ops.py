"""The canonical ops as ops of torch's dispatcher, which torch.export keeps whole and exporters know by name.

    fxquant::quantize(x, scale, zero_point, quant_min, quant_max, dtype)       codes
    fxquant::dequantize(codes, scale, zero_point)                              float32
    fxquant::dequantize_channels(codes, scale, zero_point, axis)               float32, one scale per index along axis

Registering them happens on import; that is no state of the caller's: the names are ours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant import qdq

_LIBRARY = torch.library.Library("fxquant", "DEF")
_LIBRARY.define("quantize(Tensor x, float scale, int zero_point, int low, int high, ScalarType dtype) -> Tensor")
_LIBRARY.define("dequantize(Tensor codes, float scale, int zero_point) -> Tensor")
_LIBRARY.define("dequantize_channels(Tensor codes, Tensor scale, Tensor zero_point, int axis) -> Tensor")


def _quantize(x: Tensor, scale: float, zero_point: int, low: int, high: int, dtype: torch.dtype) -> Tensor:
    return qdq.quantize_per_tensor(x, scale, zero_point, low, high, dtype)


def _dequantize(codes: Tensor, scale: float, zero_point: int) -> Tensor:
    return qdq.dequantize_per_tensor(codes, scale, zero_point)


def _dequantize_channels(codes: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    return qdq.dequantize_per_channel(codes, scale, zero_point, axis)


_LIBRARY.impl("quantize", _quantize, "CompositeExplicitAutograd")
_LIBRARY.impl("dequantize", _dequantize, "CompositeExplicitAutograd")
_LIBRARY.impl("dequantize_channels", _dequantize_channels, "CompositeExplicitAutograd")

QUANTIZE = torch.ops.fxquant.quantize.default
DEQUANTIZE = torch.ops.fxquant.dequantize.default
DEQUANTIZE_CHANNELS = torch.ops.fxquant.dequantize_channels.default


@torch.library.register_fake("fxquant::quantize", lib=_LIBRARY)
def _like_codes(x: Tensor, scale: float, zero_point: int, low: int, high: int, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(x, dtype=dtype)


@torch.library.register_fake("fxquant::dequantize", lib=_LIBRARY)
def _like_values(codes: Tensor, scale: float, zero_point: int) -> Tensor:
    return torch.empty_like(codes, dtype=torch.float32)


@torch.library.register_fake("fxquant::dequantize_channels", lib=_LIBRARY)
def _like_channels(codes: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    return torch.empty_like(codes, dtype=torch.float32)
