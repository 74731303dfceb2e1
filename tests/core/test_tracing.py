"""Less usual things that forward() does: hidden modules and tensors, returned objects, assigned buffers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fxquant.errors import MutationError, UntraceableError
from support.asserts import assert_same, untouched
from support.tracing import call, trace

X = torch.linspace(-1, 1, 8).reshape(2, 4)


class Runs(nn.Module):
    def __init__(self, forward, **parts) -> None:
        super().__init__()
        self.run = forward
        for name, part in parts.items():
            setattr(self, name, part)
        self.register_buffer("steps", torch.tensor(0.0))

    def forward(self, x):
        return self.run(self, x)


@pytest.mark.parametrize(
    ("hidden", "told"), [(nn.Linear(4, 4), ["FXQ226"]), (nn.ReLU(), []), (nn.Sequential(nn.Linear(4, 4)), ["FXQ226"])]
)
def test_a_module_in_a_plain_list_is_captured_with_its_weights_and_said(hidden, told):
    model = Runs(lambda self, x: self.layers[0](self.layers[0](x)), layers=[hidden]).eval()
    with untouched(model):
        program, ledger = trace(model, X)
    assert_same(call(program, X), model(X).detach())
    assert [row.code for row in ledger.notices] == told


def test_a_parameter_that_is_not_read_off_its_module_is_still_fetched_by_name():
    """As model code that keeps `weights = list(self.parameters())`."""
    model = Runs(lambda self, x: nn.functional.linear(x, *self.kept), fc=nn.Linear(4, 4)).eval()
    model.kept = [model.fc.weight, model.fc.bias]
    program, _ = trace(model, X)
    assert [str(node.target) for node in program.graph.nodes if node.op == "get_attr"] == ["fc.weight", "fc.bias"]
    assert_same(call(program, X), model(X).detach())


def test_an_object_that_hides_tensors_cannot_be_taken_apart_and_is_refused():
    class Result:
        def __init__(self, x) -> None:
            self.x = x

    with pytest.raises(UntraceableError) as caught:
        trace(Runs(lambda self, x: Result(x + 1)).eval(), X)
    assert caught.value.code == "FXQ212" and "returns a Result that holds tensors" in str(caught.value)


def test_a_buffer_may_be_assigned_what_it_was_written_to_and_nothing_else():
    def counts(self, x):
        self.steps = self.steps.add_(1)
        return x + self.steps

    model = Runs(counts).eval()
    with untouched(model):
        program, _ = trace(model, X)
    assert_same(call(program, X), X + 1)

    def replaces(self, x):
        self.steps = self.steps + 1
        return x + self.steps

    with pytest.raises(MutationError, match="FXQ211"):
        trace(Runs(replaces).eval(), X)


def test_an_error_of_the_users_own_is_told_by_its_first_line():
    def fails(self, x):
        raise KeyError("no such head\nsecond line") if isinstance(x, torch.fx.Proxy) else None

    def guarded(self, x):
        return fails(self, x) if isinstance(x.new_ones(1), torch.fx.Proxy) else x

    with pytest.raises(UntraceableError) as caught:
        trace(Runs(guarded).eval(), X)
    assert "KeyError" in str(caught.value) and "no such head" in str(caught.value)


@torch.library.custom_op("fxquant_tests::opaque", mutates_args=())
def opaque(x: torch.Tensor) -> torch.Tensor:
    """An op that fake tensors cannot run: nobody said what shape it gives."""
    return x.clone()


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: x.flatten(x.ndim - 1) + self.fc.bias.unsqueeze(0).ndim,
        lambda self, x: self.fc(x).reshape(*self.fc(x).size()[:-1], 2, 2),
        lambda self, x: opaque(x).size(0) * x,
        lambda self, x: (x @ self.fc.weight).reshape([1] * (x @ self.fc.weight).dim() + [-1]),
    ],
)
def test_a_rank_is_told_where_it_follows_from_the_example(forward):
    model = Runs(forward, fc=nn.Linear(4, 4)).eval()
    program, _ = trace(model, X)
    assert_same(call(program, X), model(X).detach())


@pytest.mark.parametrize(
    "forward", [lambda self, x: x.view(*opaque(x).shape), lambda self, x: x.expand(*opaque(x).size())]
)
def test_a_rank_that_nobody_knows_is_not_guessed(forward):
    with pytest.raises(UntraceableError):
        trace(Runs(forward).eval(), X)
