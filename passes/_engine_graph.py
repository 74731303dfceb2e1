"""The graph that runs on an engine: one call of it where it takes the whole canonical graph, else pieces and torch.

    (x) → conv → relu → (y)        ⇒        (x) → openvino → (y)

An engine that refuses names the node at fault, where it knows it. That node stays in torch and the rest is tried again.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.aliasing import restore_buffers, saved_buffers
from fxquant.engines.engine import Build, EngineModule, EngineRefusal
from fxquant.errors import in_one_line
from fxquant.graphs.snapshot import TensorInfo
from fxquant.ledger import FLOAT
from fxquant.origin import adopt, carry, origins
from fxquant.passes._pieces import Cut, copied_into, same_kind, spoken, subgraph, widened
from fxquant.passes._weights import is_widened_weight
from fxquant.values import fetched, known_value, note_value

MOST_TRIES = 8  # each one compiles the graph anew


@dataclass(frozen=True, slots=True)
class EngineGraph:
    """The lowered graph, its engine calls, and why each of the other canonical nodes stays in torch."""

    graph_module: fx.GraphModule
    engines: tuple[EngineModule, ...]
    in_torch: dict[fx.Node, str] = field(default_factory=dict)

    @property
    def float_type(self) -> str:
        """What its float layers compute in, by what the engine says."""
        return next((engine.float_type for engine in self.engines if engine.float_type), FLOAT)


def engine_graph(
    canonical: fx.GraphModule, leaves: tuple[Tensor, ...], build: Build, target: str, *, may_run: bool = True
) -> EngineGraph:
    """Hand the graph to an engine, whole or in pieces. EngineRefusal when it takes none of it.

    `leaves` is an example of the inputs; with `may_run` False no node of the graph is run on it.
    """
    nodes = {node.name: node for node in canonical.graph.nodes}
    stays: dict[fx.Node, str] = {}
    why = ""
    for _ in range(MOST_TRIES):
        try:
            cut = _worth_a_call(canonical, frozenset(stays))
            return _Assembly(cut, stays, build, target, may_run).finished(leaves)
        except EngineRefusal as refusal:
            more = _more(canonical, nodes.get(refusal.node), stays)
            if not more:
                raise
            why = refusal.why
            stays |= dict.fromkeys(more, _why(canonical, nodes[refusal.node], target, refusal))
    raise EngineRefusal(f"{target} still refuses a part of it after {MOST_TRIES} tries, the last time: {why}")


def _worth_a_call(canonical: fx.GraphModule, stays: frozenset[fx.Node]) -> Cut:
    """The cut where each call of the engine computes something of the model's; a quantize alone is torch's too."""
    cut = Cut(canonical, stays)
    pieces = [cut.piece(index + 1) for index in range(cut.count)]
    small = [node for piece in pieces if not any(map(origins, piece)) for node in piece]
    return _worth_a_call(canonical, stays.union(small)) if small else cut


def _more(canonical: fx.GraphModule, node: fx.Node | None, stays: dict[fx.Node, str]) -> tuple[fx.Node, ...]:
    """What else stays in torch; after the second refusal of a kind, all of that kind."""
    if node is None or node.op in ("placeholder", "output"):
        return ()
    kind = tuple(same_kind(canonical, node))
    at_fault = kind if any(other in stays for other in kind) else (node,)
    found = dict.fromkeys(value for one in at_fault for value in widened(canonical, one))
    return tuple(value for value in found if value not in stays and value.op != "placeholder")


def _why(canonical: fx.GraphModule, node: fx.Node, target: str, refusal: EngineRefusal) -> str:
    return f"stays in torch: {target} does not take {spoken(canonical, node)}: {refusal.why}"


@dataclass
class _Assembly:
    """One try: the calls of a cut are built in order, and put into a graph with what torch computes between them."""

    cut: Cut
    stays: dict[fx.Node, str]
    build: Build
    target: str
    may_run: bool
    graph: fx.Graph = field(default_factory=fx.Graph)
    made: dict[fx.Node, fx.Node] = field(default_factory=dict)  # canonical → lowered
    held: dict[str, Any] = field(default_factory=dict)  # attributes of the lowered module
    engines: list[EngineModule] = field(default_factory=list)

    def finished(self, leaves: tuple[Tensor, ...]) -> EngineGraph:
        canonical, cut = self.cut.canonical, self.cut
        if not cut.count:
            last = next(reversed(self.stays.values()), "it computes nothing")
            raise EngineRefusal(f"{last}, and nothing is left for {self.target}")
        known = self._known(leaves)
        for node in cut.placeholders:
            copied_into(self.graph, node, self.made)
        for index in range(cut.count + 1):
            if nodes := cut.piece(index):
                self._call(nodes, known)
            for node in cut.in_torch(index):
                copied_into(self.graph, node, self.made)
        output = next(node for node in reversed(canonical.graph.nodes) if node.op == "output")
        copied_into(self.graph, output, self.made)
        self._hold()
        made = fx.GraphModule(self.held, self.graph, class_name=type(canonical).__name__)
        return EngineGraph(made.eval(), tuple(self.engines), dict(self.stays))

    def _call(self, nodes: tuple[fx.Node, ...], known: dict[fx.Node, Tensor]) -> None:
        """One call of the engine for these values."""
        piece, taken, given = subgraph(self.cut, nodes)
        if not given:
            return  # nothing reads them
        engine = built(self.build, piece, tuple(known[node] for node in taken))
        self.engines.append(engine)
        name = self._own_name()
        self.held[name] = engine
        call = self.graph.call_module(name, tuple(self.made[node] for node in taken))
        carry(call, *(node for node in nodes if origins(node)))
        note_value(call, tuple(known_value(node) for node in given))
        for index, node in enumerate(given):
            self.made[node] = self.graph.call_function(operator.getitem, (call, index))
            if origins(node):
                carry(self.made[node], node)
            note_value(self.made[node], known_value(node))

    def _own_name(self) -> str:
        name = self.target if len(self.engines) == 1 else f"{self.target}_{len(self.engines)}"
        while hasattr(self.cut.canonical, name):
            name += "_"
        return name

    def _known(self, leaves: tuple[Tensor, ...]) -> dict[fx.Node, Tensor]:
        """An example of each value that is handed from call to call."""
        found = dict(zip(self.cut.placeholders, leaves, strict=True))
        if not self.stays:
            return found
        if self.may_run:
            return _Recorder(self.cut.canonical).values_on(leaves)
        for node in self.cut.levels:
            value = known_value(node)
            if isinstance(value, TensorInfo) and node not in found:
                found[node] = torch.zeros(value.shape, dtype=getattr(torch, value.dtype))
        return found

    def _hold(self) -> None:
        """The modules and tensors that torch reads, weights widened once."""
        canonical = self.cut.canonical
        for node in list(self.graph.nodes):
            if is_widened_weight(node, canonical):
                self._widen(node)
        for node in self.graph.nodes:
            name = str(node.target)
            if node.op in ("get_attr", "call_module") and name not in self.held:
                self.held[name] = fetched(canonical, name)

    def _widen(self, node: fx.Node) -> None:
        canonical = self.cut.canonical
        values: Any = fx.node.map_arg(node.args, lambda source: fetched(canonical, str(source.target)))
        value = values[0].float() if node.op == "call_method" else node.target(*values)  # type: ignore[operator]
        name = f"{node.name}_float"
        while hasattr(canonical, name):
            name += "_"
        self.held[name] = value
        with self.graph.inserting_before(node):
            node.replace_all_uses_with(adopt(self.graph.create_node("get_attr", name), node))
        sources = node.all_input_nodes
        self.graph.erase_node(node)
        for source in sources:
            if not source.users:
                self.graph.erase_node(source)


class _Recorder(fx.Interpreter):
    """Keeps what each canonical node gives."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module, garbage_collect_values=False)

    def values_on(self, leaves: tuple[Tensor, ...]) -> dict[fx.Node, Tensor]:
        """A tensor for each node that gives one."""
        buffers = saved_buffers(self.module)  # type: ignore[arg-type]
        with torch.no_grad():
            self.run(*leaves)
        restore_buffers(self.module, buffers)  # type: ignore[arg-type]
        return {node: value for node, value in self.env.items() if isinstance(value, Tensor)}


def built(build: Build, piece: fx.GraphModule, leaves: tuple[Tensor, ...]) -> EngineModule:
    """The engine's module; whatever stops it is a refusal."""
    try:
        return build(piece, leaves, threads=torch.get_num_threads())
    except (EngineRefusal, MemoryError):
        raise
    except Exception as error:  # engines raise what they like, and each of it means that this one does not run
        raise EngineRefusal(in_one_line(error)) from error
