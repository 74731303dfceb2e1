"""Ops that Python spells in several ways, and the one spelling that later passes see."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

Form = tuple[Callable[..., Any], tuple[Any, ...]]  # function, positional arguments

_FIELDS = ("values", "indices")  # of what these give
_PAIRS = frozenset({"max", "min", "median", "nanmedian", "mode", "kthvalue", "topk", "sort", "cummax", "cummin"})


def _add(input: fx.Node, other: Any, *, alpha: Any = 1) -> Form | None:
    return (operator.add, (input, other)) if _is_one(alpha) else None


def _sub(input: fx.Node, other: Any, *, alpha: Any = 1) -> Form | None:
    return (operator.sub, (input, other)) if _is_one(alpha) else None


def _mul(input: fx.Node, other: Any) -> Form | None:
    return operator.mul, (input, other)


def _matmul(input: fx.Node, other: Any) -> Form | None:
    return torch.matmul, (input, other)


def _flatten(input: fx.Node, start_dim: int = 0, end_dim: int = -1) -> Form | None:
    return (torch.flatten, (input, start_dim, end_dim)) if isinstance(start_dim, int) else None


def _cat(tensors: Any, dim: int = 0) -> Form | None:
    return torch.cat, (tensors, dim)


def _attribute(input: fx.Node, name: str) -> Form | None:
    if name == "mT":
        return torch.transpose, (input, -2, -1)
    is_pair = str(getattr(input.target, "__name__", input.target)) in _PAIRS and input.op.startswith("call_")
    return (operator.getitem, (input, _FIELDS.index(name))) if is_pair and name in _FIELDS else None


def _is_one(alpha: Any) -> bool:
    return isinstance(alpha, (int, float)) and alpha == 1


FORMS: dict[object, Callable[..., Form | None]] = {
    **dict.fromkeys((torch.add, "add"), _add),
    **dict.fromkeys((torch.sub, torch.subtract, "sub", "subtract"), _sub),
    **dict.fromkeys((torch.mul, torch.multiply, "mul", "multiply"), _mul),
    **dict.fromkeys((torch.matmul, operator.matmul, "matmul", "__matmul__"), _matmul),
    **dict.fromkeys((torch.flatten, "flatten"), _flatten),
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), _cat),
    getattr: _attribute,
}

_SIGNATURES = {target: inspect.signature(form) for target, form in FORMS.items()}

_NUMPY_NAMES = {"axis": "dim", "x": "input", "x1": "input", "x2": "other"}  # torch takes them for the same parameters


def bound(signature: inspect.Signature, node: fx.Node) -> inspect.BoundArguments | None:
    """The node's arguments under the names of the op's parameters, defaults filled in; None for another overload."""
    try:
        found = signature.bind(*node.args, **_torch_names(node.kwargs, signature))
    except TypeError:  # out=, a named dimension, another overload: not a call that the table speaks of
        return None
    found.apply_defaults()
    return found


def form_of(node: fx.Node) -> Form | None:
    """The one spelling of a call; None where it has none."""
    if node.op not in ("call_function", "call_method") or node.target not in FORMS:
        return None
    arguments = bound(_SIGNATURES[node.target], node)
    return None if arguments is None else FORMS[node.target](*arguments.args, **arguments.kwargs)


def _torch_names(kwargs: Mapping[str, Any], signature: inspect.Signature) -> dict[str, Any]:
    known = signature.parameters
    return {name if name in known else _NUMPY_NAMES.get(name, name): value for name, value in kwargs.items()}
