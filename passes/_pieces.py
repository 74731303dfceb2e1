"""A graph in pieces: what an engine takes goes to it in as few calls as can be, what it refuses stays in torch between.

    conv → odd → conv → add(·, conv₁)        ⇒        engine₁ → odd → engine₂

With e(n) the most engine calls on any path up to n, an engine's node belongs to call e(n), and an op of torch runs
after call e(n) and before the next:

    e(n) = max(e(m) if m is the engine's else e(m) + 1)      n an engine's node, over its inputs m; 1 at least
    e(n) = max(e(m))                                         n of torch; 0 without inputs

So no call waits for itself (the cut is acyclic), and there are as many calls as some path has, which is the fewest.
Weights, sizes and scales are no values to be passed between calls: each call that reads one has its own copy of it.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import fx

from fxquant.aliasing import rewritten, store
from fxquant.engines.engine import EngineRefusal
from fxquant.graphs.snapshot import TensorInfo
from fxquant.passes._shared_memory import views_behind
from fxquant.values import known_value

_PLAIN_METHODS = frozenset({"size", "dim", "numel", "stride", "is_floating_point"})


@dataclass(frozen=True)
class Cut:
    """Which canonical node runs where. `stays` are the nodes that stay in torch."""

    canonical: fx.GraphModule
    stays: frozenset[fx.Node]
    levels: dict[fx.Node, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for node in self.canonical.graph.nodes:
            if node.target is store:
                raise EngineRefusal("the model keeps state between calls, which an engine does not", node.name)
            if self.is_value(node):
                self.levels[node] = self._level(node)

    def _level(self, node: fx.Node) -> int:
        before = [(self.levels[source], self.is_in_torch(source)) for source in self.sources(node)]
        if self.is_in_torch(node):
            return max((level for level, _ in before), default=0)
        return max((level + is_torch for level, is_torch in before), default=1) or 1

    @property
    def placeholders(self) -> tuple[fx.Node, ...]:
        """The model's inputs."""
        return tuple(node for node in self.canonical.graph.nodes if node.op == "placeholder")

    @property
    def count(self) -> int:
        """How many calls of the engine there are."""
        return max((self.levels[node] for node in self.levels if not self.is_in_torch(node)), default=0)

    def is_value(self, node: fx.Node) -> bool:
        """A tensor (or tuple of tensors) that is computed once and handed on; else each reader has its own copy."""
        return node.op != "output" and node not in self.constants and not is_plain(node)

    def is_in_torch(self, node: fx.Node) -> bool:
        """Does it stay outside the engine? An element of a tuple is where the tuple is."""
        owner = node
        while is_element(owner):
            owner = owner.all_input_nodes[0]
        return owner.op == "placeholder" or owner in self.stays

    @cached_property
    def constants(self) -> frozenset[fx.Node]:
        """What is the same in each call: weights, and what is made of them alone."""
        found: set[fx.Node] = set()
        for node in self.canonical.graph.nodes:
            sources = node.all_input_nodes
            if node.op == "get_attr" or (node.op.startswith("call") and sources and found.issuperset(sources)):
                found.add(node)
        return frozenset(found)

    def sources(self, node: fx.Node) -> Iterator[fx.Node]:
        """The values that a node reads, also through sizes and scales."""
        for source in node.all_input_nodes:
            if source in self.constants:
                continue
            if self.is_value(source):
                yield source
            else:
                yield from self.sources(source)

    def piece(self, index: int) -> tuple[fx.Node, ...]:
        """The values that the call with this number computes, in order; calls count from 1."""
        return tuple(n for n, level in self.levels.items() if level == index and not self.is_in_torch(n))

    def in_torch(self, index: int) -> tuple[fx.Node, ...]:
        """The values that torch computes between this call and the next."""
        return tuple(
            n for n, level in self.levels.items() if level == index and self.is_in_torch(n) and n.op != "placeholder"
        )

    def crossing_out(self, nodes: tuple[fx.Node, ...]) -> tuple[fx.Node, ...]:
        """Those of a piece that others read, or the model's output."""
        inside = set(nodes)
        return tuple(node for node in nodes if any(reader not in inside for reader in self.readers(node)))

    def readers(self, node: fx.Node) -> Iterator[fx.Node]:
        """The nodes that read a value, also through sizes and scales."""
        for user in node.users:
            if user.op == "output" or self.is_value(user):
                yield user
            else:
                yield from self.readers(user)


