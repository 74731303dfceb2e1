"""Which calls write to a tensor in place, to which one, and what the same call is without the write."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from fxquant.aliasing import applied, with_item
from fxquant.mutations import AUGMENTED


def words(text: str) -> frozenset[str]:
    """A set of names, written as one text."""
    return frozenset(text.split())


class Kind(Enum):
    """What a write changes."""

    DATA = "the values, which every alias sees"
    METADATA = "the shape of this one tensor object; its aliases keep theirs"
    FLAG = "nothing that a graph computes with"
    UNKNOWN = "something that has no out-of-place form here"


@dataclass(frozen=True, slots=True)
class Write:
    """An in-place call: what it writes to, and how to make the call pure (its result is then the new value)."""

    written: fx.Node
    kind: Kind
    purify: Callable[[fx.Node], None]
    changes_dtype: bool = False  # the pure form gives another dtype (a comparison): cast it back


METADATA_METHODS = words("unsqueeze_ squeeze_ t_ transpose_ swapaxes_ swapdims_ detach_")
COMPARISONS = words(
    "eq_ ne_ gt_ lt_ ge_ le_ greater_ greater_equal_ less_ less_equal_ not_equal_"
    " logical_and_ logical_or_ logical_xor_ logical_not_"
)
UNKNOWN_METHODS = words(
    "set_ resize_ resize_as_ as_strided_ rename_ share_memory_ swap_ sparse_resize_ apply_ map_ map2_ data_"
)
# No out-of-place twin, or one that means something else: bernoulli_(p) takes p where bernoulli() takes self for it.
TWINLESS = words(
    "copy_ fill_ fill_diagonal_ random_ uniform_ normal_ bernoulli_ exponential_ geometric_ cauchy_ log_normal_"
)
_PURE_OPERATOR = {"and": "and_", "or": "or_"}


def _pure_operator(name: str) -> Callable[..., Any]:
    """'__iadd__' → operator.add."""
    bare = name.strip("_")[1:]
    found: Callable[..., Any] = getattr(operator, _PURE_OPERATOR.get(bare, bare))
    return found


OPERATORS = {function: _pure_operator(name) for name, function in AUGMENTED.items()}
_IN_PLACE_OPERATORS = frozenset(function for name, function in AUGMENTED.items() if hasattr(torch.Tensor, name))


def write_of(node: fx.Node, graph_module: fx.GraphModule) -> Write | None:
    """The write that this node does, or None."""
    match node.op:
        case "call_method":
            return _of_method(node, str(node.target))
        case "call_function":
            return _of_function(node, node.target)
        case "call_module":
            return _of_module(node, graph_module.get_submodule(str(node.target)))
    return None


def _first(node: fx.Node) -> fx.Node | None:
    """What a call is made on: its first argument, or `input` among its keywords."""
    found = node.args[0] if node.args else node.kwargs.get("input", node.kwargs.get("self"))
    return found if isinstance(found, fx.Node) else None


def _call(node: fx.Node, function: Callable[..., Any], *leading: Any, drop: int = 0) -> None:
    node.op, node.target = "call_function", function
    node.args = (*leading, *node.args[drop:])


def _of_method(node: fx.Node, name: str) -> Write | None:
    written = _first(node)
    if written is None:
        return None
    if name == "__setitem__":
        return Write(written, Kind.DATA, lambda node: _call(node, with_item))
    if name in AUGMENTED:
        return Write(written, Kind.DATA, lambda node: _call(node, _pure_operator(name)))
    if not name.endswith("_") or name.endswith("__"):
        return _with_out(node)
    if name == "requires_grad_":
        return Write(written, Kind.FLAG, lambda node: None)
    if name in UNKNOWN_METHODS or not hasattr(torch.Tensor, name):
        return Write(written, Kind.UNKNOWN, lambda node: None)
    kind = Kind.METADATA if name in METADATA_METHODS else Kind.DATA
    return Write(written, kind, lambda node: _purify_method(node, name), changes_dtype=name in COMPARISONS)


def _purify_method(node: fx.Node, name: str) -> None:
    pure = name.rstrip("_")
    if name == "zero_":
        _call(node, torch.zeros_like)
    elif name == "fill_" and len(node.args) == 2 and isinstance(node.args[1], (bool, int, float)):
        _call(node, torch.full_like)
    elif name in TWINLESS or not hasattr(torch.Tensor, pure):
        _call(node, applied, name)
    else:
        node.target = pure


def _of_function(node: fx.Node, target: Any) -> Write | None:
    written = _first(node)
    if target is operator.setitem and written is not None:
        return Write(written, Kind.DATA, lambda node: _call(node, with_item))
    if target in _IN_PLACE_OPERATORS and written is not None:
        return Write(written, Kind.DATA, lambda node: _call(node, OPERATORS[target]))
    if isinstance(target, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
        return _of_dispatcher_op(node, target)
    if not is_from_torch(target):
        return None
    name = str(getattr(target, "__name__", ""))
    if name.endswith("_") and not name.endswith("__"):
        return _of_torch_function(node, target, name)
    if name in ("batch_norm", "instance_norm") and _trains_statistics(node, target):
        statistics = _argument(node, target, "running_mean")
        return Write(statistics, Kind.UNKNOWN, lambda node: None) if isinstance(statistics, fx.Node) else None
    if written is not None and _argument(node, target, "inplace") is True:
        return Write(written, Kind.DATA, lambda node: _without_inplace(node, target))
    return _with_out(node)


def is_from_torch(target: Any) -> bool:
    """A function of torch itself, rather than the user's own that tracing wrapped."""
    module = getattr(target, "__module__", None) or getattr(getattr(target, "__objclass__", None), "__module__", "")
    return str(module).partition(".")[0] == "torch" or getattr(torch, str(getattr(target, "__name__", "")), 0) is target


