"""Following channels through a graph: for each value, which layer's channel every index of every dimension is.

Rules (in _channel_layers, _channel_moves, _channel_math) say it for one op each. What no rule follows is frozen, with
the reason: every channel that such a call reads stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from fxquant.graphs.channels import FIXED, Axis, Channels, Labels
from fxquant.graphs.snapshot import TensorInfo
from fxquant.passes._placing import attribute_of
from fxquant.program import Program
from fxquant.values import known_value


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """The labels of each dimension."""

    dims: tuple[Labels, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Size:
    """A number: the size of a dimension with these labels."""

    labels: Labels


@dataclass(frozen=True, slots=True)
class Several:
    """A tuple: of tensors (chunk), or of sizes (x.shape)."""

    items: tuple[State, ...]


State = Tensor | Size | Several | None  # None: nothing that channels have to do with


@dataclass(frozen=True, slots=True, eq=False)
class Count:
    """Stands for an integer in a call's arguments or a module's attributes: how many of these indices stay."""

    labels: Labels


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A call that names a number of channels: how it is written when some are gone."""

    node: fx.Node
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    function: Callable[..., Any] | None = None  # in the place of the node's own


class NotFollowed(Exception):
    """Raised by a rule: why the channels that this call reads have to stay."""


Rule = Callable[["Flow", fx.Node], State]


class Flow:
    """One walk through a program. `channels` is what it finds; the rest is what slicing and counting need to know."""

    def __init__(self, program: Program) -> None:
        self.program, self.channels = program, Channels()
        self.rewrites: list[Rewrite] = []
        self.attributes: dict[str, dict[str, Any]] = {}  # module → its attributes that count channels
        self.work: dict[str, tuple[Labels, ...]] = {}  # node → the axes that its multiplications scale with
        self.consumed: dict[fx.Node, list[tuple[fx.Node, int, Labels]]] = {}  # node → (input, dimension) it sums over
        self.made: dict[fx.Node, Labels] = {}  # node → the output channels of the layer that it calls
        self.consuming: set[Axis] = set()  # the axes of weights that are summed over
        self._states: dict[fx.Node, State] = {}
        self._opaque: list[tuple[nn.Module, str]] = []
        self._names = _names(program.graph_module)

    def walk(self, rule_of: Callable[[fx.Node, nn.Module | None], Rule | None]) -> None:
        """Follow every node, in order."""
        for node in self.program.graph.nodes:
            self._states[node] = self._followed(node, rule_of)
        for module, why in self._opaque:  # what it holds may be tied with what was sliced elsewhere
            for tensor in (*module.parameters(), *module.buffers()):
                for axis, labels in self.channels.axes.items():
                    if axis.tensor == self._names.get(id(tensor)):
                        self.channels.freeze(labels, why)

    def _followed(self, node: fx.Node, rule_of: Callable[[fx.Node, nn.Module | None], Rule | None]) -> State:
        match node.op:
            case "placeholder":
                return fixed(known_value(node))
            case "get_attr":
                return self._fetched(node)
            case "output":
                for source in node.all_input_nodes:
                    self.freeze(source, "it is an output of the model")
                return None
        module = self.program.module_of(node)
        try:
            rule = rule_of(node, module)
            if rule is None:
                raise NotFollowed(f"{told(node, module)} cannot be followed")
            state = rule(self, node)
            if not agrees(state, known_value(node)):
                raise NotFollowed(f"{told(node, module)} gives another shape than expected")
        except NotFollowed as reason:
            self._refuse(node, module, str(reason))
            return fixed(known_value(node))
        return state

    def _refuse(self, node: fx.Node, module: nn.Module | None, why: str) -> None:
        for source in node.all_input_nodes:
            self.freeze(source, why)
        self.rewrites = [rewrite for rewrite in self.rewrites if rewrite.node is not node]
        if module is not None:
            self._opaque.append((module, why))

    def _fetched(self, node: fx.Node) -> State:
        tensor = attribute_of(self.program.graph_module, str(node.target))
        if not isinstance(tensor, torch.Tensor):
            return None
        name = self._names.get(id(tensor))
        if name is None:
            return Tensor(tuple(stay(size) for size in tensor.shape))
        held = (
            stay(1) if size == 1 else self.channels.held(Axis(name, dim), size) for dim, size in enumerate(tensor.shape)
        )
        return Tensor(tuple(held))

    def state(self, value: Any) -> State:
        """What is known of an argument."""
        return self._states.get(value) if isinstance(value, fx.Node) else None

    def dims(self, value: Any) -> tuple[Labels, ...]:
        """The labels of a tensor argument."""
        state = self.state(value)
        if not isinstance(state, Tensor):
            raise NotFollowed(f"the shape of '{value}' is not known")
        return state.dims

    def freeze(self, value: Any, why: str) -> None:
        """All channels of an argument stay."""
        for labels in _all_labels(self.state(value)):
            self.channels.freeze(labels, why)

    def need_plain(self, node: fx.Node, *values: Any) -> None:
        """These arguments must not be numbers of channels that may change."""
        for value in values:
            found: list[fx.Node] = []
            fx.map_arg(value, found.append)
            if any(is_labelled(labels) for one in found for labels in _all_labels(self.state(one))):
                raise NotFollowed(f"'{node.name}' computes with a number of channels")

    def axis(self, tensor: torch.Tensor, dim: int) -> Axis:
        """The name of a dimension of a parameter; the same one for tensors that are tied."""
        if id(tensor) not in self._names:
            raise NotFollowed("its weight is neither a parameter nor a buffer")
        return Axis(self._names[id(tensor)], dim)

    def bind(self, node: fx.Node, tensor: torch.Tensor | None, dim: int, labels: Labels) -> None:
        """This dimension of a parameter goes with these labels."""
        if tensor is not None:
            self.channels.bind(self.axis(tensor, dim), labels, f"'{node.name}' uses a weight of fixed width")

    def note(self, node: fx.Node, **counts: Any) -> None:
        """Attributes of the called module that count channels."""
        self.attributes.setdefault(str(node.target), {}).update(counts)

    def consume(self, node: fx.Node, source: Any, dim: int, labels: Labels) -> None:
        """The call sums over this dimension of an input: a channel that is gone is a zero there."""
        self.consumed.setdefault(node, []).append((source, dim, labels))


