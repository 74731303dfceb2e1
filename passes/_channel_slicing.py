"""Taking channels out: smaller tensors in new modules under the old names, and calls that name the new numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fxquant.graphs.channels import Alive, Channels, indices, kept
from fxquant.passes._channel_flow import Count, Flow, Rewrite, tensors_of
from fxquant.passes._placing import attribute_of, replace_at, twin
from fxquant.program import Program


def shrink(program: Program, flow: Flow, alive: Alive) -> None:
    """Rewrite the program in place so that only the channels that are alive are left."""
    tensors = _sliced(tensors_of(program.graph_module), flow.channels, alive)
    modules: dict[int, nn.Module] = {}
    for node in list(program.graph.nodes):
        target = str(node.target)
        if node.op == "call_module":
            module = program.graph_module.get_submodule(target)
            if id(module) not in modules:
                modules[id(module)] = _smaller(module, tensors, flow.attributes.get(target, {}), alive)
            if modules[id(module)] is not module:
                modules[id(modules[id(module)])] = modules[id(module)]  # it may be called once more
                replace_at(program.graph_module, target, modules[id(module)])
        elif node.op == "get_attr":
            found = attribute_of(program.graph_module, target)
            if id(found) in tensors:
                owner, _, name = target.rpartition(".")
                setattr(program.graph_module.get_submodule(owner), name, tensors[id(found)])
    for rewrite in flow.rewrites:
        if any(kept(labels, alive) < labels.size for labels in _counted((rewrite.args, dict(rewrite.kwargs)))):
            _rewrite(rewrite, alive)


def _sliced(tensors: dict[str, torch.Tensor], channels: Channels, alive: Alive) -> dict[int, torch.Tensor]:
    """id of a tensor → the smaller one in its place. A tensor that several modules hold has one."""
    small: dict[int, torch.Tensor] = {}
    for axis, labels in channels.axes.items():
        if kept(labels, alive) < labels.size:
            old = tensors[axis.tensor]
            left = torch.from_numpy(indices(labels, alive)).to(old.device)
            small[id(old)] = small.get(id(old), old.detach()).index_select(axis.dim, left)
    for old in tensors.values():
        if id(old) in small and type(small[id(old)]) is torch.Tensor:
            value = _laid_out_like(old, small[id(old)])
            is_parameter = isinstance(old, nn.Parameter)
            small[id(old)] = nn.Parameter(value, requires_grad=old.requires_grad) if is_parameter else value
    return small


def _laid_out_like(old: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Channels last where they were."""
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    layout = layouts.get(old.ndim, torch.contiguous_format)
    is_last = not old.is_contiguous() and old.is_contiguous(memory_format=layout)
    return value.contiguous(memory_format=layout) if is_last else value


def _smaller(
    module: nn.Module, tensors: dict[int, torch.Tensor], attributes: dict[str, Any], alive: Alive
) -> nn.Module:
    numbers = {name: _told(value, alive) for name, value in attributes.items()}
    held = {**module._parameters, **module._buffers}
    changed = {name: tensors[id(tensor)] for name, tensor in held.items() if id(tensor) in tensors}
    if not changed and all(getattr(module, name) == number for name, number in numbers.items()):
        return module
    made = twin(module)
    for name, value in {**changed, **numbers}.items():
        setattr(made, name, value)
    return made


def _rewrite(rewrite: Rewrite, alive: Alive) -> None:
    node = rewrite.node
    if rewrite.function is not None:
        node.op, node.target = "call_function", rewrite.function
    node.args, node.kwargs = _told(rewrite.args, alive), _told(dict(rewrite.kwargs), alive)


def _told(value: Any, alive: Alive) -> Any:
    """The value with each Count as a number."""
    match value:
        case Count(labels=labels):
            return kept(labels, alive)
        case tuple() | list():
            return tuple(_told(item, alive) for item in value)
        case dict():
            return {name: _told(item, alive) for name, item in value.items()}
        case slice():
            return slice(_told(value.start, alive), _told(value.stop, alive), value.step)
    return value


def _counted(value: Any) -> list[Any]:
    match value:
        case Count(labels=labels):
            return [labels]
        case tuple() | list():
            return [found for item in value for found in _counted(item)]
        case dict():
            return _counted(tuple(value.values()))
        case slice():
            return _counted((value.start, value.stop))
    return []
