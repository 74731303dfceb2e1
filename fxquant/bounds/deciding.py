"""Ops that decide: comparisons, arg-maxima, sorting. Known is what the whole interval gives alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fxquant.bounds.bounded import RULES, Bounded, NoBound, lifted, rule


def known(value: Tensor, is_certain: Tensor) -> Any:
    """A plain tensor where all of it is certain; else one that is unbounded where it is not."""
    if bool(is_certain.all()):
        return value
    error = torch.where(is_certain, 0.0, torch.inf).double().expand(value.shape).clone()
    return Bounded(value, error, error.clone())


def _compare(function: Callable[..., Tensor]) -> Callable[..., Any]:
    def compare(first: Any, second: Any) -> Any:
        a, b = lifted(first), lifted(second)
        apart = (a.value - b.value).abs() > a.error + b.error
        return known(function(a.value, b.value), apart | ((a.error == 0) & (b.error == 0)))

    return compare


for _name in ("gt", "lt", "ge", "le", "eq", "ne"):
    RULES[_name] = _compare(getattr(torch, _name))
for _name, _same in (("greater", "gt"), ("less", "lt"), ("greater_equal", "ge"), ("less_equal", "le")):
    RULES[_name] = RULES[_same]


def _isnan(input: Bounded) -> Any:
    return known(input.value.isnan(), input.error.isfinite())


RULES["isnan"] = _isnan


def _arg(name: str, sign: float) -> Callable[..., Any]:
    def best(input: Bounded, dim: int | None = None, keepdim: bool = False) -> Any:
        """The winner is certain when its worst beats the best of all others."""
        value, error = input.value * sign, input.error
        if dim is None:
            value, error, dim_of = value.flatten(), error.flatten(), 0
        else:
            dim_of = dim
        at = value.argmax(dim_of, keepdim=True)
        worst = (value - error).gather(dim_of, at)
        others = (value + error).scatter(dim_of, at, -torch.inf).amax(dim_of, keepdim=True)
        certain = worst > others
        if dim is None:
            return known(at.squeeze(0), certain.squeeze(0))
        return known(*(part if keepdim else part.squeeze(dim_of) for part in (at, certain)))

    return best


RULES["argmax"], RULES["argmin"] = _arg("argmax", 1.0), _arg("argmin", -1.0)


def _winner(name: str) -> Callable[..., Any]:
    kind = torch.return_types.max if name == "max" else torch.return_types.min

    def winner(input: Any, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Any:
        dim = kwargs.get("other", dim)
        if isinstance(dim, (Bounded, Tensor)):
            return RULES["maximum" if name == "max" else "minimum"](input, dim)
        if dim is None:
            return RULES[f"a{name}"](input, tuple(range(input.dim())))
        return kind((RULES[f"a{name}"](input, dim, keepdim), RULES[f"arg{name}"](input, dim, keepdim)))

    return winner


RULES["max"], RULES["min"] = _winner("max"), _winner("min")


@rule("topk")
def topk(input: Bounded, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    """The k-th largest of two lists that differ by e at most differ by max e at most."""
    values, indices = input.value.topk(k, dim, largest, sorted)
    most = input.error.amax(dim, keepdim=True).expand(values.shape)
    noise = input.variance.amax(dim, keepdim=True).expand(values.shape)
    certain = (most == 0) & torch.ones_like(values, dtype=torch.bool)
    found: Any = (Bounded(values, most.clone(), noise.clone()), known(indices, certain))
    return torch.return_types.topk(found)


@rule("item", "tolist", "nonzero", "__int__", "__float__")
def item(input: Bounded, *args: Any) -> Any:
    """A number that Python goes on with."""
    raise NoBound("a number of Python's depends on it")
