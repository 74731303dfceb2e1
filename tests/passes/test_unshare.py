"""unshare: one module per call site, over the same tensors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fxquant.capture import capture
from fxquant.errors import PassError
from fxquant.ledger import Ledger
from fxquant.passes.unshare import Unshare
from fxquant.pipeline import Pipeline
from fxquant.request import CaptureRequest
from fxquant.sizes import size_bytes, ties
from support.asserts import assert_pass, assert_same
from support.tracing import call, run_passes, trace

X = torch.linspace(-2, 2, 24).reshape(4, 6)


class Twice(nn.Module):
    def __init__(self, layer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(self.layer(x) * 10)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU())
        self.body_2 = nn.Linear(6, 6)

    def forward(self, x):
        return self.body(self.body_2(self.body(x)))


def _targets(program):
    return [node.target for node in program.graph.nodes if node.op == "call_module"]


def test_each_site_gets_a_module_of_its_own_over_the_same_parameters():
    program, _ = assert_pass(Unshare(), Twice(nn.Linear(6, 6)), X)
    assert _targets(program) == ["layer", "layer_2"]
    first, second = (program.graph_module.get_submodule(name) for name in _targets(program))
    assert first is not second
    assert first.weight is second.weight
    assert first.bias is second.bias


def test_copies_take_no_memory():
    model = Twice(nn.Linear(6, 6))
    program, _ = run_passes(Unshare(), model, X)
    assert size_bytes(program.graph_module) == size_bytes(model) == (36 + 6) * 4


def test_names_are_identifiers_and_avoid_those_that_are_taken():
    program, _ = assert_pass(Unshare(), Block(), X)
    assert _targets(program) == ["body.0", "body.1", "body.2", "body_2", "body._0_2", "body._1_2", "body._2_2"]
    program, _ = assert_pass(Unshare(), Taken(), X)
    assert _targets(program) == ["layer", "layer_2", "layer_3"]


class Taken(Twice):
    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 6))
        self.layer_2 = nn.Tanh()

    def forward(self, x):
        return self.layer(self.layer_2(self.layer(x)))


class TwoNames(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = self.b = nn.Linear(6, 6)

    def forward(self, x):
        return self.a(self.b(self.b(self.a(x))))


def test_a_module_under_two_names_is_shared_as_well():
    traced, _ = trace(TwoNames(), X)
    assert _targets(traced) == ["a"] * 4  # tracing calls it by its first name; a graph of another capture may say both
    for node, name in zip((n for n in traced.graph.nodes if n.op == "call_module"), "abba", strict=True):
        node.target = name
    traced.graph_module.b = traced.graph_module.a
    traced.graph_module.recompile()
    expected = call(traced, X)
    program = Unshare().run(traced, Ledger())
    program.graph_module.recompile()
    Unshare().verify(program)
    assert _targets(program) == ["a", "b", "b_2", "a_2"]
    assert_same(call(program, X), expected)


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(6), nn.LayerNorm(6), nn.ReLU()], ids=repr)
def test_other_layers_share_as_well(layer):
    assert_pass(Unshare(), Twice(layer), X)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 6)

    def forward(self, x):
        y, state = self.lstm(x)
        z, _ = self.lstm(y, state)
        return z


def test_an_lstm_can_be_split():
    program, _ = assert_pass(Unshare(), Recurrent(), X)
    first, second = (program.graph_module.get_submodule(name) for name in _targets(program))
    assert first.weight_ih_l0 is second.weight_ih_l0


class Remembers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = torch.zeros(4, 6)

    def forward(self, x):
        y = x + self.last
        self.last = x
        return y


def test_a_module_that_keeps_state_is_not_split():
    program = capture(CaptureRequest(Twice(Remembers()).eval(), (X,), leaf_modules=(Remembers,)), Ledger())
    program, records = Pipeline((Unshare(),)).run(program, Ledger())
    assert _targets(program) == ["layer", "layer"]
    assert not records[0].is_changed


def test_modules_called_once_are_left_alone():
    assert_pass(Unshare(), nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)), X, changes=False)


def test_the_ledger_says_which_copies_there_are():
    _, ledger = run_passes(Unshare(), Twice(nn.Linear(6, 6)), X)
    (notice,) = ledger.notices
    assert notice.code == "FXQ218"
    assert "'layer' at layer, 'layer_2' at layer_1" in notice.reason


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(self.a(x))


def test_tied_parameters_stay_tied_and_are_reported():
    program, ledger = run_passes(Unshare(), Tied(), X)
    assert ties(program.graph_module) == (("a.weight", "b.weight"),)
    assert size_bytes(program.graph_module) == (36 + 6 + 6) * 4
    assert [(row.code, "'a.weight', 'b.weight'" in row.reason) for row in ledger.notices] == [("FXQ217", True)]


def test_verify_finds_a_module_that_is_still_shared():
    program, _ = trace(Twice(nn.Linear(6, 6)), X)
    with pytest.raises(PassError, match="'layer' is still called"):
        Unshare().verify(program)


def test_size_counts_each_storage_once():
    weight = torch.zeros(8)
    assert size_bytes(weight) == 32
    assert size_bytes([weight, weight[:4], weight.view(2, 4)]) == 32
    assert size_bytes([weight, weight.clone()]) == 64
    assert size_bytes(nn.Linear(6, 6, device="meta")) == (36 + 6) * 4
    assert size_bytes([weight.to(torch.int8)]) == 8