def is_element(node: fx.Node) -> bool:
    """An element of a tuple of tensors."""
    if node.target is not operator.getitem or node.op != "call_function":
        return False
    return _is_tuple(known_value(node.all_input_nodes[0]))


def _is_tuple(value: Any) -> bool:
    return isinstance(value, tuple) and any(isinstance(item, TensorInfo) or _is_tuple(item) for item in value)


def is_plain(node: fx.Node) -> bool:
    """Does it give numbers (a size, a scale) and no tensor?"""
    if node.op in ("placeholder", "get_attr", "output"):
        return False
    value = known_value(node)
    if isinstance(value, TensorInfo) or _is_tuple(value):
        return False
    if value is not None:
        return isinstance(value, (int, float, tuple))
    if node.op == "call_method" and node.target in _PLAIN_METHODS:
        return True
    if node.target is getattr and node.op == "call_function":
        return node.args[1] not in ("T", "mT", "H", "mH", "data", "real", "imag")
    return bool(node.all_input_nodes) and node.op == "call_function" and all(map(is_plain, node.all_input_nodes))


def widened(canonical: fx.GraphModule, node: fx.Node) -> Iterator[fx.Node]:
    """The values that must leave the engine for `node` to leave it: itself, or the readers of a number.

    With a write through views go the views: what an engine hands out is memory of its own, and the write would miss it.
    """
    cut = Cut(canonical, frozenset())
    owner = node
    while is_element(owner):
        owner = owner.all_input_nodes[0]
    if cut.is_value(owner):
        yield owner
        if owner.target is rewritten:
            yield from (view for view in views_behind(canonical, owner) if cut.is_value(view))
    else:
        yield from (reader for reader in cut.readers(owner) if reader.op != "output")


Nodes = tuple[fx.Node, ...]


def subgraph(cut: Cut, nodes: Nodes) -> tuple[fx.GraphModule, Nodes, Nodes]:
    """A graph of these values over the canonical tensors, and the canonical nodes that it takes and that it gives."""
    graph, made, taken = fx.Graph(), dict[fx.Node, fx.Node](), list[fx.Node]()
    inside = set(nodes)
    for source in dict.fromkeys(source for node in nodes for source in cut.sources(node) if source not in inside):
        if _is_tuple(known_value(source)):
            raise EngineRefusal(f"a tuple of tensors, '{source.name}', would have to be handed to it", source.name)
        made[source] = graph.placeholder(source.name)
        taken.append(source)
    for node in nodes:
        copied_into(graph, node, made)
    given = cut.crossing_out(nodes)
    for node in given:
        if _is_tuple(known_value(node)):
            raise EngineRefusal(f"a tuple of tensors, '{node.name}', would have to be handed on", node.name)
    graph.output(tuple(made[node] for node in given))
    return fx.GraphModule(cut.canonical, graph), tuple(taken), given


def copied_into(graph: fx.Graph, node: fx.Node, made: dict[fx.Node, fx.Node]) -> fx.Node:
    """The copy of a canonical node in another graph, with what it reads that is not there yet: numbers and weights."""
    if node not in made:
        for source in node.all_input_nodes:
            copied_into(graph, source, made)
        made[node] = graph.node_copy(node, made.__getitem__)
    return made[node]


def same_kind(canonical: fx.GraphModule, node: fx.Node) -> Iterator[fx.Node]:
    """The nodes that call the same thing: the same function or method, or modules of the same class."""
    kind = _kind(canonical, node)
    return (other for other in canonical.graph.nodes if _kind(canonical, other) == kind)


def _kind(canonical: fx.GraphModule, node: fx.Node) -> tuple[str, Any]:
    is_module = node.op == "call_module"
    return node.op, type(canonical.get_submodule(str(node.target))) if is_module else node.target


def spoken(canonical: fx.GraphModule, node: fx.Node) -> str:
    """What a node calls, in words: 'conv2d', 'GELU', 'roll'."""
    target: Mapping[str, Any] | Any = node.target
    if node.op == "call_module":
        return type(canonical.get_submodule(str(target))).__name__
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))
