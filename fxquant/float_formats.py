"""Small floating-point formats in simulation: a sign, x bits of exponent, y bits of mantissa ("e3m2"), with a scale.

    round(v) = sign · 2^q · rne(|v| / 2^q),    q = max(floor(log2 |v|), 1 - bias) - y        then clamped to ±largest

rne rounds to nearest, ties to even; below the smallest normal number the grid is even (subnormals); beyond the largest
it saturates. e4m3 and e5m2 are the two formats of OCP's "8-bit Floating Point Specification" (2023), which torch calls
float8_e4m3fn and float8_e5m2: they keep codes for NaN and infinities. All others use each code for a number, as the
6- and 4-bit formats of OCP's "Microscaling Formats" (2023) do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

MOST_EXPONENT, MOST_MANTISSA = 8, 10
_NAME = re.compile(r"e(\d{1,2})m(\d{1,2})")
_SPELLED = {"float8_e4m3": "e4m3", "float8_e4m3fn": "e4m3", "float8_e5m2": "e5m2"}
_OCP = {(4, 3): ("float8_e4m3fn", 448.0), (5, 2): ("float8_e5m2", 57344.0)}
SMALLEST_SCALE = 2.0**-100  # of a tensor of zeros or nearly so


@dataclass(frozen=True, slots=True)
class FloatFormat:
    """The grid of one format. Codes are sign, exponent, mantissa, from the highest bit on."""

    exponent_bits: int
    mantissa_bits: int

    @property
    def bias(self) -> int:
        """An exponent field of `bias` is 2^0."""
        return (1 << self.exponent_bits - 1) - 1

    @property
    def largest(self) -> float:
        """The largest number. Eight bits of exponent are all that float32 has, so their last value is left out."""
        ocp = _OCP.get((self.exponent_bits, self.mantissa_bits))
        if ocp is not None:
            return ocp[1]
        power = (1 << self.exponent_bits) - 1 - self.bias - (self.exponent_bits == MOST_EXPONENT)
        return (2.0 - 2.0**-self.mantissa_bits) * 2.0**power

    @property
    def smallest(self) -> float:
        """The smallest number above zero: the step of the subnormal ones."""
        return float(2.0 ** (1 - self.bias - self.mantissa_bits))

    @property
    def bits(self) -> int:
        """Of one number, its sign included."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def code_dtype(self) -> torch.dtype:
        """What holds one code."""
        return torch.uint8 if self.bits <= 8 else torch.int16

    def __str__(self) -> str:
        ocp = _OCP.get((self.exponent_bits, self.mantissa_bits))
        return f"e{self.exponent_bits}m{self.mantissa_bits}" if ocp is None else ocp[0]


def read_format(name: str) -> FloatFormat | None:
    """The format of 'float8_e4m3', 'float8_e5m2' or 'e3m2'; None for what is no such name, or no such format."""
    found = _NAME.fullmatch(_SPELLED.get(name, name))
    if found is None or found[0] != f"e{int(found[1])}m{int(found[2])}":
        return None
    exponent, mantissa = int(found[1]), int(found[2])
    return FloatFormat(exponent, mantissa) if is_format(exponent, mantissa) else None


def is_format(exponent_bits: object, mantissa_bits: object) -> bool:
    """At least one bit of exponent, no more of either than float32 can simulate, and from 3 to 16 bits in all."""
    return (
        type(exponent_bits) is int
        and type(mantissa_bits) is int
        and 1 <= exponent_bits <= MOST_EXPONENT
        and 0 <= mantissa_bits <= MOST_MANTISSA
        and 2 <= exponent_bits + mantissa_bits <= 15
    )


def spacing(x: Tensor, fmt: FloatFormat) -> Tensor:
    """The distance of neighbours on the grid at |x|, as float64."""
    exponent = torch.frexp(x.double()).exponent - 1  # floor(log2 |x|) of what is not zero
    power = exponent.clamp(min=1 - fmt.bias) - fmt.mantissa_bits
    return torch.ldexp(torch.ones_like(x, dtype=torch.float64), power)


def round_to(x: Tensor, fmt: FloatFormat) -> Tensor:
    """`x` (any shape, float32) on the grid: nearest, ties to even, saturating; NaN stays NaN."""
    step = spacing(x, fmt)
    rounded = (x.double() / step).round_().mul_(step)
    return rounded.clamp_(-fmt.largest, fmt.largest).to(torch.float32)


def encode(values: Tensor, fmt: FloatFormat) -> Tensor:
    """Codes of numbers that are on the grid; uint8 up to 8 bits, else int16."""
    size = values.double().abs()
    step = spacing(size, fmt)
    mantissa = (size / step).to(torch.int64)  # with the leading one of a normal number
    power = torch.frexp(step).exponent.to(torch.int64) - 1 + fmt.mantissa_bits
    leading = 1 << fmt.mantissa_bits
    field = torch.where(mantissa >= leading, power + fmt.bias, 0)
    code = (field << fmt.mantissa_bits) | (mantissa & (leading - 1))
    sign = torch.signbit(values).to(torch.int64) << (fmt.bits - 1)
    return (code | sign).to(fmt.code_dtype)


def decode(codes: Tensor, fmt: FloatFormat) -> Tensor:
    """float32 values of codes."""
    code = codes.to(torch.int64)
    mantissa = code & ((1 << fmt.mantissa_bits) - 1)
    field = (code >> fmt.mantissa_bits) & ((1 << fmt.exponent_bits) - 1)
    whole = torch.where(field > 0, mantissa + (1 << fmt.mantissa_bits), mantissa).double()
    value = torch.ldexp(whole, field.clamp(min=1) - fmt.bias - fmt.mantissa_bits)
    is_negative = ((code >> (fmt.bits - 1)) & 1).bool()
    return torch.where(is_negative, -value, value).to(torch.float32)


def covering_scale(largest: Tensor, fmt: FloatFormat) -> Tensor:
    """The float32 scale with which the grid's largest number is `largest`."""
    return (largest.float() / fmt.largest).clamp(min=SMALLEST_SCALE)


# Canonical ops --------------------------------------------------------------------------------------------------------


def simulate_float(x: Tensor, scale: float | Tensor, exponent_bits: int, mantissa_bits: int) -> Tensor:
    """An activation as its format holds it: round(x / scale) · scale, in float32."""
    if not x.numel():
        return x.to(torch.float32)
    return round_to(x.to(torch.float32) / scale, FloatFormat(exponent_bits, mantissa_bits)) * scale


def choose_float_scale(x: Tensor, exponent_bits: int, mantissa_bits: int) -> Tensor:
    """The scale of a dynamic activation, from this tensor's own largest absolute value."""
    if not x.numel():
        return torch.ones(())
    return covering_scale(x.detach().abs().amax(), FloatFormat(exponent_bits, mantissa_bits))


def dequantize_floats(codes: Tensor, scale: Tensor, exponent_bits: int, mantissa_bits: int, axis: int | None) -> Tensor:
    """The float32 weight of codes of a small format, with one scale for all, or one for each index along `axis`."""
    values = decode(codes, FloatFormat(exponent_bits, mantissa_bits))
    if axis is None:
        return values * scale
    shape = [1] * codes.dim()
    shape[axis] = -1
    return values * scale.view(shape)


OPS = (simulate_float, choose_float_scale, dequantize_floats)
SAME_SHAPE = (simulate_float, dequantize_floats)
