"""Weights in groups of a few values: codes of 4 bits, two in a byte, with one scale for each group of a row.

    w ≈ (code - zero_point) * scale            codes are 0..15; symmetric ones have the zero point 8

A weight of any rank is rows (its first axis) of all that is left; a row's last group has what is left over. Symmetric
scales cover both ends, s = max(max w / 7.5, -min w / 8.5), so that |w - dequantized| <= s/2 everywhere.
The layout is that of group-wise weight quantization (Frantar et al., "GPTQ", 2022; Lin et al., "AWQ", 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

BITS = 4
MIDDLE = 1 << (BITS - 1)  # the zero point of symmetric codes
DEFAULT_SIZE = 32
MOST = 1 << 16  # values in one group
_HALF = torch.finfo(torch.float16)


@dataclass(frozen=True, slots=True)
class Grouped:
    """A weight in groups. `zero_point` is None where all are MIDDLE."""

    packed: Tensor  # uint8, (rows, ceil(row size / 2)): the even value of a row in the low half of a byte
    scale: Tensor  # float16 or float32, (rows, groups)
    zero_point: Tensor | None  # uint8, (rows, groups)
    group_size: int
    shape: tuple[int, ...]  # of the weight


def pack(codes: Tensor) -> Tensor:
    """(rows, size) of 0..15 in uint8 → (rows, ceil(size / 2)): two codes a byte, an odd row's last half is zero."""
    padded = F.pad(codes, (0, codes.shape[1] % 2))
    return padded[:, 0::2] | (padded[:, 1::2] << BITS)


def unpack(packed: Tensor, size: int) -> Tensor:
    """The `size` codes of each row again."""
    return torch.stack((packed & 15, packed >> BITS), dim=-1).flatten(1)[:, :size]


def quantize_groups(weight: Tensor, group_size: int, *, bits: int = BITS, symmetric: bool = True) -> Grouped:
    """A float weight of any rank from 1 in groups; `bits` from 2 use the middle of the 16 codes."""
    shape = tuple(weight.shape)
    rows = weight.detach().float().reshape(shape[0], -1) if weight.numel() else weight.new_zeros(shape[0], 0)
    grouped = _in_groups(rows, group_size)
    half = 1 << (bits - 1)
    if symmetric:
        scale = _held(torch.maximum(grouped.amax(2) / (half - 0.5), -grouped.amin(2) / (half + 0.5)))
        zero = torch.full_like(scale, MIDDLE, dtype=torch.float32)
        low, high = MIDDLE - half, MIDDLE + half - 1
    else:
        least, most = grouped.amin(2).clamp(max=0.0), grouped.amax(2).clamp(min=0.0)
        scale, low, high = _held((most - least) / (2 * half - 1)), 0, 2 * half - 1
        zero = (-least / scale.float()).round().clamp(low, high)
    codes = (grouped / scale.float().unsqueeze(2)).round().add_(zero.unsqueeze(2)).clamp_(low, high)
    packed = pack(codes.to(torch.uint8).flatten(1)[:, : rows.shape[1]])
    return Grouped(packed, scale, None if symmetric else zero.to(torch.uint8), group_size, shape)


def _in_groups(rows: Tensor, group_size: int) -> Tensor:
    """(rows, groups, group size); zeros fill the last group."""
    groups = group_count(rows.shape[1], group_size)
    return F.pad(rows, (0, groups * group_size - rows.shape[1])).view(rows.shape[0], groups, group_size)


def group_count(size: int, group_size: int) -> int:
    """Groups of a row of `size` values."""
    return -(-size // group_size)


def _held(scale: Tensor) -> Tensor:
    """Rounded up to float16, so that the codes still cover the group; float32 where float16 cannot hold them all."""
    scale = torch.where(scale > 0, scale, 1.0)  # a group of zeros
    if not scale.numel() or float(scale.min()) < _HALF.smallest_normal or float(scale.max()) > _HALF.max / 2:
        return scale.clamp(min=torch.finfo(torch.float32).tiny)
    half = scale.to(torch.float16)
    bits = half.view(torch.int16) + (half.float() < scale).to(torch.int16)  # the next number is the next bit pattern
    return bits.view(torch.float16)


def dequantize_groups(
    packed: Tensor, scale: Tensor, zero_point: Tensor | None, group_size: int, shape: tuple[int, ...]
) -> Tensor:
    """The float32 weight of codes in groups."""
    size = prod(shape[1:])
    codes = unpack(packed, size).to(torch.float32)
    grouped = _in_groups(codes, group_size)
    zero = MIDDLE if zero_point is None else zero_point.to(torch.float32).unsqueeze(2)
    values = (grouped - zero).mul_(scale.to(torch.float32).unsqueeze(2))
    return values.flatten(1)[:, :size].reshape(shape)
