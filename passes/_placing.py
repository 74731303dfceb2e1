"""Where modules live on a graph module: putting one under a readable, free name, and taking away what is left over."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import TypeVar

import torch
from torch import fx, nn

Kind = TypeVar("Kind", bound=nn.Module)


def attribute_of(graph_module: fx.GraphModule, target: str) -> object:
    """What a get_attr node of this target fetches."""
    owner, _, name = target.rpartition(".")
    found: object = getattr(graph_module.get_submodule(owner), name)
    return found


def place(graph_module: fx.GraphModule, module: nn.Module, *, scope_name: str, stem: str) -> str:
    """Add `module` under the scope as `stem`, or `stem_1`, ... where that is taken. Returns its dotted name."""
    owner = _module_or_none(graph_module, scope_name)
    taken = dir(nn.Module) if owner is None else dir(owner)
    name = next(name for name in _candidates(stem) if name not in taken)
    target = f"{scope_name}.{name}" if scope_name else name
    module.train(graph_module.training)
    if not graph_module.add_submodule(target, module):  # something on the way is no module: at the top it always goes
        return place(graph_module, module, scope_name="", stem=stem)
    return target


def replace_at(graph_module: fx.GraphModule, target: str, module: nn.Module) -> None:
    """Put `module` where `target` names another one, in the same mode of training."""
    owner, _, name = target.rpartition(".")
    module.train(graph_module.get_submodule(target).training)
    setattr(graph_module.get_submodule(owner), name, module)


def sweep(graph_module: fx.GraphModule, targets: Iterable[str]) -> None:
    """Delete each of these modules, parameters or buffers that no node uses any more, neither in part nor in whole."""
    used = {str(node.target) for node in graph_module.graph.nodes if node.op in ("call_module", "get_attr")}
    holders = {holder for target in used for holder in _prefixes(target)}
    for target in dict.fromkeys(targets):
        if target not in used and target not in holders and used.isdisjoint(_prefixes(target)):
            owner, _, name = target.rpartition(".")
            delattr(graph_module.get_submodule(owner), name)


def twin(module: Kind) -> Kind:
    """A module of the same type and options that holds the very same tensors, but may be given others."""
    other = type(module).__new__(type(module))
    other.__dict__ = {
        name: value.copy() if isinstance(value, dict) else value for name, value in module.__dict__.items()
    }
    return other


def as_parameter(tensor: torch.Tensor) -> nn.Parameter:
    """The tensor itself where it is a Parameter, else a frozen Parameter over the same storage."""
    return tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, requires_grad=False)


def _candidates(stem: str) -> Iterable[str]:
    yield stem
    yield from (f"{stem}_{index}" for index in count(1))


def _prefixes(target: str) -> list[str]:
    parts = target.split(".")
    return [".".join(parts[:size]) for size in range(1, len(parts))]


def _module_or_none(graph_module: fx.GraphModule, name: str) -> nn.Module | None:
    try:
        return graph_module.get_submodule(name)
    except AttributeError:  # nothing of that scope was copied yet, or it is not a module
        return None
