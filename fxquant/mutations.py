"""Writes that tracing cannot record are refused by name: to unregistered tensors, and assignments in a buffer's place.

What can be recorded (`y[i] = v`, `y += 1`, `self.steps.add_(1)`) is a node by now; functionalize makes it pure.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

from fxquant.errors import MutationError
from fxquant.location import here

_AUGMENTED = "iadd iand ifloordiv ilshift imatmul imod imul ior ipow irshift isub itruediv ixor"
AUGMENTED: dict[str, Callable[..., Any]] = {f"__{name}__": getattr(operator, name) for name in _AUGMENTED.split()}


@contextmanager
def watched(root: nn.Module) -> Iterator[None]:
    """Inside the block a forward() that is traced may only write where the graph can hold it; else FXQ211."""
    attributes = dict(_plain_tensors(root))
    versions = {name: tensor._version for name, tensor in attributes.items()}
    with _assignments_watched():
        yield
    for name, tensor in attributes.items():
        if tensor._version != versions[name]:
            raise MutationError(
                "FXQ211",
                f"forward() writes in place to the tensor '{name}', which is neither parameter nor buffer",
                hint=f"register it: self.register_buffer({name.rpartition('.')[2]!r}, tensor)",
            )


class MadeTensors:
    """Tensors that forward() makes while it is traced: constants of the graph, unless it writes to them later."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[torch.Tensor, int]] = {}

    def remember(self, tensor: torch.Tensor) -> None:
        """The graph holds this tensor as it is now."""
        if not tensor.is_inference():
            self._found.setdefault(id(tensor), (tensor, tensor._version))

    def check(self) -> None:
        """FXQ211 when one was written to since."""
        if any(tensor._version != version for tensor, version in self._found.values()):
            raise MutationError(
                "FXQ211",
                "forward() writes in place to a tensor that it made itself, after using it with an input",
                hint="make a new tensor (out of place) where it is written the second time",
            )


def refuse_assignment(node: str, name: str) -> MutationError:
    """`y.data = v`: a graph has no attributes to assign."""
    return MutationError(
        "FXQ211",
        f"forward() assigns '{name}' of the tensor '{node}', which a graph cannot hold",
        hint=f"write the values in place instead: tensor.copy_(new) where it says tensor.{name} = new",
        where=here(),
    )


def is_augmented(node: fx.Node, base: fx.Node, name: str) -> bool:
    """`y.data += 1` ends with y.data = (the node of that addition)."""
    if node.target not in AUGMENTED.values() or not isinstance(node.args[0], fx.Node):
        return False
    target = node.args[0]
    return target.target is getattr and target.args[0] is base and target.args[1] == name


def _plain_tensors(root: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors that are attributes of a module without being registered."""
    for prefix, module in root.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, torch.Tensor) and not value.is_inference():
                yield (f"{prefix}.{name}" if prefix else name), value


@contextmanager
def _assignments_watched() -> Iterator[None]:
    """`self.steps += 1` assigns the buffer to itself: no news. Any other proxy in a buffer's place is refused."""
    original = nn.Module.__setattr__

    def assign(module: nn.Module, name: str, value: Any) -> None:
        registered = module._buffers.get(name, module._parameters.get(name)) if isinstance(value, fx.Proxy) else None
        if registered is None:
            original(module, name, value)
        elif not _is_augmented_attribute(value.node, name):
            raise MutationError(
                "FXQ211",
                f"forward() puts a new tensor in the place of '{name}' of {type(module).__name__}",
                hint=f"write into it instead: self.{name}.copy_(new)",
                where=here(),
            )

    nn.Module.__setattr__ = assign  # type: ignore[assignment]
    try:
        yield
    finally:
        nn.Module.__setattr__ = original  # type: ignore[method-assign]


def is_write(node: fx.Node) -> bool:
    """Does this node write to its first argument?"""
    if node.op == "call_method":
        name = str(node.target)
        return (name.endswith("_") and not name.endswith("__")) or name in AUGMENTED or name == "__setitem__"
    return node.op == "call_function" and node.target in (*AUGMENTED.values(), operator.setitem)


def _is_augmented_attribute(node: fx.Node, name: str) -> bool:
    while is_write(node) and isinstance(node.args[0], fx.Node):  # each write gives back what it wrote to
        node = node.args[0]
    return node.op == "get_attr" and str(node.target).rpartition(".")[2] == name
