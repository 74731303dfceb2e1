"""What weights in groups and in small float formats of a file must mean, before a byte of memory is spent on them.

A file says the shape of a weight and the size of its groups beside packed codes: both are held to what the codes have,
so that nothing grows by more than the eight times that 4 bits take as floats.
"""

from __future__ import annotations

from math import isfinite, prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fxquant.artifact.limits import MOST_RANK
from fxquant.artifact.specs import NodeSpec, Ref
from fxquant.float_formats import FloatFormat, is_format
from fxquant.groups import group_count

if TYPE_CHECKING:
    from fxquant.artifact.semantics import Checker

SMALLEST, LARGEST = 1e-38, 1e38


def dequantize_groups(checker: Checker, spec: NodeSpec) -> None:
    """Packed uint8 rows, their scales, zero points from 0 to 15, a group size, and the shape that they give."""
    packed, scale, zero_point = (checker.constant(argument) for argument in spec.args[:3])
    if packed is None or scale is None or (zero_point is None and spec.args[2] is not None):
        checker.wrong(spec, "its codes, scale and zero point are no tensors of the file")
    shape = _shape(checker, spec, spec.args[4])
    size, group_size = prod(shape[1:]), spec.args[3]
    if packed.dtype is not torch.uint8 or tuple(packed.shape) != (shape[0], (size + 1) // 2):
        checker.wrong(spec, f"{packed.dtype} codes {list(packed.shape)} are not those of a weight {list(shape)}")
    if type(group_size) is not int or not 1 <= group_size <= size:
        checker.wrong(spec, f"its group size is {group_size!r:.40}, its rows have {size} values")
    groups = (shape[0], group_count(size, group_size))
    if scale.dtype not in (torch.float16, torch.float32) or tuple(scale.shape) != groups:
        checker.wrong(spec, f"its scales are {scale.dtype} {list(scale.shape)}, not those of {list(groups)} groups")
    _check_scales(checker, spec, scale)
    if zero_point is None:
        return
    if zero_point.dtype is not torch.uint8 or tuple(zero_point.shape) != groups or bool((zero_point > 15).any()):
        checker.wrong(spec, f"its zero points are {zero_point.dtype} {list(zero_point.shape)}, or beyond 15")


def _shape(checker: Checker, spec: NodeSpec, shape: Any) -> tuple[int, ...]:
    is_shape = isinstance(shape, tuple) and 1 <= len(shape) <= MOST_RANK
    if not is_shape or not all(type(item) is int and 1 <= item < 2**31 for item in shape):
        checker.wrong(spec, f"its shape is {shape!r:.40}")
    found: tuple[int, ...] = shape
    return found


def dequantize_floats(checker: Checker, spec: NodeSpec) -> None:
    """Codes of as many bits as the format has, none of them a NaN, and one scale, or one for each channel."""
    codes, scale = (checker.constant(argument) for argument in spec.args[:2])
    if codes is None or scale is None:
        checker.wrong(spec, "its codes and scale are no tensors of the file")
    fmt, axis = _format(checker, spec, *spec.args[2:4]), spec.args[4]
    if codes.dtype is not fmt.code_dtype:
        checker.wrong(spec, f"its codes are {codes.dtype}, those of {fmt} are {fmt.code_dtype}")
    if axis is not None and (type(axis) is not int or not 0 <= axis < codes.dim()):
        checker.wrong(spec, f"its axis is {axis!r:.40}, its tensor has {codes.dim()} dimensions")
    wanted = () if axis is None else (codes.shape[axis],)
    if scale.dtype is not torch.float32 or tuple(scale.shape) != wanted:
        checker.wrong(spec, f"its scales are {scale.dtype} {list(scale.shape)}, not float32 {list(wanted)}")
    _check_scales(checker, spec, scale)


def simulate_float(checker: Checker, spec: NodeSpec) -> None:
    """A format, and a scale that is a number or is computed."""
    _format(checker, spec, *spec.args[2:4])
    scale = spec.args[1]
    if not isinstance(scale, Ref) and not (type(scale) is float and isfinite(scale) and SMALLEST <= scale <= LARGEST):
        checker.wrong(spec, f"its scale is {scale!r:.40}")


def choose_qparams(checker: Checker, spec: NodeSpec) -> None:
    """A bit width, where one is named."""
    bits = spec.args[2] if len(spec.args) > 2 else 8
    if type(bits) is not int or not 2 <= bits <= 8:
        checker.wrong(spec, f"its bits are {bits!r:.40}, not from 2 to 8")


def choose_float_scale(checker: Checker, spec: NodeSpec) -> None:
    """A format."""
    _format(checker, spec, *spec.args[1:3])


def _format(checker: Checker, spec: NodeSpec, exponent_bits: Any, mantissa_bits: Any) -> FloatFormat:
    if not is_format(exponent_bits, mantissa_bits):
        checker.wrong(spec, f"e{exponent_bits!r:.20}m{mantissa_bits!r:.20} is no format")
    return FloatFormat(exponent_bits, mantissa_bits)


def _check_scales(checker: Checker, spec: NodeSpec, scale: Tensor) -> None:
    size = scale.float()
    if not bool(((size >= SMALLEST) & (size <= LARGEST)).all()):
        checker.wrong(spec, f"a scale is not from {SMALLEST:g} to {LARGEST:g}")
