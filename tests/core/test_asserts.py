"""Each assert that tests share fails when it should: an assert that cannot fail proves nothing."""

from __future__ import annotations

import os
import sys
import warnings
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from fxquant.origin import carry
from fxquant.pipeline import Pass
from support.asserts import assert_no_orphans, assert_pass, assert_same, fingerprint, untouched, world
from support.timing import least_seconds
from support.tracing import trace

X = torch.linspace(-2, 2, 6).reshape(2, 3)


@dataclass(frozen=True)
class _Nothing(Pass):
    name: ClassVar[str] = "nothing"

    def run(self, program, ledger):
        return program


@dataclass(frozen=True)
class _AddsOne(Pass):
    """Adds `amount` to the output: wrong numbers, and another graph each time."""

    amount: float = 1.0
    marks: bool = True
    name: ClassVar[str] = "adds-one"

    def run(self, program, ledger):
        (output,) = (node for node in program.graph.nodes if node.op == "output")
        (value,) = output.all_input_nodes
        with program.graph.inserting_before(output):
            added = program.graph.call_function(torch.add, (value, self.amount))
        if self.marks:
            carry(added, value)
        output.replace_input_with(value, added)
        return program


@dataclass(frozen=True)
class _Bypasses(Pass):
    """Takes the last layer out of the graph and leaves its module behind."""

    name: ClassVar[str] = "bypasses"

    def run(self, program, ledger):
        calls = [node for node in program.graph.nodes if node.op == "call_module"]
        calls[-1].replace_all_uses_with(calls[-1].args[0])
        program.graph.erase_node(calls[-1])
        return program


@dataclass(frozen=True)
class _TouchesTheModel(Pass):
    model: nn.Module = None
    name: ClassVar[str] = "touches"

    def run(self, program, ledger):
        self.model.bias.data.add_(1)
        return program


def _fails(message):
    return pytest.raises(AssertionError, match=message)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (torch.ones(2), torch.zeros(2)),
        (torch.ones(2), torch.ones(2) + 1e-7),
        (torch.ones(2), torch.ones(3)),
        (torch.ones(2), torch.ones(2, dtype=torch.float64)),
        ((X, X), [X, X]),
        ({"a": X}, {"b": X}),
        (X, (X,)),
        ((X, 1), (X, 2)),
        (torch.tensor(float("nan")), torch.tensor(0.0)),
    ],
)
def test_assert_same_fails_on_other_values_shapes_dtypes_and_structures(left, right):
    with pytest.raises(AssertionError):
        assert_same(left, right)
    assert_same(left, left)


def test_assert_same_takes_a_tolerance_only_when_it_is_given():
    assert_same(torch.ones(1), torch.ones(1) + 1e-5, atol=1e-4)


def test_assert_pass_fails_when_the_graph_changes_and_should_not_or_should_and_does_not():
    with _fails("changed the graph: False"):
        assert_pass(_Nothing(), nn.Linear(3, 3), X)
    with _fails("changed the graph: True"):
        assert_pass(_AddsOne(0.0), nn.Linear(3, 3), X, changes=False)
    assert_pass(_Nothing(), nn.Linear(3, 3), X, changes=False)


def test_assert_pass_fails_on_other_numbers():
    with _fails("not equal|not close"):
        assert_pass(_AddsOne(), nn.Linear(3, 3), X)


def test_assert_pass_fails_on_a_node_without_origin():
    with _fails("without an origin"):
        assert_pass(_AddsOne(0.0, marks=False), nn.Linear(3, 3), X)


def test_assert_pass_fails_when_twice_is_not_like_once():
    with _fails("twice is not like once"):
        assert_pass(_AddsOne(0.0), nn.Linear(3, 3), X)


def test_assert_pass_fails_on_an_orphan():
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    with torch.no_grad():
        model[1].weight.fill_(0)  # the layer that is lost gives what a zero would: only the orphan tells
        model[0].weight.fill_(0)
        model[0].bias.fill_(0)
    with _fails("'1' is left behind"):
        assert_pass(_Bypasses(), model, X)


