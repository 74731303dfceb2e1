"""snapshots(): graphs in order that JSON keeps; each option holds what it says; every kind occurs; the least is a call."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import find, given

from fxquant.graphs.snapshot import GraphSnapshot
from fxquant.testing import snapshots
from fxquant.testing.snapshot_strategies import KINDS, SHAPES


def calls(graph):
    return [node for node in graph if node.op in ("call_function", "call_module")]


@given(snapshots())
def test_nodes_stand_after_what_they_read_and_all_is_read(graph):
    seen = set()
    for node in graph:
        assert {*node.inputs} <= seen and node.name not in seen
        seen.add(node.name)
    assert [node.name for node in graph if not graph.readers[node.name]] == ["output"]


@given(snapshots())
def test_json_keeps_it(graph):
    assert GraphSnapshot.from_json(graph.to_json()) == graph


@given(snapshots(has_origins=True))
def test_with_origins_each_node_has_its_own(graph):
    assert [node.origins for node in graph] == [(node.name,) for node in graph]


@given(snapshots(has_origins=False, is_distinct=True))
def test_without_origins_and_distinct_each_can_be_told_by_its_attributes(graph):
    assert not any(node.origins for node in graph)
    assert len({node.attributes for node in calls(graph)}) == len(calls(graph))


@given(snapshots(has_modules=False, most=3, kinds=("relu",)))
def test_what_is_called_and_how_often_can_be_said(graph):
    assert {(node.op, node.kind, node.scope) for node in calls(graph)} == {("call_function", "relu", "")}
    assert 1 <= len(calls(graph)) <= 3


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_drawn(kind):
    assert find(snapshots(), lambda graph: any(node.kind == kind for node in graph))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_shape_is_drawn(shape):
    assert find(snapshots(), lambda graph: any(node.values and node.values[0].shape == shape for node in graph))


@pytest.mark.parametrize(
    "holds",
    [
        lambda graph: any(node.op == "call_module" and node.target == f"layer1.0.{node.name}" for node in graph),
        lambda graph: any(node.op == "call_function" and node.scope for node in graph),
        lambda graph: len(graph["output"].inputs) == 3,
        lambda graph: any(node.args == "(%x0, %x0)" for node in graph),
        lambda graph: any(len(readers) > 1 for readers in graph.readers.values()),
        lambda graph: any(node.values and node.values[0].dtype == "quint8" for node in graph),
    ],
    ids=["a module", "a scope", "several outputs", "one value twice", "a fork", "codes"],
)
def test_every_shape_of_graph_is_drawn(holds):
    assert find(snapshots(), holds)


def test_it_shrinks_to_one_call():
    found = find(snapshots(), lambda graph: True)
    assert [(node.name, node.kind, node.args) for node in found] == [
        ("x0", "x0", "()"), ("n0", "conv2d", "(%x0)"), ("output", "output", "(%n0)")
    ]  # fmt: skip


def test_snapshots_are_drawn_without_torch():
    code = "import sys; from fxquant.testing import snapshots; snapshots(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
