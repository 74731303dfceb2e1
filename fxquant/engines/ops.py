"""The canonical ops as ops of torch's dispatcher, which torch.export keeps whole and exporters know by name.

    fxquant::quantize(x, scale, zero_point, low, high, dtype)             codes
    fxquant::dequantize(codes, scale, zero_point)                         float32
    fxquant::dequantize_channels(codes, scale, zero_point, axis)          float32, one scale per index along axis
    fxquant::dequantize_blocks(codes, scale, zero_point, block_size)      float32, one scale per block of a row
    fxquant::choose_qparams(x, reduce_range)                              scale (float32), zero_point (int32), no dims
    fxquant::quantize_by(x, scale, zero_point, low, high, dtype)          codes, by qparams that the graph chose
    fxquant::dequantize_by(codes, scale, zero_point)                      float32, likewise

Registering them happens on import; that is no state of the caller's: the names are ours.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fxquant import qdq

_LIBRARY: Any = torch.library.Library("fxquant", "DEF")  # type: ignore[no-untyped-call]
for _schema in (
    "quantize(Tensor x, float scale, int zero_point, int low, int high, ScalarType dtype) -> Tensor",
    "dequantize(Tensor codes, float scale, int zero_point) -> Tensor",
    "dequantize_channels(Tensor codes, Tensor scale, Tensor zero_point, int axis) -> Tensor",
    "dequantize_blocks(Tensor codes, Tensor scale, Tensor zero_point, int block_size) -> Tensor",
    "choose_qparams(Tensor x, bool reduce_range) -> (Tensor, Tensor)",
    "quantize_by(Tensor x, Tensor scale, Tensor zero_point, int low, int high, ScalarType dtype) -> Tensor",
    "dequantize_by(Tensor codes, Tensor scale, Tensor zero_point) -> Tensor",
):
    _LIBRARY.define(_schema)


def _quantize(x: Tensor, scale: float, zero_point: int, low: int, high: int, dtype: torch.dtype) -> Tensor:
    return qdq.quantize_per_tensor(x, scale, zero_point, low, high, dtype)


def _dequantize(codes: Tensor, scale: float, zero_point: int) -> Tensor:
    return qdq.dequantize_per_tensor(codes, scale, zero_point)


def _dequantize_channels(codes: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    return qdq.dequantize_per_channel(codes, scale, zero_point, axis)


def dequantize_blocks(codes: Tensor, scale: Tensor, zero_point: Tensor, block_size: int) -> Tensor:
    """fxquant::dequantize_blocks in plain torch."""

    def spread(of_block: Tensor) -> Tensor:
        return of_block.to(torch.float32).repeat_interleave(block_size, 1)[:, : codes.shape[1]]

    return codes.to(torch.float32).sub_(spread(zero_point)).mul_(spread(scale))


def _choose_qparams(x: Tensor, reduce_range: bool) -> tuple[Tensor, Tensor]:
    scale, zero_point = qdq.choose_qparams(x, reduce_range)
    return torch.tensor(scale, dtype=torch.float32), torch.tensor(zero_point, dtype=torch.int32)


def _quantize_by(x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int, dtype: torch.dtype) -> Tensor:
    return qdq.quantize_per_tensor(x, float(scale), int(zero_point), low, high, dtype)


def _dequantize_by(codes: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return qdq.dequantize_per_tensor(codes, float(scale), int(zero_point))


def _codes_like(x: Tensor, scale: object, zero_point: object, low: int, high: int, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(x, dtype=dtype)


def _values_like(codes: Tensor, *qparams: object) -> Tensor:
    return torch.empty_like(codes, dtype=torch.float32)


def _qparams_like(x: Tensor, reduce_range: bool) -> tuple[Tensor, Tensor]:
    return x.new_empty((), dtype=torch.float32), x.new_empty((), dtype=torch.int32)


# With a rule of its own for shapes an op is not traced into: that is most of the time that torch.export takes.
for _name, _run, _shape in (
    ("quantize", _quantize, _codes_like),
    ("dequantize", _dequantize, _values_like),
    ("dequantize_channels", _dequantize_channels, _values_like),
    ("dequantize_blocks", dequantize_blocks, _values_like),
    ("choose_qparams", _choose_qparams, _qparams_like),
    ("quantize_by", _quantize_by, _codes_like),
    ("dequantize_by", _dequantize_by, _values_like),
):
    _LIBRARY.impl(_name, _run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fxquant::{_name}", _shape, lib=_LIBRARY)

QUANTIZE = torch.ops.fxquant.quantize.default
DEQUANTIZE = torch.ops.fxquant.dequantize.default
DEQUANTIZE_CHANNELS = torch.ops.fxquant.dequantize_channels.default
DEQUANTIZE_BLOCKS = torch.ops.fxquant.dequantize_blocks.default
CHOOSE_QPARAMS = torch.ops.fxquant.choose_qparams.default
QUANTIZE_BY = torch.ops.fxquant.quantize_by.default
DEQUANTIZE_BY = torch.ops.fxquant.dequantize_by.default