def test_assert_pass_fails_when_the_callers_model_is_touched():
    model = nn.Linear(3, 3)
    with _fails("touched the caller's model"):
        assert_pass(_TouchesTheModel(model), model, X, changes=False)


def test_assert_no_orphans_fails_on_a_module_that_nothing_calls():
    program, _ = trace(nn.Sequential(nn.Linear(3, 3)), X)
    assert_no_orphans(program)
    program.graph_module.add_module("lost", nn.Linear(3, 3))
    with _fails("'lost' is left behind"):
        assert_no_orphans(program)


TOUCHES = {
    "a weight's bytes": lambda model: model[0].weight.data.add_(1),
    "a weight's identity": lambda model: setattr(model[0], "weight", nn.Parameter(model[0].weight.detach().clone())),
    "requires_grad": lambda model: model[0].weight.requires_grad_(False),
    "a buffer": lambda model: model[1].running_mean.add_(1),
    "a training flag": lambda model: model[1].eval(),
    "an attribute": lambda model: setattr(model[0], "qconfig", None),
    "a child": lambda model: model.add_module("2", nn.ReLU()),
    "another child": lambda model: setattr(model, "1", nn.BatchNorm1d(3)),
    "a hook": lambda model: model[0].register_forward_hook(lambda *_: None),
    "a pre-hook": lambda model: model[0].register_forward_pre_hook(lambda *_: None),
}


@pytest.mark.parametrize("touch", TOUCHES.values(), ids=TOUCHES)
def test_the_fingerprint_sees_a_touch_and_untouched_fails_on_it(touch):
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).train()
    before = fingerprint(model)
    assert fingerprint(model) == before
    with _fails("changed the caller's model"), untouched(model):
        touch(model)
    assert fingerprint(model) != before


@pytest.fixture
def restored():
    engine, threads, cwd = torch.backends.quantized.engine, torch.get_num_threads(), os.getcwd()
    grad, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    with warnings.catch_warnings(), torch.random.fork_rng():
        yield
    torch.backends.quantized.engine = engine
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
    torch.set_grad_enabled(grad)
    os.chdir(cwd)


def _another_engine():
    engines = [name for name in torch.backends.quantized.supported_engines if name not in ("none",)]
    torch.backends.quantized.engine = next(name for name in engines if name != torch.backends.quantized.engine)


DISTURBANCES = {
    "RNG": lambda: torch.rand(1),
    "grad mode": lambda: torch.set_grad_enabled(False),
    "default dtype": lambda: torch.set_default_dtype(torch.float64),
    "engine": _another_engine,
    "threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "warning filters": lambda: warnings.simplefilter("ignore"),
    "working directory": lambda: os.chdir(".."),
}


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("disturb", DISTURBANCES.values(), ids=DISTURBANCES)
def test_untouched_fails_on_each_piece_of_global_state(disturb):
    before = world()
    with _fails("changed global state"), untouched():
        disturb()
    assert world() != before


def test_untouched_looks_after_a_failure_as_well():
    model = nn.Linear(3, 3)
    with _fails("changed the caller's model"), untouched(model):
        model.weight.data.add_(1)
        raise RuntimeError("the block fails, too")
    with pytest.raises(RuntimeError, match="as it is"), untouched(model):
        raise RuntimeError("as it is")


def test_a_timing_stops_at_the_first_run_that_is_quick_enough_and_puts_the_tracer_back():
    seen, before = [], sys.gettrace()
    assert least_seconds(lambda: seen.append(sys.gettrace()), enough=1.0) < 1.0
    assert seen == [None] and sys.gettrace() is before
    assert least_seconds(lambda: seen.append(None), times=3) >= 0.0 and len(seen) == 4
    with pytest.raises(ValueError):
        least_seconds(lambda: int("x"))
    assert sys.gettrace() is before
