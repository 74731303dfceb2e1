"""The dtypes and shapes of a snapshot are those of a real run, at every stage; finding them out changes nothing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import fx, nn

import fxquant
from fxquant.structure import flatten
from support.asserts import untouched
from support.compiling import compiled
from support.models import MODELS

TRACEABLE = {name: case for name, case in MODELS.items() if case.is_traceable}


class Seen(fx.Interpreter):
    """The dtype and shape of every tensor that a run gives, by node."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.values: dict[str, list[str]] = {}

    def run_node(self, node: fx.Node) -> Any:
        value = super().run_node(node)
        tensors = [leaf for leaf in flatten(value)[0] if isinstance(leaf, torch.Tensor)]
        self.values[node.name] = [f"{str(t.dtype)[6:]}[{'×'.join(map(str, t.shape))}]" for t in tensors]
        return value


@pytest.mark.parametrize("preset", ["int8", "int8-dynamic", "int8-weight-only"])
@pytest.mark.parametrize("name", TRACEABLE)
def test_what_a_snapshot_says_of_a_node_is_what_a_run_gives(name, preset):
    model = compiled(TRACEABLE[name], preset)
    rows = [value.shape for node in model.snapshot() if node.op == "placeholder" for value in node.values]
    inputs = [leaf[: shape[0]] for leaf, shape in zip(model.program.example_leaves, rows, strict=True)]
    for graph_module, stage in ((model.canonical, "converted"), (model.graph_module, "lowered")):
        seen = Seen(copy.deepcopy(graph_module))
        with torch.no_grad():
            seen.run(*inputs)
        told = {node.name: [str(value) for value in node.values] for node in model.snapshot(stage)}
        wrong = {
            node: (values, seen.values[node])
            for node, values in told.items()
            if values and node != "output" and values != seen.values[node]
        }
        assert not wrong
        unknown = [node.name for node in model.snapshot(stage) if not node.values and seen.values[node.name]]
        assert [node for node in unknown if node != "output" and "packed" not in node] == []


class Counting(nn.Module):
    """A module of the user's own that does something when it is called."""

    calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.register_buffer("total", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total += 1
        return self.inner(x)


def test_what_a_leaf_module_writes_does_not_reach_the_compiled_model():
    model, data = nn.Sequential(nn.Linear(4, 4), Counting()).eval(), torch.randn(8, 4)
    with untouched(model):
        found = fxquant.compile(model, "int8", calibration_data=data, leaf_modules=[Counting])
    assert [str(value) for value in found.snapshot("traced")["_1"].values] == ["float32[8×4]"]
    counted = dict(found.graph_module.named_buffers())
    totals = [float(total) for name, total in counted.items() if name.endswith("total")]
    assert totals == [0.0], "calibration and parity call it too, and put it back"


class Picky(nn.Module):
    """It raises on the example, which only calibration may say."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(-1, 3)


def test_a_graph_that_fails_on_its_example_has_no_values_and_fails_where_it_did_before():
    graph = fxquant.snapshot(nn.Sequential(nn.Linear(4, 4), Picky()).eval(), example_inputs=torch.ones(1, 4))
    assert not any(node.values for node in graph)
    with pytest.raises(fxquant.FxQuantError) as caught:
        fxquant.compile(nn.Sequential(nn.Linear(4, 4), Picky()).eval(), "int8", calibration_data=torch.ones(1, 4))
    assert caught.value.code == "FXQ304"


def test_without_an_example_nothing_is_known_and_nothing_fails():
    found = fxquant.compile(nn.Sequential(nn.Linear(4, 4)).eval(), "int8-dynamic")
    assert not any(node.values for stage in ("traced", "converted") for node in found.snapshot(stage))
