"""I28 and I29: a diff is empty on the same graph, inverts, applies, and gives planted edits back as exactly those."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fxquant
from fxquant.errors import SchemaError
from fxquant.graphs.change import Change
from fxquant.graphs.diffing import GraphDiff, diff
from fxquant.graphs.patching import Patch
from fxquant.graphs.snapshot import GraphSnapshot, NodeRecord
from support.compiling import compiled
from support.drawn import EDITS, insert, node, planted, rewire, snapshots
from support.models import MODELS
from support.timing import least_seconds

STAGES = ("traced", "prepared", "converted", "lowered")
PAIRS = tuple(itertools.product(STAGES, STAGES))


def changes(found: GraphDiff) -> set[tuple[Change, tuple[str, ...], tuple[str, ...]]]:
    return {(entry.change, entry.before, entry.after) for entry in found if entry.change is not Change.UNCHANGED}


def rewired(found: GraphDiff) -> set[tuple[str, str | None, str | None]]:
    return {(edge.before, edge.old, edge.new) for edge in found.rewires}


def assert_laws(before: GraphSnapshot, after: GraphSnapshot) -> GraphDiff:
    found, back = diff(before, after), diff(after, before)
    assert back == found.inverse()
    assert found.inverse().inverse() == found
    assert Patch.from_json(found.patch.to_json()).apply(before) == after
    assert sorted(name for entry in found for name in entry.before) == sorted(n.name for n in before)
    assert sorted(name for entry in found for name in entry.after) == sorted(n.name for n in after)
    return found


@given(snapshots())
def test_a_graph_does_not_differ_from_itself(graph):
    assert assert_laws(graph, graph).is_empty


@given(snapshots(), snapshots())
def test_two_graphs_of_any_kind_keep_the_laws(before, after):
    assert_laws(before, after)


@given(snapshots())
def test_new_names_and_lines_are_no_difference_and_come_back_with_the_patch(graph):
    names = {n.name: f"renamed_{index}" for index, n in enumerate(graph)}
    after = GraphSnapshot(
        tuple(
            replace(
                n,
                name=names[n.name],
                inputs=tuple(names[source] for source in n.inputs),
                args="(" + ", ".join(f"%{names[s.strip('%')]}" for s in n.args.strip("()").split(", ") if s) + ")",
                where="other.py:1",
            )
            for n in graph
        )
    )
    assert assert_laws(graph, after).is_empty


@given(st.data())
def test_planted_edits_come_back_as_exactly_those_where_nodes_have_origins(data):
    graph = data.draw(snapshots(has_origins=True))
    edited = data.draw(planted(graph))
    found = assert_laws(graph, edited.graph)
    assert changes(found) == set(edited.entries)
    assert rewired(found) == set(edited.rewires)


@given(st.data())
def test_planted_edits_come_back_as_exactly_those_in_a_foreign_graph_of_distinct_ops(data):
    graph = data.draw(snapshots(has_origins=False, is_distinct=True))
    edited = data.draw(planted(graph))
    found = assert_laws(graph, edited.graph)
    assert changes(found) == set(edited.entries)
    assert rewired(found) == set(edited.rewires)


def chain(length: int, odd: dict[int, str] | None = None, skip: int | None = None) -> GraphSnapshot:
    """Identical layers, but for some of another class or one that is missing."""
    nodes = [replace(node("x", "x"), op="placeholder", args="", inputs=())]
    for index in range(length):
        if index != skip:
            nodes.append(node(f"n{index}", (odd or {}).get(index, "linear"), nodes[-1].name))
    return GraphSnapshot((*nodes, replace(node("output", "output", nodes[-1].name), op="output")))


@pytest.mark.parametrize("places", [(500,), (3, 997), (300, 600), (500, 501), (0, 999)])
def test_edits_within_a_thousand_identical_layers_are_found_where_they_are(places):
    found = assert_laws(chain(1000), chain(1000, dict.fromkeys(places, "gelu")))
    assert changes(found) == {(Change.RETYPED, (f"n{place}",), (f"n{place}",)) for place in places}
    assert not found.rewires


def test_one_layer_less_of_a_thousand_is_one_removal_whichever_is_named():
    found = assert_laws(chain(1000), chain(1000, skip=400))
    assert [entry.change for entry in found if entry.change is not Change.UNCHANGED] == [Change.REMOVED]
    assert not found.rewires


@cache
def stages_of(name: str) -> dict[str, GraphSnapshot]:
    model = compiled(MODELS[name])
    return {stage: model.snapshot(stage) for stage in STAGES}


@pytest.mark.parametrize("name", [name for name, case in MODELS.items() if case.is_traceable])
def test_the_stages_of_every_model_keep_the_laws(name):
    graphs = stages_of(name)
    for before, after in PAIRS:
        assert assert_laws(graphs[before], graphs[after]).is_empty is (graphs[before].nodes == graphs[after].nodes)


@pytest.mark.parametrize("name", ["mlp", "encoder", "mobilenet_v2"])
def test_the_stages_keep_the_laws_without_their_origins_too(name):
    graphs = {
        stage: GraphSnapshot(tuple(replace(n, origins=()) for n in graph)) for stage, graph in stages_of(name).items()
    }
    for before, after in PAIRS:
        assert assert_laws(graphs[before], graphs[after]).is_empty is (graphs[before].nodes == graphs[after].nodes)


def test_a_fused_convolution_is_one_replacement_and_an_observer_an_insertion():
    graphs = stages_of("resnet18")
    found = diff(graphs["traced"], graphs["prepared"])
    assert (Change.REPLACED, ("conv1", "bn1", "relu"), ("conv1",)) in changes(found)
    inserted = {found.after[entry.after[0]].kind for entry in found.of(Change.INSERTED)}
    assert inserted and all("Observer" in kind for kind in inserted)
    assert not found.rewires


def test_a_scale_that_changed_is_named_with_both_values():
    graph = stages_of("mlp")["converted"]
    quantize = next(n for n in graph if n.kind == "quantize_per_tensor")
    other = replace(quantize, attributes=tuple((k, "9.5" if k == "scale" else v) for k, v in quantize.attributes))
    after = GraphSnapshot(tuple(other if n is quantize else n for n in graph))
    (entry,) = [entry for entry in diff(graph, after) if entry.change is not Change.UNCHANGED]
    assert entry.deltas == (("scale", quantize.attribute("scale"), "9.5"),)


def edges_with_themselves(before: GraphSnapshot, after: GraphSnapshot) -> GraphDiff:
    """The fault of a well-known comparer: the edges of one graph are held against the edges of the same graph."""
    return replace(diff(before, after), rewires=diff(after, after).rewires)


def test_positive_control_a_comparer_that_compares_edges_with_themselves_is_caught():
    graph = GraphSnapshot((*chain(3).nodes[:-1], replace(node("output", "output", "n2", "n1"), op="output")))
    after = GraphSnapshot((*graph.nodes[:-1], replace(graph["output"], inputs=("n2", "n0"), args="(%n2, %n0)")))
    assert rewired(diff(graph, after)) == {("output", "n1", "n0")}
    assert rewired(edges_with_themselves(graph, after)) != {("output", "n1", "n0")}


@given(st.data())
def test_an_insertion_is_never_told_as_a_rewired_edge(data):
    graph = data.draw(snapshots())
    edited = data.draw(planted(graph, most=1, edits=(insert,)))
    assert not diff(graph, edited.graph).rewires or not graph.nodes[0].origins


@given(st.data())
def test_a_rewired_edge_alone_leaves_every_node_as_it_is(data):
    graph = data.draw(snapshots(has_origins=True))
    edited = data.draw(planted(graph, most=1, edits=(rewire,)))
    assert changes(diff(graph, edited.graph)) == set()


def test_every_edit_is_planted_by_the_laws():
    assert {edit.__name__ for edit in EDITS} == {"retype", "rename", "insert", "remove", "rewire"}


class Version(torch.nn.Module):
    """Two versions of one model: the later one has one activation more, early on."""

    def __init__(self, has_more: bool) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Linear(4, 4) for _ in range(3)])
        self.has_more = has_more

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layers[0](x).relu()
        if self.has_more:
            x = x.tanh().relu()
        x = self.layers[1](x).relu()
        return self.layers[2](x).relu()


def test_two_versions_of_a_model_differ_by_what_was_edited_though_traced_names_shift():
    """`relu_1` is another op in the later version: names that two captures have in common are no identity."""
    found = assert_laws(*(fxquant.snapshot(Version(has_more).eval()) for has_more in (False, True)))
    inserted = [found.after[entry.after[0]].kind for entry in found.of(Change.INSERTED)]
    assert sorted(inserted) == ["relu", "tanh"]
    assert found.counts["removed"] == found.counts["retyped"] == found.counts["replaced"] == 0


def long_graph(count: int, changed: frozenset[int], *, has_origins: bool) -> GraphSnapshot:
    """A chain, every third node of which reads one further back too."""
    nodes = [replace(node("x", "x", origins=("x",) if has_origins else ()), op="placeholder")]
    for index in range(count):
        further = [nodes[max(0, index - 7)].name] if index % 3 == 0 else []
        option = "changed" if index in changed else "same"
        origins = (f"op{index}",) if has_origins else ()
        nodes.append(
            node(f"n{index}", "relu", nodes[-1].name, *further, origins=origins, attributes=(("option", option),))
        )
    return GraphSnapshot((*nodes, replace(node("output", "output", nodes[-1].name), op="output")))


@pytest.mark.parametrize("has_origins", [True, False])
def test_a_diff_of_ten_thousand_nodes_takes_less_than_a_second(has_origins):
    odd = frozenset(range(250, 10_000, 500))
    before, after = (long_graph(10_000, changed, has_origins=has_origins) for changed in (frozenset(), odd))
    assert diff(before, after).counts["retyped"] == len(odd)
    assert (
        least_seconds(lambda: diff(GraphSnapshot(before.nodes), GraphSnapshot(after.nodes)), times=3, enough=1.0) < 1.0
    )


def test_nodes_with_other_attributes_keep_the_laws_whichever_comes_first():
    """An observer that became one of another class: each has attributes that the other has not."""
    histogram = NodeRecord("a", "call_module", "a", "HistogramObserver", origins=("a",))
    fixed = replace(histogram, kind="FixedQParamsObserver", attributes=(("scale", "1"), ("zero_point", "0")))
    histogram = replace(histogram, attributes=(("options", "x"), ("eps", "1"), ("min_val", "2")))
    assert len(assert_laws(GraphSnapshot((histogram,)), GraphSnapshot((fixed,))).entries[0].deltas) == 6


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda patch: patch.update(schema=99), "its schema is not"),
        (lambda patch: patch["steps"][0].__setitem__(0, "leap"), "there is no step 'leap'"),
        (lambda patch: patch["steps"][0][1].update(first=-1), "-1 is no position"),
        (lambda patch: patch["steps"][0][1].update(count=True), "True is no position"),
        (lambda patch: patch.pop("renamed"), "renamed"),
    ],
)
def test_a_patch_that_was_spoilt_is_refused_with_what_is_wrong_with_it(spoil, told):
    before = GraphSnapshot((node("a", "relu"), node("b", "relu", "a")))
    after = GraphSnapshot((node("a", "relu"), node("b", "relu", "a"), node("c", "gelu", "b")))
    patch = json.loads(diff(before, after).patch.to_json())
    assert [step[0] for step in patch["steps"]] == ["keep", "add"]
    spoil(patch)
    with pytest.raises(SchemaError) as caught:
        Patch.from_json(json.dumps(patch))
    assert caught.value.code == "FXQ621" and told in str(caught.value)
