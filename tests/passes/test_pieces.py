"""Cutting a graph around what an engine refuses: no call waits for itself, and there are as few as can be."""

from __future__ import annotations

import operator
from typing import Any

import networkx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn

import fxquant
from fxquant.aliasing import rewritten, store
from fxquant.engines.engine import EngineRefusal
from fxquant.graphs.snapshot import TensorInfo
from fxquant.origin import mark
from fxquant.passes._engine_graph import engine_graph
from fxquant.passes._pieces import Cut, is_plain, subgraph
from fxquant.values import note_value
from support.engines import choosy, faithful

X = torch.arange(6.0).reshape(2, 3)


@st.composite
def graphs(draw: st.DrawFn) -> tuple[fx.GraphModule, frozenset[fx.Node]]:
    """A graph of additions with a constant here and there, and the nodes of it that stay in torch."""
    graph, root = fx.Graph(), nn.Module()
    root.register_buffer("held", torch.ones(3))
    values, stays = [graph.placeholder("x"), graph.placeholder("y")], []
    held = graph.get_attr("held")
    for _ in range(draw(st.integers(1, 12))):
        left, right = draw(st.sampled_from(values)), draw(st.sampled_from([*values, held]))
        values.append(graph.call_function(torch.add, (left, right)))
        if draw(st.booleans()):
            stays.append(values[-1])
    graph.output(tuple(draw(st.lists(st.sampled_from(values), min_size=1, max_size=3))))
    for node in graph.nodes:
        mark(node, at=None, scope_name="")
        if node.op not in ("output", "get_attr"):
            note_value(node, TensorInfo("float32", (2, 3)))
    return fx.GraphModule(root, graph), frozenset(stays)


def pieces(cut: Cut) -> networkx.DiGraph:
    """Each engine call and each op of torch as a node, and who waits for whom."""
    place = {node: node.name if cut.is_in_torch(node) else cut.levels[node] for node in cut.levels}
    graph = networkx.DiGraph()
    for node, here in place.items():
        graph.add_node(here)
        graph.add_edges_from((place[source], here) for source in cut.sources(node) if place[source] != here)
    return graph


@given(graphs())
def test_a_cut_has_no_cycle(drawn):
    assert networkx.is_directed_acyclic_graph(pieces(Cut(*drawn)))


@given(graphs())
def test_it_has_as_many_calls_as_some_path_needs(drawn):
    """A path needs a call for each of its runs of engine nodes; fewer would put two of them into one call."""
    cut = Cut(*drawn)
    needed = dict.fromkeys(cut.levels, 0)
    for node in cut.levels:
        for source in cut.sources(node):
            enters = not cut.is_in_torch(node) and cut.is_in_torch(source)
            needed[node] = max(needed[node], needed[source] + enters)
    assert cut.count == max(needed.values(), default=0)


@given(graphs())
def test_the_pieces_together_give_what_the_graph_gives(drawn):
    graph_module, stays = drawn
    refused = {node.name for node in stays}

    def build(canonical: fx.GraphModule, leaves: tuple[Tensor, ...], *, threads: int) -> Any:
        for node in canonical.graph.nodes:
            if node.name in refused and node.op != "placeholder":
                raise EngineRefusal("not this one", node.name)
        return faithful()(canonical, leaves, threads=threads)

    leaves = X, X + 1
    try:
        made = engine_graph(graph_module, leaves, build, "openvino")
    except EngineRefusal as refusal:
        assert "nothing is left" in str(refusal) or "tries" in str(refusal) or "computes nothing" in str(refusal)
        return
    for ours, theirs in zip(made.graph_module(*leaves), graph_module(*leaves), strict=True):
        assert torch.equal(ours, theirs)
    assert {node.name for node in made.in_torch} <= refused | {n.name for n in graph_module.graph.nodes}
    assert len(made.engines) == sum(node.op == "call_module" for node in made.graph_module.graph.nodes)


def traced(forward: Any) -> fx.GraphModule:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Tensor) -> Any:
            return forward(self, x)

    graph_module = fx.symbolic_trace(Model())
    for node in graph_module.graph.nodes:
        mark(node, at=None, scope_name="")
    run = fx.Interpreter(graph_module, garbage_collect_values=False)
    run.run(X)
    for node, value in run.env.items():
        if isinstance(value, Tensor):
            note_value(node, TensorInfo(str(value.dtype).removeprefix("torch."), tuple(value.shape)))
        elif isinstance(value, tuple) and isinstance(value[0], Tensor):
            note_value(node, tuple(TensorInfo("float32", tuple(item.shape)) for item in value))
        elif isinstance(value, (int, float)):
            note_value(node, value)
    return graph_module


