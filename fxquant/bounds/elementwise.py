"""Element by element: sums and products by their exact error terms, functions of one value by the ends of its interval.

A function that falls and then rises has its least value between the ends: that point is looked at too, where the
interval holds it. So max |g(p) - g(v)| over the ends and these points is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fxquant.bounds.bounded import RULES, Bounded, NoBound, lifted, made, rule

Function = Callable[[Tensor], Tensor]


def unary(x: Bounded, function: Function, turns: tuple[float, ...] = (), *, keeps_grid: bool = False) -> Bounded:
    """`function` is monotone between its `turns`."""
    low, high = x.value - x.error, x.value + x.error
    value = function(x.value)
    error = torch.maximum((function(high) - value).abs(), (value - function(low)).abs())
    for turn in turns:
        at = function(torch.full_like(value, turn))
        error = torch.where((low < turn) & (turn < high), torch.maximum(error, (at - value).abs()), error)
    error = torch.where(x.error == 0, 0.0, error)
    found = made(value, error, x.variance * _slope(x, function).square(), of=value.abs() + x.value.abs().clamp(max=1.0))
    if keeps_grid:
        return Bounded(value, error, found.variance, x.grid)
    return found


def _slope(x: Bounded, function: Function) -> Tensor:
    """Over the width that the noise has."""
    width = x.variance.sqrt().clamp(1e-9, 1e9)
    slope = (function(x.value + width) - function(x.value - width)) / (2 * width)
    return torch.where(x.variance == 0, 0.0, slope)


# (name, minimum or maximum of the function). GELU: 2Φ(x) + 2xφ(x) = 0; SiLU: 1 + e^-x (1 + x) = 0; both by bisection.
_TURNS: dict[str, tuple[float, ...]] = {
    "gelu": (-0.7517915246935645,),
    "silu": (-1.2784645427610738,),
    "mish": (-1.1924328203865886,),
    "hardswish": (-1.5, -3.0, 3.0),
    "abs": (0.0,),
    "square": (0.0,),
    "cosh": (0.0,),
}
_GELU_TANH = -0.7524614220710162
_MONOTONE = (
    *("relu", "relu6", "leaky_relu", "elu", "selu", "celu", "hardtanh", "hardsigmoid", "threshold", "clamp", "clip"),
    *("clamp_min", "clamp_max", "sigmoid", "tanh", "softplus", "softsign", "logsigmoid", "hardshrink", "neg", "erf"),
    *("exp", "expm1", "log", "log1p", "log2", "sqrt", "rsqrt", "reciprocal", "atan", "sinh", "asinh"),
)
_KEEPS_GRID = frozenset({"relu"})  # zero is a code


def _of_one(name: str) -> Callable[..., Bounded]:
    home = next(home for home in (F, torch, Tensor) if hasattr(home, name))
    function = getattr(home, name)

    def rule_of_one(input: Any, *args: Any, inplace: bool = False, **kwargs: Any) -> Bounded:
        if inplace:
            raise NoBound("a write in place")
        if name in ("elu", "leaky_relu", "celu") and _slope_of(args, kwargs) < 0:
            raise NoBound("a negative slope")
        turns = _TURNS.get(name, ())
        if name == "gelu" and (kwargs.get("approximate") or (args and args[0])) == "tanh":
            turns = (_GELU_TANH,)
        found = unary(input, lambda x: function(x, *args, **kwargs), turns, keeps_grid=name in _KEEPS_GRID)
        if name == "reciprocal":
            spans = (input.value.abs() <= input.error) & (input.error > 0)
            return made(found.value, torch.where(spans, torch.inf, found.error), found.variance)
        return found

    return rule_of_one


def _slope_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
    given = kwargs.get("negative_slope", kwargs.get("alpha", args[0] if args else 0.0))
    return float(given)


for _name in (*_MONOTONE, *_TURNS):
    RULES[_name] = _of_one(_name)


RULES["log_sigmoid"] = RULES["logsigmoid"]


@rule("prelu")
def prelu(input: Bounded, weight: Tensor) -> Bounded:
    """Rises on both sides of zero, or falls and rises where a slope is negative."""
    dims = input.dim() - 2
    slope = (
        weight.detach().double().view(-1, *[1] * dims) if weight.numel() > 1 and dims >= 0 else weight.detach().double()
    )
    return unary(input, lambda x: torch.where(x >= 0, x, x * slope), (0.0,))


def _wave_of(function: Function) -> Callable[..., Bounded]:
    def wave(input: Bounded) -> Bounded:
        return made(function(input.value), input.error.clamp(max=2.0), input.variance)

    return wave


RULES["sin"], RULES["cos"] = _wave_of(torch.sin), _wave_of(torch.cos)


@rule("glu")
def glu(input: Bounded, dim: int = -1) -> Bounded:
    """First half times sigmoid of the second."""
    first, second = RULES["chunk"](input, 2, dim)
    return mul(first, RULES["sigmoid"](second))


@rule("add")
def add(first: Any, second: Any, *, alpha: float = 1.0) -> Bounded:
    """e = e_a + |alpha| e_b."""
    a, b = lifted(first), lifted(second)
    value = a.value + alpha * b.value
    return made(value, a.error + abs(alpha) * b.error, a.variance + alpha**2 * b.variance)


@rule("sub", "subtract")
def sub(first: Any, second: Any, *, alpha: float = 1.0) -> Bounded:
    """Like add."""
    return add(first, second, alpha=-alpha)


@rule("rsub")
def rsub(first: Any, second: Any, *, alpha: float = 1.0) -> Bounded:
    """second - alpha · first."""
    return add(second, first, alpha=-alpha)


@rule("mul", "multiply")
def mul(first: Any, second: Any) -> Bounded:
    """e = |a| e_b + |b| e_a + e_a e_b."""
    a, b = lifted(first), lifted(second)
    value = a.value * b.value
    error = a.value.abs() * b.error + b.value.abs() * a.error + a.error * b.error
    variance = a.value.square() * b.variance + b.value.square() * a.variance + a.variance * b.variance
    return made(value, error, variance, of=value.abs() + error)


@rule("div", "truediv", "divide", "true_divide")
def div(first: Any, second: Any, *, rounding_mode: str | None = None) -> Bounded:
    """e = (e_a + |a/b| e_b) / (|b| - e_b), where b stays clear of zero."""
    if rounding_mode is not None:
        raise NoBound(f"a division that rounds ({rounding_mode})")
    a, b = lifted(first), lifted(second)
    value = a.value / b.value
    least = b.value.abs() - b.error
    error = torch.where(least > 0, (a.error + value.abs() * b.error) / least, torch.inf)
    variance = (a.variance + value.square() * b.variance) / b.value.square()
    return made(value, torch.where((a.error == 0) & (b.error == 0), 0.0, error), variance)


@rule("pow")
def power(base: Any, exponent: Any) -> Bounded:
    """Of a fixed exponent."""
    if isinstance(exponent, (Bounded, Tensor)) or not isinstance(base, Bounded):
        raise NoBound("a power whose exponent depends on the numbers")
    if exponent == int(exponent) and exponent >= 0:
        return unary(base, lambda x: x**exponent, (0.0,) if int(exponent) % 2 == 0 else ())
    spans = (base.value - base.error <= 0) & (base.error > 0)
    found = unary(base, lambda x: x**exponent)
    return Bounded(found.value, torch.where(spans, torch.inf, found.error), found.variance)


def _choice_of(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Bounded]:
    def choose(first: Any, second: Any) -> Bounded:
        """|max(q, r) - max(v, w)| <= max(e_v, e_w)."""
        a, b = lifted(first), lifted(second)
        return made(
            function(a.value, b.value), torch.maximum(a.error, b.error), torch.maximum(a.variance, b.variance), slack=0
        )

    return choose


RULES["maximum"], RULES["minimum"] = _choice_of(torch.maximum), _choice_of(torch.minimum)
