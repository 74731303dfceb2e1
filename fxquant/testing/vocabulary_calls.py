"""Kinds of op without weights: activations, arithmetic, shapes and pooling."""

from __future__ import annotations

import operator
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from fxquant.testing.kind import Kind, Shape, Values

if TYPE_CHECKING:
    from collections.abc import Callable

    from fxquant.testing.spec import Op

# name → the module, the function and, where torch has one, the method
_ACTIVATIONS: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], Any], str]] = {
    "relu": (nn.ReLU, F.relu, "relu"),
    "relu6": (nn.ReLU6, F.relu6, ""),
    "sigmoid": (nn.Sigmoid, torch.sigmoid, "sigmoid"),
    "tanh": (nn.Tanh, torch.tanh, "tanh"),
    "gelu": (nn.GELU, F.gelu, ""),
    "silu": (nn.SiLU, F.silu, ""),
    "hardswish": (nn.Hardswish, F.hardswish, ""),
    "hardsigmoid": (nn.Hardsigmoid, F.hardsigmoid, ""),
    "hardtanh": (nn.Hardtanh, F.hardtanh, ""),
    "elu": (nn.ELU, F.elu, ""),
    "leaky_relu": (nn.LeakyReLU, F.leaky_relu, ""),
    "softmax": (lambda: nn.Softmax(dim=-1), lambda x: F.softmax(x, dim=-1), ""),
}


def _if_module(make: Callable[[], nn.Module]) -> Callable[[Op, Values], nn.Module | None]:
    """The part of an op that is called as a module or as a function."""
    return lambda op, values: make() if op.form == "module" else None


def _activation(name: str) -> Kind:
    module, function, method = _ACTIVATIONS[name]

    def call(op: Op, part: Any, x: Any) -> Any:
        if op.form == "module":
            return part(x)
        return getattr(x, method)() if op.form == "method" and method else function(x)

    return Kind(name, part=_if_module(module), call=call, draws=("form",), is_module=True)


ACTIVATIONS = tuple(_activation(name) for name in _ACTIVATIONS)


def _are_alike(op: Op, values: Values) -> bool:
    return values[0].shape == values[1].shape


def _cat_fits(op: Op, values: Values) -> bool:
    return values[0].rank == values[1].rank and values[0].shape[1:] == values[1].shape[1:]


def _cat_shape(op: Op, values: Values) -> Shape:
    return (values[0].shape[0] + values[1].shape[0], *values[0].shape[1:])


def _matmul_fits(op: Op, values: Values) -> bool:
    left, right = values
    return left.rank == right.rank > 1 and left.shape[:-2] == right.shape[:-2] and left.shape[-1] == right.shape[-1]


def _matmul_shape(op: Op, values: Values) -> Shape:
    return (*values[0].shape[:-1], values[1].shape[-2])


BINARY = (
    Kind("add", fits=_are_alike, call=lambda op, part, x, y: x + y, arity=2),
    Kind("mul", fits=_are_alike, call=lambda op, part, x, y: x * y, arity=2),
    Kind("sub", fits=_are_alike, call=lambda op, part, x, y: x - y, arity=2),
    Kind("cat", fits=_cat_fits, shape=_cat_shape, call=lambda op, part, x, y: torch.cat([x, y], 1), arity=2),
    Kind(
        "matmul", fits=_matmul_fits, shape=_matmul_shape, arity=2, makes_contiguous=True,
        call=lambda op, part, x, y: torch.matmul(x, y.transpose(-1, -2)),
    ),
)  # fmt: skip

SCALAR = (
    Kind("add_scalar", call=lambda op, part, x: x + 0.5),
    Kind("mul_scalar", call=lambda op, part, x: x * 2),
    Kind("negate", call=lambda op, part, x: operator.neg(x)),
)


def _can_split(op: Op, values: Values) -> bool:
    return values[0].is_contiguous and values[0].rank < 3 and values[0].shape[-1] % 2 == 0