FORMS = {
    "a size that is read on both sides": (lambda self, x: (torch.relu(torch.roll(torch.exp(x), x.size(0))).view(x.size(0), -1),), torch.roll),
    "two values cross at once": (lambda self, x: (torch.exp(x) + torch.roll(torch.exp(x), 1), torch.relu(x)), torch.roll),
    "it comes first": (lambda self, x: (torch.exp(torch.roll(x, 1)),), torch.roll),
    "it comes last": (lambda self, x: (torch.roll(torch.exp(x), 1),), torch.roll),
    "an output that is an input": (lambda self, x: (x, torch.exp(torch.roll(torch.exp(x), 1))), torch.roll),
    "elements of a tuple": (lambda self, x: (torch.exp(torch.roll(torch.chunk(x, 2)[0], 1)) + torch.chunk(x, 2)[1],), torch.roll),
    "the tuple's own op": (lambda self, x: (torch.exp(torch.chunk(torch.exp(x), 2)[0]),), torch.chunk),
    "an output twice": (lambda self, x: (torch.exp(torch.roll(torch.exp(x), 1)),) * 2, torch.roll),
}  # fmt: skip


@pytest.mark.parametrize("forward, refused", FORMS.values(), ids=FORMS)
def test_what_the_engine_refuses_runs_in_torch(forward, refused):
    graph_module = traced(forward)
    made = engine_graph(graph_module, (X,), choosy(refused), "openvino")
    for ours, theirs in zip(made.graph_module(X), graph_module(X), strict=True):
        assert torch.equal(ours, theirs)
    assert {node.target for node in made.in_torch} == {refused}
    assert 1 <= len(made.engines) <= 2


def test_a_branch_that_waits_for_nothing_joins_the_call_after_the_op_of_torch():
    graph_module = traced(lambda self, x: (torch.exp(torch.roll(x, 1)) + torch.relu(x),))
    assert len(engine_graph(graph_module, (X,), choosy(torch.roll), "openvino").engines) == 1


def test_after_the_second_refusal_of_a_kind_all_of_it_stays():
    def forward(self: nn.Module, x: Tensor) -> Any:
        for _ in range(12):
            x = torch.roll(torch.exp(-x), 1)
        return (torch.exp(x),)

    made = engine_graph(traced(forward), (X,), choosy(torch.roll), "openvino")
    assert len(made.in_torch) == 12 and len(made.engines) == 13


def test_state_is_refused_by_name():
    graph = fx.Graph()
    x = graph.placeholder("x")
    seen = graph.get_attr("seen")
    graph.call_function(store, (seen, graph.call_method("sum", (x,))))
    graph.output((graph.call_function(torch.exp, (x,)),))
    root = nn.Module()
    root.register_buffer("seen", torch.zeros(()))
    with pytest.raises(EngineRefusal, match="keeps state between calls"):
        engine_graph(fx.GraphModule(root, graph), (X,), faithful(), "openvino")


def test_numbers_are_no_values_and_tensors_are():
    graph_module = traced(lambda self, x: (x.view(x.size(0), -1) * x.size(1),))
    told = {node.name: is_plain(node) for node in graph_module.graph.nodes}
    assert told == {"x": False, "size": True, "view": False, "size_1": True, "mul": False, "output": False}


def test_a_piece_is_over_the_tensors_of_the_whole():
    graph = fx.Graph()
    x, held = graph.placeholder("x"), graph.get_attr("held")
    graph.output((graph.call_function(torch.add, (x, held)),))
    root = nn.Module()
    root.register_buffer("held", torch.ones(3))
    whole = fx.GraphModule(root, graph)
    cut = Cut(whole, frozenset())
    piece, taken, given = subgraph(cut, cut.piece(1))
    assert piece.held is whole.held and [node.name for node in (*taken, *given)] == ["x", "add"]


def test_operators_count_as_ops():
    graph_module = traced(lambda self, x: (torch.exp(x) + 1,))
    made = engine_graph(graph_module, (X,), choosy(operator.add), "openvino")
    assert [node.target for node in made.in_torch] == [operator.add] and len(made.engines) == 1


class WritesThroughViews(nn.Module):
    """Both views are of one memory, and the second is read when the first was written."""

    def forward(self, x: Tensor) -> Tensor:
        y = x * 3
        first, last = y.flatten(0, 1), y.flatten(1)
        first.mul_(2.0)
        return last + 1


def test_views_that_a_write_looks_at_stay_in_torch_with_it():
    data = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0))
    program = fxquant.compile(WritesThroughViews(), "int8-dynamic", example_inputs=data, target="onednn").program
    canonical = program.canonical
    found = engine_graph(canonical, (data,), choosy(rewritten), "openvino")
    assert torch.equal(found.graph_module(data)[0], canonical(data)[0])
    assert found.engines and any(node.name.startswith("flatten") for node in found.in_torch)
