"""drop-identity: what changes nothing leaves the graph; what stays random is said."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from fxquant.capture import capture
from fxquant.errors import PassError
from fxquant.ledger import Ledger
from fxquant.passes.drop_identity import DropIdentity
from fxquant.request import CaptureRequest
from support.asserts import assert_pass
from support.tracing import call, run_passes, trace

X = torch.linspace(-2, 2, 24).reshape(4, 6)


class Calls(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return torch.relu(self.function(self, x * 2))


DROPPED = {
    "dropout": lambda self, x: functional.dropout(x, 0.5, self.training),
    "dropout by keyword": lambda self, x: functional.dropout(x, p=0.1, training=self.training),
    "dropout2d": lambda self, x: functional.dropout2d(x[None, None], 0.5, training=False)[0, 0],
    "alpha_dropout": lambda self, x: functional.alpha_dropout(x),
    "torch.dropout": lambda self, x: torch.dropout(x, 0.5, False),
    "torch.dropout by keyword": lambda self, x: torch.dropout(input=x, p=0.5, train=False),
    "p = 0": lambda self, x: functional.dropout(x, 0.0),
    "detach": lambda self, x: x.detach(),
    "torch.detach": lambda self, x: torch.detach(x),
    "data": lambda self, x: x.data,
}


@pytest.mark.parametrize("function", DROPPED.values(), ids=DROPPED)
def test_a_call_that_gives_its_input_back_is_dropped(function):
    _, ledger = assert_pass(DropIdentity(), Calls(function), X)
    (row,) = (row for row in ledger.layers if row.effective)
    assert row.effective == "removed"
    assert row.reason


@pytest.mark.parametrize(
    "module",
    [nn.Identity(), nn.Dropout(0.5), nn.Dropout(0.5, inplace=True), nn.AlphaDropout(), nn.FeatureAlphaDropout()],
    ids=repr,
)
def test_a_module_that_gives_its_input_back_is_dropped_and_its_module_deleted(module):
    program, ledger = assert_pass(DropIdentity(), nn.Sequential(nn.Linear(6, 6), module, nn.ReLU()), X)
    assert [node.target for node in program.graph.nodes if node.op == "call_module"] == ["0", "2"]
    assert "1" not in dict(program.graph_module.named_modules())
    assert [row.effective for row in ledger.layers] == ["", "removed", ""]


@pytest.mark.parametrize(
    "model", [nn.Sequential(nn.Identity()), nn.Sequential(nn.Linear(6, 6), nn.Dropout())], ids=repr
)
def test_at_the_edges_the_output_is_the_input_of_what_was_dropped(model):
    program, _ = assert_pass(DropIdentity(), model, X)
    assert not [node for node in program.graph.nodes if type(program.module_of(node)) in (nn.Identity, nn.Dropout)]


class Shares(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout()

    def forward(self, x):
        return self.drop(self.drop(x) + 1)


def test_a_dropout_at_two_sites_is_dropped_at_both():
    assert_pass(DropIdentity(), Shares(), X)


KEPT = {
    "contiguous": lambda self, x: x.contiguous(),
    "float": lambda self, x: x.float(),
    "clone": lambda self, x: x.clone(),
    "linear": lambda self, x: functional.linear(x, x),
}


@pytest.mark.parametrize("function", KEPT.values(), ids=KEPT)
def test_what_may_do_something_is_left_alone(function):
    assert_pass(DropIdentity(), Calls(function), X, changes=False)


class Doubles(nn.Identity):
    def forward(self, x):
        return x * 2


def test_a_subclass_of_identity_may_do_anything():
    program, _ = assert_pass(DropIdentity(), nn.Sequential(Doubles()), X, changes=False)
    assert len(program.graph.nodes) == 3


@pytest.mark.parametrize(
    "function", [lambda self, x: functional.dropout(x), lambda self, x: torch.dropout(x, 0.5, True)]
)
def test_a_dropout_that_forward_keeps_on_stays_and_is_said(function):
    model = Calls(function).eval()
    program, ledger = run_passes(DropIdentity(), model, X)
    assert any("dropout" in node.name for node in program.graph.nodes)
    torch.manual_seed(1)
    first = call(program, X)
    assert not torch.equal(first, call(program, X))
    (notice,) = ledger.notices
    assert notice.code == "FXQ216"
    assert "dropout" in notice.reason


def test_verify_finds_an_identity_that_was_left():
    program, _ = trace(nn.Sequential(nn.Identity()), X)
    with pytest.raises(PassError, match="still there"):
        DropIdentity().verify(program)


def test_an_empty_sequential_gives_its_input_back():
    model, ledger = nn.Sequential(nn.Linear(6, 6), nn.Sequential()).eval(), Ledger()
    program = capture(CaptureRequest(model, (X,), leaf_modules=("1",)), ledger)  # by itself it leaves no trace
    program = DropIdentity().run(program, ledger)
    assert [node.target for node in program.graph.nodes if node.op == "call_module"] == ["0"]
    assert next(row for row in ledger.layers if row.effective).reason == "an empty Sequential gives its input back"


def test_a_dropout_module_in_training_mode_stays_and_is_said():
    program, _ = trace(nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5)), X)
    program.graph_module.get_submodule("1").train()
    program = DropIdentity().run(program, ledger := Ledger())
    assert [node.target for node in program.graph.nodes if node.op == "call_module"] == ["0", "1"]
    assert [row.code for row in ledger.notices] == ["FXQ216"]
