"""Snapshots as JSON: what was written comes back, the bytes are canonical, and any other text is FXQ620."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import fx

import fxquant
from fxquant.errors import FxQuantError, SchemaError
from fxquant.graphs.snapshot import GraphSnapshot
from support.compiling import compiled
from support.drawn import node, snapshots
from support.models import MODELS

GRAPH = GraphSnapshot((replace(node("x", "x"), op="placeholder"), node("y", "relu", "x")), "Two")


@given(snapshots())
def test_what_was_written_comes_back_to_the_byte(graph):
    text = graph.to_json()
    again = GraphSnapshot.from_json(text)
    assert again == graph and again.to_json() == text and again.digest == graph.digest


@pytest.mark.parametrize("stage", ["traced", "prepared", "converted", "lowered"])
def test_every_stage_of_a_real_model_comes_back(stage):
    graph = compiled(MODELS["encoder"]).snapshot(stage)
    assert GraphSnapshot.from_json(graph.to_json()) == graph


def edited(**changes):
    payload = json.loads(GRAPH.to_json())
    payload["nodes"][1].update(changes)
    return json.dumps(payload)


def whole(**changes):
    return json.dumps({**json.loads(GRAPH.to_json()), **changes})


MALFORMED = {
    "empty": "",
    "a number": "3",
    "a list": "[]",
    "no nodes": '{"schema":2,"title":""}',
    "a key twice": '{"schema":2,"schema":2,"title":"","nodes":[]}',
    "not closed": GRAPH.to_json()[:-1],
    "deep": "[" * 100_000,
    "another schema": whole(schema=1),
    "a huge number": whole(schema=10**400) if sys.get_int_max_str_digits() == 0 else '{"schema":' + "9" * 5000 + "}",
    "a title that is no text": whole(title=3),
    "nodes that are no list": whole(nodes={}),
    "one key more": edited(code="print()"),
    "an op of its own": edited(op="exec"),
    "a name that is no text": edited(name=1),
    "a name that is no name": edited(name="x=print()"),
    "a name twice": edited(name="x"),
    "a dangling input": edited(inputs=["nobody"]),
    "a dangling reference": edited(args="(%nobody)"),
    "itself as an input": edited(inputs=["y"]),
    "an input that is no text": edited(inputs=[None]),
    "an attribute of three": edited(attributes=[["a", "b", "c"]]),
    "a negative size": edited(values=[{"dtype": "float32", "shape": [-1]}]),
    "a size that is a bool": edited(values=[{"dtype": "float32", "shape": [True]}]),
    "a rank of 65": edited(values=[{"dtype": "float32", "shape": [1] * 65}]),
    "a value without a dtype": edited(values=[{"shape": [1]}]),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_text_is_refused_with_what_is_wrong_with_it(name):
    with pytest.raises(SchemaError) as caught:
        GraphSnapshot.from_json(MALFORMED[name])
    assert caught.value.code == "FXQ620" and len(str(caught.value)) < 600


@given(
    st.text()
    | st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)).map(
        json.dumps
    )
)
@example('{"schema":NaN}')
def test_no_text_gives_any_other_error(text):
    try:
        GraphSnapshot.from_json(text)
    except FxQuantError as error:
        assert error.code == "FXQ620"


@given(st.data())
def test_a_byte_that_was_changed_is_refused_or_read_as_what_it_says(data):
    text = data.draw(snapshots()).to_json()
    at = data.draw(st.integers(0, len(text) - 1))
    broken = text[:at] + data.draw(st.characters(max_codepoint=127)) + text[at + 1 :]
    try:
        graph = GraphSnapshot.from_json(broken)
    except SchemaError:
        return
    assert json.loads(graph.to_json()) == json.loads(broken)


def test_the_digest_knows_structure_and_no_names():
    renamed = GraphSnapshot(
        (replace(GRAPH.nodes[0], name="z"), replace(GRAPH.nodes[1], name="w", args="(%z)", inputs=("z",)))
    )
    assert renamed.digest == GRAPH.digest
    assert GraphSnapshot((GRAPH.nodes[0], replace(GRAPH.nodes[1], kind="gelu"))).digest != GRAPH.digest
    literal = GraphSnapshot((GRAPH.nodes[0], replace(GRAPH.nodes[1], args="(%x, '%%x')")))
    assert literal.digest != GRAPH.digest


SCRIPT = """
import sys; sys.path.insert(0, sys.argv[1])
from support.compiling import compiled
from support.models import MODELS
model = compiled(MODELS["mlp"])
for stage in ("traced", "prepared", "converted", "lowered"):
    print(model.snapshot(stage).to_json(), model.snapshot(stage).digest)
print(model.diff("traced", "lowered").to_json())
"""


def test_two_processes_with_other_hash_seeds_write_the_same_bytes():
    tests = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    outputs = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT, tests],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_a_snapshot_can_be_had_of_a_plain_graph_module_and_of_a_model():
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU()).eval()
    plain = fxquant.snapshot(torch.fx.symbolic_trace(model), example_inputs=(torch.ones(2, 4),))
    traced = fxquant.snapshot(model, example_inputs=torch.ones(2, 4))
    for graph in (plain, traced):
        assert [str(value) for n in graph for value in n.values] == ["float32[2×4]", "float32[2×3]", "float32[2×3]"]
    assert not fxquant.diff(plain, traced).of(fxquant.graphs.change.Change.REPLACED)
    assert all(not n.values for n in fxquant.snapshot(torch.fx.symbolic_trace(model)))


def test_a_tensor_by_itself_is_one_argument_of_a_graph_module_too():
    """Not a row for each argument: shapes would be those of one sample, and nothing would say so."""
    import torch
    from torch import fx, nn

    import fxquant

    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU()).eval()
    for source in (model, fx.symbolic_trace(model)):
        for inputs in (torch.ones(5, 3), (torch.ones(5, 3),), [torch.ones(5, 3)]):
            shapes = {node.name: node.values[0].shape for node in fxquant.snapshot(source, example_inputs=inputs)
                      if node.op == "call_module"}  # fmt: skip
            assert shapes and set(shapes.values()) == {(5, 2)}


def test_values_in_a_dict_and_a_tensor_among_the_arguments_are_told_by_dtype_and_shape():
    graph = fx.Graph()
    x = graph.placeholder("x")
    made = graph.call_function(dict, (), {"a": x, "b": torch.ones(3)})
    made.meta["val"] = {"a": torch.ones(2), "b": [torch.ones(3, dtype=torch.int64)]}
    graph.output(made)
    module = fx.GraphModule({}, graph)
    found = fxquant.snapshot(module)
    assert fxquant.snapshot(found) is found
    record = found["dict_1"]
    assert "tensor[3]" in record.args
    assert [(value.dtype, value.shape) for value in record.values] == [("float32", (2,)), ("int64", (3,))]
