"""Small floats and weights in groups: how far rounding to them may move a value.

|round(q / s) s - q| <= spacing(|v| + e) s / 2          nearest, ties to even, in a format whose grid covers q
|dequantized w - w| <= s / 2                            for a group's scale s, which covers the group
bfloat16 kernels round x, the bias and the result: 2^-8 of each, on top of Σ |w| |x|
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from fxquant import float_formats, groups
from fxquant.bounds import rounding
from fxquant.bounds.bounded import SLACK, Bounded, lifted, rule
from fxquant.bounds.rounding import HALF, Step, dynamic_step
from fxquant.float_formats import FloatFormat

WIDENS = (groups.dequantize_groups, float_formats.dequantize_floats)
BFLOAT16 = 2.0**-8  # half a place of 8 significant bits, at most, of the number itself
_BFLOAT16_LAYERS = (F.linear, F.conv1d, F.conv2d, F.conv3d)


@rule("choose_float_scale")
def choose_scale(given: Any, exponent_bits: int, mantissa_bits: int) -> Step:
    """The scale of the largest value that there can be."""
    x, fmt = lifted(given), FloatFormat(exponent_bits, mantissa_bits)
    if not x.numel():
        return Step(0.0, 0.0)
    most, usual = float((x.value.abs() + x.error).max()), float(x.value.abs().max())
    return dynamic_step(most / fmt.largest, usual / fmt.largest, float_formats.SMALLEST_SCALE)


@rule("simulate_float")
def simulate(given: Any, scale: Any, exponent_bits: int, mantissa_bits: int) -> Bounded:
    """Clamped to the range of a static scale, then half of the spacing at the value off, at most."""
    x, fmt = lifted(given), FloatFormat(exponent_bits, mantissa_bits)
    if not rounding.is_rounding() or not x.numel():
        return x
    if isinstance(scale, Step):
        step = _step(x, scale.most, fmt)
        return x.widened(HALF * step, step.square() / 12)
    grid: Any = (scale, fmt)
    if x.grid == grid:
        return x
    most = fmt.largest * scale
    value = x.value.clamp(-most, most)
    above, below = ((x.value + x.error).clamp(-most, most) - value, value - (x.value - x.error).clamp(-most, most))
    step = _step(x, scale, fmt)
    error = torch.maximum(above, below) + HALF * step + SLACK * most
    return Bounded(value, error, torch.minimum(x.variance, error.square()) + step.square() / 12, grid)


def _step(x: Bounded, scale: float, fmt: FloatFormat) -> Tensor:
    """The largest distance of neighbours that a number within x's error can lie between, at any scale up to this."""
    largest = x.value.abs() + x.error
    return (largest * 2.0**-fmt.mantissa_bits).clamp(min=fmt.smallest * scale)


def weight_error(node: fx.Node, value: Tensor, get: Callable[[Any], Any]) -> Tensor:
    """How far a weight that one of WIDENS gives may be from the float one."""
    if node.target is groups.dequantize_groups:
        scale, group_size = get(node.args[1]).double(), int(get(node.args[3]))
        size = value[0].numel()
        spread = scale.repeat_interleave(group_size, dim=1)[:, :size].reshape(value.shape)
        of_groups: Tensor = HALF * spread + 2.0**-20 * value.double().abs()
        return of_groups
    scale, exponent_bits, mantissa_bits, axis = map(get, node.args[1:])
    shape = [-1 if dim == axis else 1 for dim in range(value.dim())] if axis is not None else []
    spread = scale.double().view(shape)
    step = float_formats.spacing(value.double() / spread, FloatFormat(exponent_bits, mantissa_bits)) * spread
    error: Tensor = HALF * step + 2.0**-20 * value.double().abs()
    return error


def bfloat16_slack(node: fx.Node, held: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """What a kernel in bfloat16 may add to a layer on such a weight; None for other nodes."""
    if node.target not in _BFLOAT16_LAYERS or not isinstance(held, Tensor) or held.dtype is not torch.bfloat16:
        return None
    x, weight, bias, *options = args
    bias = None if bias is None else lifted(bias).value.abs()
    reach = lifted(x).value.abs() + lifted(x).error
    size: Tensor = node.target(reach, lifted(weight).value.abs(), bias, *options, **kwargs)
    return 2 * BFLOAT16 * (1 + BFLOAT16) * size
