"""Ops that only move values: the same op moves the errors. Casts, padding and choosing by a known mask are here too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from fxquant.bounds.bounded import PARTS, RULES, Bounded, Grid, NoBound, lifted, made, rule

_MOVES: tuple[str, ...] = (
    *(
        "view",
        "reshape",
        "flatten",
        "unflatten",
        "squeeze",
        "unsqueeze",
        "view_as",
        "reshape_as",
        "contiguous",
        "clone",
    ),
    *("transpose", "permute", "t", "movedim", "moveaxis", "swapaxes", "swapdims", "flip", "roll", "detach"),
    *("expand", "expand_as", "broadcast_to", "repeat", "tile", "repeat_interleave", "unfold", "as_strided"),
    *("narrow", "select", "index_select", "gather", "take_along_dim", "diagonal", "tril", "triu"),
    *("chunk", "split", "tensor_split", "unbind", "cat", "concat", "stack", "hstack", "vstack"),
    *("pixel_shuffle", "pixel_unshuffle", "channel_shuffle"),
)


def moved(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], grid: Grid | None) -> Any:
    """`function` applied to values, errors and variances alike; a float tensor among the arguments has no error."""
    values, *others = (function(*_part(args, name), **_part(kwargs, name)) for name in PARTS)
    flat, spec = tree_flatten(values)
    errors, variances = (tree_flatten(other)[0] for other in others)
    return tree_unflatten([Bounded(*three, grid) for three in zip(flat, errors, variances, strict=True)], spec)


def _part(value: Any, name: str) -> Any:
    def part(leaf: Any) -> Any:
        is_number = isinstance(leaf, Bounded) or leaf.is_floating_point()
        return getattr(lifted(leaf), name) if is_number else leaf

    return tree_map_only((Bounded, Tensor), part, value)


def grid_of(value: Any) -> Grid | None:
    """The grid that all float tensors among the arguments are on."""
    leaves = [leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, (Bounded, Tensor))]
    numbers = [leaf for leaf in leaves if isinstance(leaf, Bounded) or leaf.is_floating_point()]
    found = {leaf.grid if isinstance(leaf, Bounded) else None for leaf in numbers}
    return found.pop() if len(found) == 1 else None


def _mover(name: str) -> Callable[..., Any]:
    function = next(getattr(home, name) for home in (Tensor, torch, F) if hasattr(home, name))

    def move(*args: Any, **kwargs: Any) -> Any:
        first = [kwargs.pop(key) for key in ("input", "tensors") if key in kwargs]
        args = (*first, *args)
        return moved(function, args, kwargs, grid_of(args))

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
    return moved(Tensor.__getitem__, (source, index), {}, grid_of(source))


@rule("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
def dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """Nothing happens in evaluation."""
    if training and p:
        raise NoBound("dropout in training is random")
    return input


@rule("float", "double")
def floating(input: Any, *args: Any) -> Any:
    """Floats already."""
    return to(input, torch.float32)


@rule("half")
def half(input: Any) -> Any:
    """Rounded to float16."""
    return to(input, torch.float16)


@rule("to", "type", "type_as")
def to(input: Any, *args: Any, **kwargs: Any) -> Any:
    """Between float types: rounded to the narrower one. To others only where nothing is uncertain."""
    given = next((item for item in (*args, *kwargs.values()) if isinstance(item, (torch.dtype, Bounded, Tensor))), None)
    dtype = given.dtype if isinstance(given, (Bounded, Tensor)) else given
    if not isinstance(input, Bounded):
        return input.to(dtype)
    if dtype in (None, torch.float32, torch.float64):
        return input
    if dtype in (torch.float16, torch.bfloat16):
        size = input.value.abs() + input.error + torch.finfo(dtype).tiny
        return made(input.value, input.error, input.variance, slack=torch.finfo(dtype).eps, of=size)
    if not bool(input.error.any()):
        return input.value.to(dtype)
    raise NoBound(f"its float values become {dtype}")


@rule("pad")
def pad(input: Bounded, pad: Any, mode: str = "constant", value: float | None = None) -> Bounded:
    """A constant has no error; zero is a code of every grid."""
    if mode != "constant":
        found: Bounded = moved(F.pad, (input, pad, mode), {}, input.grid)
        return found
    error, variance = (F.pad(part, pad) for part in (input.error, input.variance))
    return Bounded(F.pad(input.value, pad, mode, value), error, variance, None if value else input.grid)


@rule("where")
def where(condition: Any, *others: Any, **kwargs: Any) -> Bounded:
    """Element by element from one of two, by a mask that is known."""
    first, second = (*others, *(kwargs[key] for key in ("input", "other") if key in kwargs))
    if isinstance(first, Tensor) and first.dtype is torch.bool:  # x.where(mask, y)
        condition, first = first, condition
    if isinstance(condition, Bounded):
        raise NoBound("which of two values is taken depends on the numbers")
    a, b = lifted(first), lifted(second)
    value, error, variance = (torch.where(condition, getattr(a, name), getattr(b, name)) for name in PARTS)
    return Bounded(value, error, variance)


@rule("masked_fill")
def masked_fill(input: Any, mask: Any, value: Any) -> Bounded:
    """Another value under the mask."""
    if isinstance(mask, Bounded):
        raise NoBound("which of two values is taken depends on the numbers")
    return where(mask, lifted(value), lifted(input))