def tensors_of(graph_module: fx.GraphModule) -> dict[str, torch.Tensor]:
    """Parameters and buffers by every name that they have."""
    parameters = graph_module.named_parameters(remove_duplicate=False)
    return {**dict(parameters), **dict(graph_module.named_buffers(remove_duplicate=False))}


def _names(graph_module: fx.GraphModule) -> dict[int, str]:
    names: dict[int, str] = {}
    for name, tensor in tensors_of(graph_module).items():
        names.setdefault(id(tensor), name)
    return names


def told(node: fx.Node, module: nn.Module | None) -> str:
    """A call, for a reason."""
    return f"'{node.name}'" if module is None else f"{type(module).__name__} '{node.target}'"


def stay(size: int) -> Labels:
    """Labels of a dimension of which nothing is pruned."""
    return np.full(size, FIXED, dtype=np.int64)


def is_labelled(labels: Labels) -> bool:
    """Is any index of the dimension a channel that might be pruned?"""
    return bool((labels >= 0).any())


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """The shape of the tensor that a node gives."""
    info = known_value(node)
    if not isinstance(info, TensorInfo):
        raise NotFollowed(f"the shape of '{node.name}' is not known")
    return info.shape


def fixed(value: Any) -> State:
    """The state of a value of which nothing is pruned."""
    match value:
        case TensorInfo():
            return Tensor(tuple(stay(size) for size in value.shape))
        case tuple():
            return Several(tuple(fixed(item) for item in value))
    return None


def agrees(state: State, value: Any) -> bool:
    """Has the state the shape that the node is known to give?"""
    match state, value:
        case Tensor(dims=dims), TensorInfo():
            return tuple(labels.size for labels in dims) == value.shape
        case Size(labels=labels), int():
            return labels.size == value
        case Several(items=items), tuple():
            return len(items) == len(value) and all(map(agrees, items, value))
    return state is None or value is None


def _all_labels(state: State) -> Iterator[Labels]:
    match state:
        case Tensor(dims=dims):
            yield from dims
        case Size(labels=labels):
            yield labels
        case Several(items=items):
            for item in items:
                yield from _all_labels(item)
