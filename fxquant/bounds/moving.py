"""Ops that move values, or take averages or maxima of them: the same op on the errors bounds the result's error.

    |max(q) - max(v)| <= max(e),   |Σ w q - Σ w v| <= Σ w e  for w >= 0
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from fxquant.bounds.bounded import RULES, Bounded, NoBound, double, made, parts, rule

_MOVES = (
    "view reshape flatten unflatten transpose permute t squeeze unsqueeze contiguous expand expand_as repeat tile "
    "narrow select index_select chunk split tensor_split unbind cat concat stack clone detach pixel_shuffle "
    "pixel_unshuffle channel_shuffle roll flip movedim swapaxes swapdims repeat_interleave gather view_as reshape_as "
    "broadcast_to tril triu diagonal unfold hstack vstack as_strided take_along_dim dequantize"
).split()
_IDENTITIES = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "float")
_ORIGIN: dict[str, Any] = {}


def _op(name: str) -> Any:
    return next(getattr(home, name) for home in (Tensor, torch, F) if hasattr(home, name))


def _grids(value: Any) -> Any:
    found = {leaf.grid if isinstance(leaf, Bounded) else None for leaf in tree_flatten(value)[0] if isinstance(leaf, (Bounded, Tensor))}  # fmt: skip
    return found.pop() if len(found) == 1 else None


def _together(values: Any, errors: Any, variances: Any, grid: Any) -> Any:
    flat, spec = tree_flatten(values)
    pairs = zip(flat, tree_flatten(errors)[0], tree_flatten(variances)[0], strict=True)
    return tree_unflatten([Bounded(*pair, grid) for pair in pairs], spec)


def _zero_beside(value: Any, what: str) -> Any:
    """Errors (or variances) of the arguments; a float tensor beside a Bounded has none."""
    from torch.utils._pytree import tree_map_only

    def part(leaf: Any) -> Any:
        if isinstance(leaf, Bounded):
            return getattr(leaf, what)
        return torch.zeros_like(leaf, dtype=torch.float64) if leaf.is_floating_point() else leaf

    return tree_map_only((Bounded, Tensor), part, value)


def moved(function: Any, args: Any, kwargs: Any, grid: Any = None) -> Any:
    """`function` applied to values, errors and variances alike."""
    values = function(*parts(args, "value"), **parts(kwargs, "value"))
    errors, variances = (function(*_zero_beside(args, what), **_zero_beside(kwargs, what)) for what in ("error", "variance"))  # fmt: skip
    return _together(values, errors, variances, grid)


def _mover(name: str) -> Any:
    def move(*args: Any, **kwargs: Any) -> Any:
        kwargs = {key: value for key, value in kwargs.items() if key not in ("input", "tensors")} | {}
        return moved(_op(name), args, kwargs, _grids(args))

    return move


for _name in _MOVES:
    RULES[_name] = _mover(_name)


@rule("getitem", "__getitem__")
def getitem(source: Any, index: Any) -> Any:
    """A part of a tensor, or an item of a tuple of them."""
    if not isinstance(source, (Bounded, Tensor)):
        return source[index]
    if any(isinstance(leaf, Bounded) for leaf in tree_flatten(index)[0]):
        raise NoBound("the place of a read depends on the numbers")
    return moved(Tensor.__getitem__, (source, index), {}, _grids(source))


@rule(*_IDENTITIES)
def identity(x: Any, *args: Any, training: bool = False, **kwargs: Any) -> Any:
    """Nothing happens in evaluation."""
    if training or (args and isinstance(args[-1], bool) and args[-1]):
        raise NoBound("dropout in training mode is random")
    return x


@rule("type_as")
def type_as(x: Any, other: Any) -> Any:
    """To the other one's dtype."""
    return to(x, other.dtype)


@rule("to", "type")
def to(x: Any, *args: Any, **kwargs: Any) -> Any:
    """Between float types: rounded to the narrower."""
    dtype = next((item for item in (*args, *kwargs.values()) if isinstance(item, torch.dtype)), None)
    other = next((item for item in args if isinstance(item, (Bounded, Tensor))), None)
    dtype = other.dtype if other is not None else dtype
    if not isinstance(x, Bounded):
        return x.to(*args, **kwargs)
    if dtype in (None, torch.float32, torch.float64):
        return x
    if dtype in (torch.float16, torch.bfloat16):
        return made(x.value, x.error, x.variance, slack=torch.finfo(dtype).eps, of=x.value.abs() + x.error)
    if not bool(x.error.any()):
        return x.value.to(dtype)
    raise NoBound(f"its float values become {dtype}")


@rule("pad")
def pad(x: Bounded, pad: Any, mode: str = "constant", value: float | None = None) -> Bounded:
    """A constant has no error."""
    grid = x.grid if mode != "constant" or not value else None
    return Bounded(
        F.pad(x.value, pad, mode, value), *(F.pad(part, pad, mode) for part in (x.error, x.variance)), grid
    )


