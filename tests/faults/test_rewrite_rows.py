"""FAULTS.md, the model rows that the rewriting passes answer: 4 to 10 and 12."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from fxquant.errors import UnsupportedModelError
from fxquant.passes.drop_identity import DropIdentity
from fxquant.passes.functionalize import Functionalize
from fxquant.passes.unshare import Unshare
from fxquant.plan import Decision, Mode, QuantPlan
from fxquant.sizes import size_bytes
from support.asserts import assert_same, untouched
from support.tracing import call, run_passes, trace

X = torch.linspace(-2, 2, 24).reshape(4, 6)
REWRITES = (Functionalize(), Unshare(), DropIdentity())


class _Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(6, 6)
        self.requires_grad_(False)


class Row4(_Base):
    def forward(self, x):
        y = self.fc(x)
        y[:, 0] = 3
        return y


class Row5(_Base):
    def forward(self, x):
        y = self.fc(x)
        y.add_(1.0)
        return torch.relu(y)


class Row6(_Base):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.fc(x)
        kept = y
        self.act(y)
        z = torch.relu_(self.fc(kept))
        return kept + z


class Row7a(_Base):
    def forward(self, x):
        y = self.fc(x)
        y[:, :4].mul_(2)
        y.view(-1).add_(1)
        return y


class Row7b(_Base):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(1))

    def forward(self, x):
        self.steps.add_(1)
        return self.fc(x) * self.steps


class Row8(_Base):
    def forward(self, x):
        return self.fc(self.fc(x))


class Row10(_Base):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 6)
        self.head.weight = self.fc.weight

    def forward(self, x):
        return self.head(self.fc(x))


class Row12(_Base):
    def forward(self, x):
        return functional.dropout(self.fc(x), 0.5, training=self.training)


@pytest.mark.parametrize("kind", [Row4, Row5, Row6, Row7a, Row7b, Row8, Row10, Row12])
def test_the_rewritten_model_is_bit_equal_call_after_call(kind):
    model = kind()
    eager = copy.deepcopy(model).eval()
    with untouched(model):
        program, _ = run_passes(REWRITES, model, X)
    for _ in range(2):
        assert_same(call(program, X), eager(X.clone()))


class Row7(_Base):
    def forward(self, x):
        x.mul_(2)
        return self.fc(x)


def test_row_7_the_callers_input_keeps_its_bytes():
    model, given = Row7(), X.clone()
    with untouched(model):
        program, ledger = run_passes(REWRITES, model, given)
    assert_same(call(program, given), Row7().eval()(X.clone()))
    assert_same(given, X)
    assert [(row.code, "'x'" in row.reason) for row in ledger.notices] == [("FXQ214", True)]


def test_row_7b_the_buffer_counts_on_and_the_ledger_names_it():
    program, ledger = run_passes(REWRITES, Row7b(), X)
    call(program, X)
    call(program, X)
    assert program.graph_module.steps.item() == 2
    assert [(row.code, "'steps'" in row.reason) for row in ledger.notices] == [("FXQ215", True)]


def test_row_9_conflicting_rules_get_two_copies_each_with_its_own_decision():
    program, ledger = run_passes(Unshare(), Row8(), X)
    plan = QuantPlan(
        tuple(
            Decision(site, "fc", "Linear", mode, None, "", why=f"rule for {site}", is_explicit=True)
            for site, mode in (("fc", Mode.STATIC), ("fc_1", Mode.FLOAT))
        )
    )
    calls = {node.target: plan.mode_of(node) for node in program.graph.nodes if node.op == "call_module"}
    assert calls == {"fc": Mode.STATIC, "fc_2": Mode.FLOAT}
    assert [(row.code, "'fc_2' at fc_1" in row.reason) for row in ledger.notices] == [("FXQ218", True)]


def test_row_10_the_tie_counts_once():
    program, ledger = run_passes(Unshare(), Row10(), X)
    assert size_bytes(program.graph_module) == size_bytes(Row10()) == (36 + 6 + 6) * 4
    assert [row.code for row in ledger.notices] == ["FXQ217"]


def test_row_12_two_runs_are_equal_though_the_model_was_in_training_mode():
    model = Row12().train()
    with untouched(model):
        program, _ = run_passes(DropIdentity(), model, X)
    assert_same(call(program, X), call(program, X))


class AssignsData(_Base):
    def forward(self, x):
        y = self.fc(x)
        y.data = x
        return y


class ReplacesBuffer(Row7b):
    def forward(self, x):
        self.steps = self.steps + x.mean()
        return self.fc(x)


class WritesAttribute(_Base):
    def __init__(self) -> None:
        super().__init__()
        self.cache = torch.zeros(6)

    def forward(self, x):
        self.cache.add_(1)
        return self.fc(x) + self.cache


class WritesConstant(_Base):
    def forward(self, x):
        bias = torch.zeros(6)
        y = self.fc(x) + bias
        bias.add_(1)
        return y + bias


class DecidesByBuffer(Row7b):
    def forward(self, x):
        self.steps.add_(1)
        return self.fc(x) if self.steps else x


REFUSED = {
    AssignsData: ("FXQ211", "'data'"),
    ReplacesBuffer: ("FXQ211", "'steps'"),
    WritesAttribute: ("FXQ211", "'cache'"),
    WritesConstant: ("FXQ211", "made itself"),
    DecidesByBuffer: ("FXQ210", "a branch depends on the value of a tensor"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_capture_cannot_record_is_refused_and_never_dropped(kind):
    model = kind()
    with untouched(model), pytest.raises(UnsupportedModelError) as caught:
        trace(model, X)
    code, told = REFUSED[kind]
    assert caught.value.code == code
    assert told in caught.value.message
    assert caught.value.hint
