"""select-qconfigs: one decision a call site, with a why, and the graph as it was."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from fxquant import torch_ao
from fxquant.errors import BackendError, ContractError
from fxquant.graphs.snapping import snapshot_of
from fxquant.ledger import Ledger
from fxquant.origin import mark, site_of
from fxquant.passes.select_qconfigs import SelectQConfigs, sites_of
from fxquant.pipeline import Pipeline
from fxquant.plan import Mode, QuantPlan
from fxquant.policy import read_policy
from fxquant.program import Stage
from fxquant.recipe import parse
from support.asserts import fingerprint, untouched
from support.tracing import run_passes, trace

with torch_ao.quiet():
    from torch.ao.quantization import MinMaxObserver, QConfig, QConfigMapping, per_channel_dynamic_qconfig


class Shapes(nn.Module):
    """Tensor work between shape arithmetic."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.lstm = nn.LSTM(4, 4)

    def forward(self, x):
        batch, width = x.shape[0], x.size(-1)
        torch._assert(x.dim() == 2, "two axes")
        y = self.fc(x).view(batch, width // 2, 2).transpose(1, 2).reshape(batch * 1, -1)
        first = self.lstm(y)[0]
        return first.T.sum() * (width - 1) + torch.zeros(batch).sum()


X = torch.ones(3, 4)
INT8 = SelectQConfigs(read_policy("int8", target="x86"))


def test_each_call_has_one_decision_with_a_why_and_the_graph_stays():
    model = Shapes()
    before, (traced, _) = fingerprint(model), trace(model, X)
    program, ledger = run_passes(INT8, model, X)
    assert program.stage is Stage.PLANNED
    assert snapshot_of(program.graph_module) == snapshot_of(traced.graph_module)
    assert fingerprint(model) == before
    calls = [node for node in program.graph.nodes if node.op.startswith("call_")]
    assert [decision.site for decision in program.plan] == [site_of(node) for node in calls]
    for decision, row in zip(program.plan, ledger.layers, strict=True):
        assert decision.why
        assert (row.site, row.requested, row.reason) == (decision.site, decision.requested, decision.why)
        assert row.effective == ("float32" if decision.mode is Mode.FLOAT else "")


def test_what_is_no_tensor_operation_is_left_alone():
    program, _ = run_passes(INT8, Shapes(), X)
    plain = {d.site for d in program.plan if d.why == "not a tensor operation"}
    ops = {d.op for d in program.plan if d.site in plain}
    assert ops == {"getattr", "getitem", "size", "floordiv", "mul", "sub"}
    rest = [d.op for d in program.plan if d.site not in plain]
    expected = [
        "Linear",
        "view",
        "transpose",
        "reshape",
        "LSTM",
        "getitem",
        "getattr",
        "sum",
        "mul",
        "zeros",
        "sum",
        "add",
    ]
    assert rest == expected


def test_a_module_called_twice_can_be_told_apart_by_its_index_only():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return self.fc(self.fc(x))

    mapping = QConfigMapping().set_module_name_object_type_order("", nn.Linear, 1, per_channel_dynamic_qconfig)
    program, _ = run_passes(SelectQConfigs(read_policy(mapping, target="x86")), Twice(), X)
    assert [decision.mode for decision in program.plan] == [Mode.FLOAT, Mode.DYNAMIC]


QINT8 = QConfig(MinMaxObserver.with_args(dtype=torch.qint8), MinMaxObserver.with_args(dtype=torch.qint8))


def test_a_layer_that_the_engine_cannot_serve_is_a_row_with_its_code():
    policy = read_policy(QConfigMapping().set_module_name("fc", QINT8), target="x86")
    _, ledger = run_passes(SelectQConfigs(policy), Shapes(), X)
    row = next(row for row in ledger.layers if row.module == "fc" and row.op == "Linear")
    assert (row.code, row.effective, row.requested) == ("FXQ204", "float32", "static qint8 × qint8 per tensor")
    assert row.reason.startswith("kept float because the qconfig asks for qint8 activations")


RECIPE = (
    'schema = 1\n[strict]\ndeclined = true\n[[rule]]\ntargets = ["fc"]\nweight = {}\nactivation = {dtype = "int8"}\n'
)


@pytest.mark.parametrize(
    ("given", "strict"), [(QConfigMapping().set_module_name("fc", QINT8), True), (parse(RECIPE), False)]
)
def test_strict_makes_it_an_error_that_names_the_layer(given, strict):
    model = Shapes()
    step = SelectQConfigs(read_policy(given, target="x86"), strict=strict)
    with untouched(model), pytest.raises(BackendError, match="layer 'fc' asks for static qint8") as caught:
        run_passes(step, model, X)
    assert (caught.value.code, caught.value.module) == ("FXQ501", "fc")
    assert "y = self.fc(x)" in caught.value.where.text


def test_a_planned_program_is_not_planned_again():
    program, ledger = run_passes(INT8, Shapes(), X)
    with pytest.raises(ContractError, match="takes a program that is TRACED"):
        Pipeline((INT8,)).run(program, ledger)


def test_verify_finds_a_site_without_a_decision():
    program, _ = run_passes(INT8, Shapes(), X)
    short = replace(program, plan=QuantPlan(program.plan.decisions[1:]))
    with pytest.raises(ContractError, match="sites without exactly one decision"):
        INT8.verify(short)


def test_the_pass_works_with_a_fresh_ledger():
    program, _ = trace(Shapes(), X)
    ledger = Ledger()
    Pipeline((INT8,)).run(program, ledger)
    assert len(ledger.layers) == len(sites_of(program))


def test_an_empty_graph_has_an_empty_plan():
    class Nothing(nn.Module):
        def forward(self, x):
            return x

    program, _ = run_passes(INT8, Nothing(), X)
    assert len(program.plan) == 0


def chain_of(count):
    """A traced program of this many additions, built by hand: capture is not what is measured."""
    graph = torch.fx.Graph()
    node = graph.placeholder("x")
    for _ in range(count):
        node = graph.call_function(torch.add, (node, 1))
    graph.output((node,))
    for node in graph.nodes:
        mark(node, at=None, scope_name="")
    program, _ = trace(Shapes(), X)
    return replace(program, graph_module=torch.fx.GraphModule(nn.Module(), graph))


def test_ten_thousand_calls_are_decided_quickly():
    program = chain_of(10_000)
    started = time.perf_counter()
    planned = INT8.run(program, Ledger())
    assert time.perf_counter() - started < 5.0  # far above what it takes, far below what a quadratic one would
    assert len(planned.plan) == 10_000
