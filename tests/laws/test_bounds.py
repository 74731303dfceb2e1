"""Laws of error bounds on whole models (I10), on every engine and for every rounding; and that they can fail."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import fxquant
from fxquant import qdq
from fxquant.bounds import error_bound
from fxquant.torch_ao import raw_mapping
from support.bounding import Adversary, bound_of, call_of, results
from support.compiling import ENGINES, compile_model, raw, run
from support.models import FAMILIES, MODELS, SIGNATURES, TROUBLE
from support.models.case import Case
from support.small import SMALL

PRESETS = ("int8", "int8-dynamic", "int8-weight-only", "float16")
TRACEABLE = {name: case for name, case in MODELS.items() if case.is_traceable}
LITTLE = {**SMALL, **{name: case for name, case in {**TROUBLE, **SIGNATURES}.items() if case.is_traceable}}
CASES = {**TRACEABLE, **SMALL}
DEEP = ("resnet18", "mobilenet_v3", "encoder", "vit", "unet", "dense_block", "lstm", "gru", "lstm_state")
SEEDS = st.integers(0, 2**31)


@cache
def pair(name: str, preset: str, target: str) -> tuple[fxquant.CompiledModel, nn.Module]:
    model = CASES[name].make()
    return compile_model(model, preset, CASES[name], target=target), model


def assert_i10(name: str, preset: str, target: str, seed: int, scale: float = 1.0) -> None:
    compiled, model = pair(name, preset, target)
    args, kwargs = call_of(CASES[name], seed, scale=scale)
    bound = bound_of(compiled, args, kwargs)
    assert bound.is_finite and not bound.unbounded
    assert not bound.unexplained
    assert bound.violation(*results(compiled, model, args, kwargs)) is None


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", TRACEABLE)
def test_i10_every_model_stays_within_its_bound(name, preset):
    for seed in range(2):
        assert_i10(name, preset, "x86", seed)


@pytest.mark.parametrize("target", ENGINES)
@pytest.mark.parametrize("preset", ["int8", "int8-dynamic"])
@pytest.mark.parametrize("name", LITTLE)
def test_i10_on_every_engine_inside_the_calibrated_range_and_outside(name, preset, target):
    for seed, scale in ((0, 1.0), (1, 3.0), (2, 0.05)):
        assert_i10(name, preset, target, seed, scale)


@pytest.mark.parametrize("target", ENGINES)
@pytest.mark.parametrize("name", DEEP)
def test_i10_deep_models_on_every_engine(name, target):
    assert_i10(name, "int8", target, 0)
    assert_i10(name, "int8-dynamic", target, 1)


@given(st.sampled_from(sorted(LITTLE)), st.sampled_from(ENGINES), st.sampled_from(PRESETS), SEEDS, st.floats(0.01, 8.0))
def test_i10_on_drawn_data(name, target, preset, seed, scale):
    assert_i10(name, preset, target, seed, scale)


@pytest.mark.parametrize("name", [*LITTLE, "mlp", "resnet18", "mobilenet_v2", "encoder", "unet"])
def test_i10_holds_for_every_rounding_that_obeys_the_step_rule_and_at_every_site(name):
    compiled, model = pair(name, "int8", "x86")
    args, kwargs = call_of(CASES[name], 0)
    bound = bound_of(compiled, args, kwargs)
    expected = results(compiled, model, args, kwargs)[1]
    for seed in range(4):
        args, kwargs = call_of(CASES[name], 0)
        leaves = compiled.program.signature.leaves(args, kwargs)
        with torch.no_grad():
            found = Adversary(compiled.canonical, seed).run(*leaves)
        assert bound.violation(compiled.program.signature.rebuild(found), expected) is None


# That it can fail ------------------------------------------------------------------------------------------------------


def raw_violates(case: Case) -> bool:
    model = case.make()
    compiled = compile_model(model, raw_mapping("x86"), case)  # the same scales
    quantized = raw(case, "x86")
    found = []
    for seed in range(4):
        (x,) = case.inputs(seed, 16)
        with torch.no_grad():
            found.append(error_bound(compiled, x).violation(run(quantized, "x86", x), model(x)))
    return any(violation is not None for violation in found)


@pytest.mark.parametrize("name", ["inplace_add", "shared_linear"])
def test_what_raw_fx_gets_wrong_is_outside_of_the_bound(name):
    assert raw_violates(TROUBLE[name])


@pytest.mark.parametrize("name", ["mlp", "mlp_norm"])
def test_what_raw_fx_gets_right_is_within_it(name):
    assert not raw_violates(FAMILIES[name])


def test_a_graph_that_computes_something_else_is_not_explained_by_its_weights():
    """The bound of a wrong graph holds, because it is that graph's own; what holds it to the model must not."""
    case = FAMILIES["mlp"]
    model = case.make()
    compiled = compile_model(model, "int8", case)
    assert not error_bound(compiled, case.inputs()).unexplained
    weight = dict(compiled.canonical.named_buffers())["layers.2.weight"]
    weight.copy_(weight.roll(1, 0))
    (found,) = error_bound(compiled, case.inputs()).unexplained
    assert found.excess > 0.1 and compiled.ledger[found.site].module == "layers.2"


def test_a_zero_point_that_is_off_by_one_is_not_explained():
    case = FAMILIES["mlp"]
    model = case.make()
    compiled = compile_model(model, "int8", case)
    graph = compiled.canonical.graph
    node = next(node for node in graph.nodes if node.target is qdq.dequantize_per_tensor)
    node.args = (node.args[0], node.args[1], node.args[2] + 1)
    compiled.canonical.recompile()
    assert error_bound(compiled, case.inputs()).unexplained