def _split(op: Op, values: Values) -> Shape:
    return (*values[0].shape[:-1], 2, values[0].shape[-1] // 2)


def _merged(op: Op, values: Values) -> Shape:
    return (prod(values[0].shape[:-1]), values[0].shape[-1])


def _half(shape: Shape) -> Shape:
    return (*shape[:-1], shape[-1] // 2)


SHAPES = (
    Kind("identity", part=lambda op, values: nn.Identity(), is_module=True, is_view=True),
    Kind("dropout", part=lambda op, values: nn.Dropout(0.5), is_module=True, is_view=True),
    Kind(
        "flatten", fits=lambda op, values: values[0].rank > 1, shape=lambda op, values: (prod(values[0].shape),),
        part=_if_module(nn.Flatten), is_view=True, makes_contiguous=True,
        call=lambda op, part, x: torch.flatten(x, 1) if part is None else part(x), draws=("form",), is_module=True,
    ),
    Kind(
        "transpose", fits=lambda op, values: values[0].rank > 1, is_view=True, keeps_contiguous=False,
        shape=lambda op, values: (values[0].shape[1], values[0].shape[0], *values[0].shape[2:]),
        call=lambda op, part, x: x.transpose(1, 2),
    ),
    Kind(
        "view", fits=_can_split, shape=_split, part=_split, is_view=True,
        call=lambda op, part, x: x.view(x.shape[0], *part),
    ),
    Kind(
        "reshape", fits=lambda op, values: values[0].rank > 1, shape=_merged, part=_merged, is_view=True,
        call=lambda op, part, x: x.reshape(-1, *part), makes_contiguous=True,
    ),
    Kind("contiguous", call=lambda op, part, x: x.contiguous(), is_view=True, makes_contiguous=True),
    Kind(
        "half", fits=lambda op, values: values[0].shape[-1] > 1, shape=lambda op, values: _half(values[0].shape),
        call=lambda op, part, x: x[..., : x.shape[-1] // 2], is_view=True, keeps_contiguous=False,
    ),
    Kind(
        "chunk", fits=lambda op, values: values[0].shape[0] > 1 and values[0].shape[0] % 2 == 0, is_view=True,
        shape=lambda op, values: (values[0].shape[0] // 2, *values[0].shape[1:]), keeps_contiguous=False,
        call=lambda op, part, x: x.chunk(2, dim=1)[1],
    ),
)  # fmt: skip


def _is_picture(op: Op, values: Values) -> bool:
    return values[0].rank == 3


def _pooled(op: Op, values: Values) -> Shape:
    return (values[0].shape[0], *(size // 2 for size in values[0].shape[1:]))


POOLS = (
    Kind(
        "mean", fits=lambda op, values: values[0].rank > 1, shape=lambda op, values: values[0].shape[:-1],
        call=lambda op, part, x: x.mean(-1),
    ),
    Kind(
        "mean2d", fits=_is_picture, shape=lambda op, values: (values[0].shape[0],),
        call=lambda op, part, x: torch.mean(x, (2, 3)),
    ),
    Kind(
        "max_pool", fits=_is_picture, shape=_pooled, part=_if_module(lambda: nn.MaxPool2d(2)),
        call=lambda op, part, x: F.max_pool2d(x, 2) if part is None else part(x), draws=("form",), is_module=True,
    ),
    Kind(
        "avg_pool", fits=_is_picture, shape=_pooled, part=_if_module(lambda: nn.AvgPool2d(2)),
        call=lambda op, part, x: F.avg_pool2d(x, 2) if part is None else part(x), draws=("form",), is_module=True,
    ),
    Kind(
        "adaptive_pool", fits=_is_picture, shape=lambda op, values: (values[0].shape[0], 1, 1),
        part=lambda op, values: nn.AdaptiveAvgPool2d(1), is_module=True,
    ),
)  # fmt: skip
