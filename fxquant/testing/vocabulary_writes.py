"""Kinds of op that write in place: to a value, through a view of it, or to a buffer. Most give the value itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from fxquant.testing.kind import Kind, Values

if TYPE_CHECKING:
    from fxquant.testing.spec import Op


def _are_apart(op: Op, values: Values) -> bool:
    """Alike, and without memory in common: torch refuses to write where it reads."""
    return values[0].shape == values[1].shape and values[0].owner != values[1].owner


def _relu(op: Op, part: Any, x: Any) -> Any:
    if op.form == "module":
        return part(x)
    return x.relu_() if op.form == "method" else F.relu(x, inplace=True)


def _augmented(op: Op, part: Any, x: Any, y: Any) -> Any:
    x += y
    return x


def _set_item(op: Op, part: Any, x: Any) -> Any:
    x[..., :1] = 0.25
    return x


def _set_slice(op: Op, part: Any, x: Any, y: Any) -> Any:
    x[:, :1] = y[:, :1]
    return x


def _through_slice(op: Op, part: Any, x: Any) -> Any:
    x[..., :1].mul_(2.0)
    return x


def _through_flatten(op: Op, part: Any, x: Any) -> Any:
    x.flatten(1).add_(0.5)
    return x


def _count(op: Op, part: Any, x: Any) -> Any:
    part.add_(1.0)
    return x


WRITES = (
    Kind("relu_", part=lambda op, values: nn.ReLU(inplace=True) if op.form == "module" else None, call=_relu,
         draws=("form",), is_module=True, is_write=True),
    Kind("add_", fits=_are_apart, call=lambda op, part, x, y: x.add_(y), arity=2, is_write=True),
    Kind("mul_", call=lambda op, part, x: x.mul_(0.5), is_write=True),
    Kind("hardtanh_", call=lambda op, part, x: F.hardtanh_(x), is_write=True),
    Kind("copy_", fits=_are_apart, call=lambda op, part, x, y: x.copy_(y), arity=2, is_write=True),
    Kind("augmented", fits=_are_apart, call=_augmented, arity=2, is_write=True),
    Kind("set_item", call=_set_item, is_write=True),
    Kind("set_slice", fits=_are_apart, call=_set_slice, arity=2, is_write=True),
    Kind("through_slice", call=_through_slice, is_write=True),
    Kind("through_flatten", fits=lambda op, values: values[0].is_contiguous, call=_through_flatten, is_write=True),
    Kind("count", part=lambda op, values: torch.zeros(1), call=_count, is_view=True),
)  # fmt: skip
