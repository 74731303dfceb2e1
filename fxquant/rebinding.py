"""Functions that sit on a module and hold it, or its parts, in their closure: in a deep copy they must hold the copy.

`model.forward = lambda x: old(x) * 2`, as training libraries put it there: `copy.deepcopy` takes functions as they are,
so the copy would call the layers of the model that it was copied from.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from types import CellType, FunctionType, MethodType
from typing import Any

from torch import nn

_DEEPEST = 8  # decorators around each other


def rebind(copied: nn.Module, memo: Mapping[int, Any]) -> None:
    """Let the functions on all modules of a copy hold what deepcopy's `memo` has in the place of the originals."""
    for module in list(copied.modules()):
        for name, value in list(module.__dict__.items()):
            made = _rebound(value, memo, _DEEPEST)
            if made is not value:
                module.__dict__[name] = made


def _rebound(value: Any, memo: Mapping[int, Any], depth: int) -> Any:
    """The same thing where nothing that it holds was copied."""
    if depth == 0:
        return value
    match value:
        case nn.Module():
            return memo.get(id(value), value)
        case MethodType():
            owner, function = (_rebound(part, memo, depth - 1) for part in (value.__self__, value.__func__))
            is_same = owner is value.__self__ and function is value.__func__
            return value if is_same else MethodType(function, owner)
        case functools.partial():
            function = _rebound(value.func, memo, depth - 1)
            return value if function is value.func else functools.partial(function, *value.args, **value.keywords)
        case FunctionType() if value.__closure__:
            return _with_cells(value, memo, depth)
        case list() | tuple() if type(value) in (list, tuple):
            items = [_rebound(item, memo, depth - 1) for item in value]
            return value if all(map(_is, items, value)) else type(value)(items)
        case dict() if type(value) is dict and depth == _DEEPEST:
            pairs = {key: _rebound(item, memo, depth - 1) for key, item in value.items()}
            return value if all(pairs[key] is item for key, item in value.items()) else pairs
    return value


def _is(left: object, right: object) -> bool:
    return left is right


def _with_cells(function: FunctionType, memo: Mapping[int, Any], depth: int) -> FunctionType:
    held = [_contents(cell) for cell in function.__closure__ or ()]
    rebound = [_rebound(value, memo, depth - 1) for value in held]
    if all(map(_is, held, rebound)):
        return function
    made = FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        tuple(CellType(value) if value is not _EMPTY else CellType() for value in rebound),
    )
    made.__kwdefaults__ = copy.copy(function.__kwdefaults__)
    made.__dict__.update({name: _rebound(value, memo, depth - 1) for name, value in function.__dict__.items()})
    return made


_EMPTY = object()


def _contents(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that was never assigned
        return _EMPTY