@rule("where")
def where(condition: Any, first: Any = None, second: Any = None, **kwargs: Any) -> Bounded:
    """Element by element from one of two."""
    first, second = kwargs.get("input", first), kwargs.get("other", second)
    if isinstance(condition, Bounded):
        raise NoBound("which of two values is taken depends on the numbers")
    sides = {what: [_side(side, what) for side in (first, second)] for what in ("value", "error", "variance")}
    return Bounded(*(torch.where(condition, *sides[what]) for what in ("value", "error", "variance")))


def _side(side: Any, what: str) -> Tensor:
    if isinstance(side, Bounded):
        found: Tensor = getattr(side, what)
        return found
    filled = torch.as_tensor(side, dtype=torch.float64) if not isinstance(side, Tensor) else side.double()
    return filled if what == "value" else torch.zeros_like(filled)


@rule("masked_fill")
def masked_fill(x: Any, mask: Any, value: Any) -> Any:
    """A constant under the mask."""
    return where(mask, value, x)


# Maxima and averages -------------------------------------------------------------------------------------------------


def _maximum(name: str) -> Any:
    def pool(x: Bounded, *args: Any, **kwargs: Any) -> Any:
        kwargs = {key: value for key, value in kwargs.items() if key not in ("return_indices",) or value}
        if kwargs.get("return_indices"):
            raise NoBound("the indices of maxima depend on the numbers")
        return moved(getattr(F, name), (x, *args), kwargs, x.grid)

    return pool


for _name in ("max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d"):
    RULES[_name] = _maximum(_name)


@rule("amax", "amin")
def amax(x: Bounded, dim: Any = (), keepdim: bool = False) -> Bounded:
    """|max(q) - max(v)| <= max(e); min alike."""
    raise NoBound("replaced below")


def _extreme(name: str) -> Any:
    def extreme(x: Bounded, dim: Any = (), keepdim: bool = False) -> Bounded:
        value = getattr(x.value, name)(dim, keepdim)
        return Bounded(value, x.error.amax(dim, keepdim), x.variance.amax(dim, keepdim), x.grid)

    return extreme


RULES["amax"], RULES["amin"] = _extreme("amax"), _extreme("amin")


def _average(name: str) -> Any:
    def pool(x: Bounded, *args: Any, **kwargs: Any) -> Bounded:
        function = getattr(F, name, None) or getattr(torch, name)
        value = function(x.value, *args, **kwargs)
        error = function(x.error, *args, **kwargs)
        size = function((x.value.abs() + x.error), *args, **kwargs)
        ones = function(torch.ones_like(x.value), *args, **kwargs)
        count = _count(x.value, value, name, args, kwargs)
        return made(value, error, function(x.variance, *args, **kwargs) / count * ones, slack=(count + 4) * 2**-24, of=size)

    return pool


def _count(before: Tensor, after: Tensor, name: str, args: Any, kwargs: Any) -> float:
    """How many values each result is made of."""
    if name.startswith("avg_pool"):
        size = kwargs.get("kernel_size", args[0] if args else 1)
        dims = int(name[-2])
        return float(size**dims if isinstance(size, int) else math.prod(size) ** (dims if len(size) == 1 else 1))
    return max(1.0, before.numel() / max(1, after.numel()))


for _name in (
    *(f"avg_pool{d}d" for d in (1, 2, 3)),
    *(f"adaptive_avg_pool{d}d" for d in (1, 2, 3)),
):
    RULES[_name] = _average(_name)


@rule("mean", "sum", "cumsum")
def mean(x: Bounded, *args: Any, **kwargs: Any) -> Bounded:
    """Replaced below by one function each."""
    raise NoBound("replaced below")


def _reduced(name: str) -> Any:
    def reduce(x: Bounded, *args: Any, **kwargs: Any) -> Bounded:
        kwargs.pop("dtype", None)
        function = getattr(torch, name)
        value, error, variance = (function(part, *args, **kwargs) for part in (x.value, x.error, x.variance))
        size = function(x.value.abs() + x.error, *args, **kwargs)
        count = x.numel() / max(1, value.numel()) if name != "cumsum" else x.numel()
        noise = variance / max(1.0, count) if name == "mean" else variance
        return made(value, error, noise, slack=(count + 4) * 2**-24, of=size)

    return reduce


for _name in ("mean", "sum", "cumsum"):
    RULES[_name] = _reduced(_name)


@rule("interpolate", "upsample")
def interpolate(x: Bounded, *args: Any, **kwargs: Any) -> Bounded:
    """Nearest moves values; linear takes averages with weights that are not negative; bicubic's are."""
    mode = kwargs.get("mode", args[2] if len(args) > 2 else "nearest")
    if mode == "bicubic":
        raise NoBound("bicubic weights are negative in part")
    made_of = moved(F.interpolate, (x, *args), kwargs, x.grid if mode.startswith("nearest") else None)
    return made_of if mode.startswith("nearest") else made(made_of.value, made_of.error, made_of.variance)


__all__ = ["double", "moved"]