def _of_torch_function(node: fx.Node, target: Any, name: str) -> Write | None:
    written = _first(node)
    if written is None:  # torch._foreach_add_([a, b], 1)
        culprit = next(iter(node.all_input_nodes), None)
        return None if culprit is None else Write(culprit, Kind.UNKNOWN, lambda node: None)
    in_functional = str(target.__module__).startswith(("torch.nn", "torch._C._nn"))
    places = (functional, torch) if in_functional else (torch, functional)
    found = next((getattr(place, name[:-1]) for place in places if hasattr(place, name[:-1])), None)
    if found is not None and name not in TWINLESS:
        return Write(written, Kind.DATA, lambda node: _call(node, found))
    if hasattr(torch.Tensor, name) and name not in UNKNOWN_METHODS:
        return Write(written, Kind.DATA, lambda node: _to_method(node, name))
    return Write(written, Kind.UNKNOWN, lambda node: None)


def _to_method(node: fx.Node, name: str) -> None:
    node.op = "call_method"
    _purify_method(node, name)


def _of_dispatcher_op(node: fx.Node, target: Any) -> Write | None:
    overload = target if isinstance(target, torch._ops.OpOverload) else getattr(target, "default", None)
    name = target._schema.name if isinstance(target, torch._ops.OpOverload) else target._qualified_op_name
    is_mutable = name.endswith("_") if overload is None else overload._schema.is_mutable
    culprit = _first(node) or next(iter(node.all_input_nodes), None)
    if not is_mutable or culprit is None:
        return None
    space, _, bare = name.partition("::")
    packet = getattr(getattr(torch.ops, space), bare[:-1], None) if bare.endswith("_") else None
    if packet is None or _first(node) is None:
        return Write(culprit, Kind.UNKNOWN, lambda node: None)
    return Write(culprit, Kind.DATA, lambda node: _call(node, packet))


def _with_out(node: fx.Node) -> Write | None:
    out = node.kwargs.get("out")
    if isinstance(out, fx.Node):
        return Write(out, Kind.DATA, _without_out)
    if isinstance(out, (tuple, list)) and any(isinstance(item, fx.Node) for item in out):
        return Write(next(item for item in out if isinstance(item, fx.Node)), Kind.UNKNOWN, lambda node: None)
    return None


def _without_out(node: fx.Node) -> None:
    node.kwargs = {name: value for name, value in node.kwargs.items() if name != "out"}


@cache
def _parameters(function: Any) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # a builtin: it takes no `inplace`
        return ()


def _argument(node: fx.Node, function: Any, name: str) -> Any:
    if name in node.kwargs:
        return node.kwargs[name]
    names = _parameters(function)
    place = names.index(name) if name in names else len(node.args)
    return node.args[place] if place < len(node.args) else None


def _without_inplace(node: fx.Node, function: Any) -> None:
    place = _parameters(function).index("inplace")
    node.args = tuple(False if index == place else value for index, value in enumerate(node.args))
    node.kwargs = {name: value for name, value in node.kwargs.items() if name != "inplace"}


def _trains_statistics(node: fx.Node, function: Any) -> bool:
    name = "training" if function.__name__ == "batch_norm" else "use_input_stats"
    given = _argument(node, function, name)
    return given is True or (given is None and name == "use_input_stats")


def _of_module(node: fx.Node, module: nn.Module) -> Write | None:
    written = _first(node)
    if written is None or getattr(module, "inplace", False) is not True:
        return None
    return Write(written, Kind.DATA, lambda node: None)  # functionalize puts an out-of-place module there
