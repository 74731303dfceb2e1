"""Maxima and averages: the same op on the errors bounds the result's error.

|max(q) - max(v)| <= max(e)          |Σ w q - Σ w v| <= Σ w e  where no w is negative
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fxquant.bounds.bounded import RULES, Bounded, NoBound, made, rule, summed_slack
from fxquant.bounds.moving import moved


def _max_pool(name: str) -> Callable[..., Any]:
    function = getattr(F, name)

    def pool(input: Bounded, *args: Any, return_indices: bool = False, **kwargs: Any) -> Any:
        if return_indices:
            raise NoBound("the indices of maxima depend on the numbers")
        return moved(function, (input, *args), kwargs, input.grid)

    return pool


for _name in (f"{kind}max_pool{dims}d" for kind in ("", "adaptive_") for dims in (1, 2, 3)):
    RULES[_name] = _max_pool(_name)


def _extreme(name: str) -> Callable[..., Bounded]:
    def extreme(input: Bounded, dim: Any = (), keepdim: bool = False) -> Bounded:
        error, variance = (part.amax(dim, keepdim) for part in (input.error, input.variance))
        return Bounded(getattr(input.value, name)(dim, keepdim), error, variance, input.grid)

    return extreme


RULES["amax"], RULES["amin"] = _extreme("amax"), _extreme("amin")


def averaged(function: Callable[[Tensor], Tensor], input: Bounded, count: float, *, is_mean: bool) -> Bounded:
    """A sum or average of `count` values each: the noise of an average is a count-th of the average noise."""
    value, error, noise = (function(part) for part in (input.value, input.error, input.variance))
    size = function(input.value.abs() + input.error)
    variance = noise / max(1.0, count) if is_mean else noise
    return made(value, error, variance, slack=summed_slack(count), of=size)


def _average_pool(name: str) -> Callable[..., Bounded]:
    function = getattr(F, name)
    dims = int(name[-2])

    def pool(input: Bounded, *args: Any, **kwargs: Any) -> Bounded:
        size = kwargs.get("kernel_size", args[0] if args else 1)
        count = float(size**dims if isinstance(size, int) else math.prod(size) ** (dims / len(size)))
        if name.startswith("adaptive"):
            count = max(1.0, input.numel() / max(1, function(input.value, *args, **kwargs).numel()))
        return averaged(lambda part: function(part, *args, **kwargs), input, count, is_mean=True)

    return pool


for _name in (f"{kind}avg_pool{dims}d" for kind in ("", "adaptive_") for dims in (1, 2, 3)):
    RULES[_name] = _average_pool(_name)


def _reduction(name: str) -> Callable[..., Bounded]:
    function = getattr(torch, name)

    def reduce(input: Bounded, *args: Any, dtype: Any = None, **kwargs: Any) -> Bounded:
        count = input.numel() / max(1, function(input.value, *args, **kwargs).numel())
        count = float(input.numel()) if name == "cumsum" else count
        return averaged(lambda part: function(part, *args, **kwargs), input, count, is_mean=name == "mean")

    return reduce


for _name in ("mean", "sum", "cumsum"):
    RULES[_name] = _reduction(_name)


@rule("norm")
def norm(
    input: Bounded, p: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None, **kwargs: Any
) -> Bounded:
    """Lengths of two vectors differ by the length of their difference at most."""
    p = kwargs.get("ord", 2 if p in (None, "fro") else p)

    def length(part: Tensor) -> Tensor:
        found: Tensor = torch.linalg.vector_norm(part, p, dim, keepdim)
        return found

    value, error = length(input.value), length(input.error)
    count = input.numel() / max(1, value.numel())
    variance = torch.linalg.vector_norm(input.variance, torch.inf, dim, keepdim)
    return made(value, error, variance, slack=summed_slack(count), of=value + error)


@rule("normalize")
def normalize(input: Bounded, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Any = None) -> Bounded:
    """x / max(|x|, eps): no element is larger than 1 (for p >= 1)."""
    length = RULES["clamp_min"](norm(input, p, dim, True), eps)
    found: Bounded = RULES["div"](input, length)
    cap = 1.0 + found.value.abs()
    return Bounded(found.value, torch.minimum(found.error, cap), found.variance)


@rule("interpolate", "upsample")
def interpolate(input: Bounded, *args: Any, **kwargs: Any) -> Bounded:
    """Nearest moves values; linear takes averages by weights that are not negative; bicubic has negative ones."""
    mode = kwargs.get("mode", args[2] if len(args) > 2 else "nearest")
    if mode == "bicubic":
        raise NoBound("some of bicubic's weights are negative")
    if mode.startswith("nearest"):
        found: Bounded = moved(F.interpolate, (input, *args), kwargs, input.grid)
        return found
    # an average of few neighbours has no more noise than the average of theirs
    return averaged(lambda part: F.interpolate(part, *args, **kwargs), input, 8.0, is_mean=False)
