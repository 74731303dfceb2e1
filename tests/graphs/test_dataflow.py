"""Critical path and dominators against brute force on drawn graphs; precision changes against what was planted."""

from __future__ import annotations

from itertools import pairwise

import networkx as nx
from hypothesis import given
from hypothesis import strategies as st

from fxquant.graphs.dataflow import (
    ENTRY,
    chokepoints,
    critical_path,
    dominators,
    graph_of,
    precision_changes,
)
from fxquant.graphs.regions import Region
from fxquant.graphs.snapshot import GraphSnapshot
from support.compiled_zoo import of_zoo
from support.planted import FLOATS, Planted, chain


@st.composite
def graphs(draw: st.DrawFn) -> GraphSnapshot:
    """Float ops that each read one or two earlier nodes, with a constant among them; the output reads the last."""
    graph = Planted()
    names = [graph.input(), graph.input(), graph.add("get_attr", "weight", (), FLOATS)]
    for _ in range(draw(st.integers(1, 10))):
        sources = draw(st.lists(st.sampled_from(names[-4:]), min_size=1, max_size=2, unique=True))
        names.append(graph.float(*sources))
    return graph.output(names[-1])


def test_the_networkx_graph_has_every_node_and_edge() -> None:
    snapshot = of_zoo("mlp").snapshot()
    graph = graph_of(snapshot)
    assert list(graph) == [node.name for node in snapshot]
    assert sorted(graph.edges) == sorted(set(snapshot.edges))
    assert graph.nodes["linear_default"]["region"] == "quantized"


@given(graphs(), st.data())
def test_the_critical_path_is_the_longest_path(snapshot: GraphSnapshot, data: st.DataObject) -> None:
    seconds = {node.name: float(data.draw(st.integers(0, 9))) for node in snapshot}
    found = critical_path(snapshot, seconds=seconds)
    graph = graph_of(snapshot)
    weighted = nx.DiGraph()
    for name in graph:  # a node's weight on the edges that leave it; one edge more behind the last
        weighted.add_edges_from((name, reader, {"weight": seconds[name]}) for reader in (*graph[name], "end"))
    assert found.weight == nx.dag_longest_path_length(weighted)
    assert found.weight == sum(seconds[name] for name in found.nodes)
    assert nx.is_path(graph, list(found.nodes))


@given(graphs())
def test_without_a_chokepoint_no_input_reaches_the_output(snapshot: GraphSnapshot) -> None:
    graph = graph_of(snapshot)
    entries = [node.name for node in snapshot if node.op == "placeholder"]
    output = snapshot.nodes[-1].name

    def is_cut(name: str) -> bool:
        rest = graph.subgraph(node for node in graph if node != name)
        return not any(nx.has_path(rest, entry, output) for entry in entries)

    fed = {name for entry in entries for name in nx.descendants(graph, entry)}
    inner = [node.name for node in snapshot if node.op == "call_function" and node.name in fed]
    expected = tuple(name for name in inner if is_cut(name)) if output in fed else ()
    assert chokepoints(snapshot) == expected


def test_the_ends_of_a_diamond_dominate_and_its_arms_do_not() -> None:
    graph = Planted()
    top = graph.float(graph.input())
    left, right = graph.float(top), graph.float(top)
    bottom = graph.float(left, right)
    snapshot = graph.output(bottom)
    assert chokepoints(snapshot) == (top, bottom)
    assert dominators(snapshot)[bottom] == dominators(snapshot)[left] == top
    assert dominators(snapshot)["x_0"] == ENTRY


def test_an_empty_graph_has_no_path_and_no_dominators() -> None:
    empty = GraphSnapshot(())
    assert critical_path(empty).nodes == ()
    assert (dominators(empty), chokepoints(empty), precision_changes(empty)) == ({}, (), ())


@given(st.text("qf", max_size=12))
def test_the_precision_of_a_chain_changes_where_its_letters_do(letters: str) -> None:
    sides = f"f{letters}f"  # the model takes and gives floats
    changes = precision_changes(chain(letters))
    places = [(before, after) for before, after in pairwise(sides) if before != after]
    letter = {Region.QUANTIZED: "q", Region.FLOAT: "f"}
    assert [(letter[change.before], letter[change.after]) for change in changes] == places
    assert all(len(change.through) == 1 for change in changes)


def test_a_dynamic_kernel_changes_the_precision_inside_itself() -> None:
    graph = Planted()
    snapshot = graph.output(graph.dynamic(graph.float(graph.input())))
    assert [(change.after, change.through) for change in precision_changes(snapshot)] == [
        (Region.QUANTIZED, ()),
        (Region.FLOAT, ()),
    ]


def test_pairs_of_quantize_and_dequantize_between_quantized_ops_are_no_change() -> None:
    changes = precision_changes(of_zoo("resnet18").snapshot("converted"))
    assert [(change.source, change.reader) for change in changes] == [("x", "conv2d"), ("linear", "output")]
