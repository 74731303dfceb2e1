"""error_bound(): what it returns, what it refuses, and that what it cannot follow is unbounded and said so."""

from __future__ import annotations

import gc
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant.bounds import ErrorBound, error_bound
from fxquant.bounds.result import difference
from fxquant.errors import UnmeasurableError, UsageError
from fxquant.sites import Reference, computed_sites
from fxquant.torch_ao import engine
from support.asserts import untouched
from support.bounding import bound_of, call_of, results
from support.compiling import ENGINES, compile_model
from support.models import FAMILIES, MODELS, SIGNATURES, TROUBLE

CASE = FAMILIES["mlp"]


def of(model: nn.Module, data: Tensor, preset: str = "int8", **options: object) -> fxquant.CompiledModel:
    return fxquant.compile(model.eval(), preset, calibration_data=[data], **options)


def test_bounds_and_estimates_have_the_models_own_output_structure():
    case = SIGNATURES["dict_output"]
    model = case.make()
    compiled = compile_model(model, "int8", case)
    bound = error_bound(compiled, case.inputs())
    assert isinstance(bound, ErrorBound) and bound.bound["name"] == "two heads"
    assert bound.bound["logits"].shape == (2, 3) and bound.bound["logits"].dtype is torch.float64
    assert bound.estimate["hidden"][0].shape == (2, 8)
    assert float(bound.bound["hidden"][1].max()) == 0.0  # the input itself
    assert [leaf.path for leaf in bound.leaves] == ["['logits']", "['hidden'][0]", "['hidden'][1]"]


def test_inputs_come_in_every_form_of_a_call():
    model = CASE.make()
    compiled = compile_model(model, "int8", CASE)
    (x,) = CASE.inputs(3)
    first, *others = (error_bound(compiled, given).bound for given in (x, (x,), [x], {"x": x}))
    assert all(torch.equal(first, other) for other in others)


def test_a_violation_names_the_leaf_the_place_and_both_numbers():
    case = SIGNATURES["dict_output"]
    model = case.make()
    compiled = compile_model(model, "int8", case)
    args, kwargs = call_of(case, 0)
    bound = error_bound(compiled, args)
    actual, expected = results(compiled, model, args, kwargs)
    assert bound.holds(actual, expected) and bound.violation(actual, expected) is None
    actual["hidden"][0][1, 2] += 5.0
    found = bound.violation(actual, expected)
    assert (found.path, found.index) == ("['hidden'][0]", (1, 2)) and 4 < found.error < 6 and found.bound < 1
    assert str(found).startswith("output['hidden'][0][1, 2] is ") and not bound.holds(actual, expected)


def test_a_nan_on_one_side_is_a_violation_and_on_both_is_none():
    model = CASE.make()
    compiled = compile_model(model, "int8", CASE)
    bound, result = error_bound(compiled, CASE.inputs()), torch.zeros(2, 4)
    spoiled = result.clone()
    spoiled[0, 1] = math.nan
    assert bound.violation(spoiled, result).index == (0, 1) and bound.holds(spoiled, spoiled)


def test_a_result_of_another_shape_is_refused():
    model = CASE.make()
    bound = error_bound(compile_model(model, "int8", CASE), CASE.inputs())
    with pytest.raises(UsageError, match=r"actual has shape \[3, 4\] at output, the bound \[2, 4\]"):
        bound.holds(torch.zeros(3, 4), torch.zeros(2, 4))
    with pytest.raises(UsageError, match="expected has no tensor at output"):
        bound.holds(torch.zeros(2, 4), {"a": torch.zeros(2, 4)})


def test_layers_say_what_they_add_and_what_came_before_them():
    model = CASE.make()
    compiled = compile_model(model, "int8", CASE)
    bound = error_bound(compiled, CASE.inputs())
    linear = [layer for layer in bound.layers if layer.op == "Linear"]
    assert [layer.module for layer in linear] == ["layers.0", "layers.2", "layers.4"]
    assert all(layer.largest >= layer.mean > 0 and layer.own > 0 and layer.weights > 0 for layer in linear)
    assert linear[0].passed_on < linear[1].passed_on < linear[2].passed_on
    assert bound.bound_at(linear[-1].site).shape == (2, 4) and linear[0].site in bound.sites
    with pytest.raises(KeyError):
        bound.bound_at("nowhere")


@pytest.mark.parametrize("target", ENGINES)
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3", "encoder", "lstm", "shared_conv_norm", "inplace_view"])
def test_the_bound_of_every_site_holds_for_the_value_that_the_engine_has_there(name, target):
    """Blaming a layer rests on it."""
    case = MODELS[name]
    model = case.make()
    compiled = compile_model(model, "int8", case, target=target)
    leaves, bound = case.inputs(5), error_bound(compiled, case.inputs(5))
    floating = compiled.trace_float().graph_module
    expected = Reference(floating, frozenset(bound.sites))
    actual = Reference(compiled.graph_module, frozenset(computed_sites(compiled.graph_module).values()))
    with engine(target), torch.no_grad():
        expected.run(*leaves), actual.run(*leaves)
    compared = 0
    for site in set(bound.sites) & set(actual.values):
        value = actual.values[site]
        value = value.dequantize() if value.is_quantized else value
        if value.shape == bound.bound_at(site).shape:
            assert bool((difference(value, expected.values[site]) <= bound.bound_at(site)).all()), site
            compared += 1
    assert compared >= len(compiled.ledger.layers) // 3


class Own(nn.Module):
    """Nobody can look into it: it rounds, and asks for numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft(x).real


class Around(nn.Module):
    def __init__(self, inner: nn.Module, width: int) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(8, 8), inner, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inner(self.first(x)))


def test_a_module_without_rules_is_unbounded_and_named():
    model = Around(Own(), 5)
    x = torch.randn(32, 8)
    compiled = of(model, x, "int8-dynamic", leaf_modules=["inner"])
    bound = error_bound(compiled, x)
    assert not bound.is_finite and bool(bound.bound.isinf().all())
    (found,) = bound.unbounded
    assert compiled.ledger[found.site].module == "inner" and "no rule for" in found.reason
    assert bound.holds(compiled(x), model(x).detach())
    assert repr(bound).endswith("1 sites unbounded)")


def test_a_static_range_ends_what_is_unbounded():
    model = Around(Own(), 5)
    x = torch.randn(32, 8)
    bound = error_bound(of(model, x, leaf_modules=["inner"]), x)
    assert bound.is_finite and len(bound.unbounded) == 1


class Plain(nn.Module):
    """A module of the user's own, made of torch functions that have rules."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x).transpose(0, 1).contiguous().transpose(0, 1) * torch.sigmoid(x)


def test_a_module_of_the_users_own_is_followed_where_its_functions_have_rules():
    model = Around(Plain(), 8)
    x = torch.randn(32, 8)
    compiled = of(model, x, "int8-dynamic", leaf_modules=["inner"])
    bound = error_bound(compiled, x)
    assert bound.is_finite and not bound.unbounded and bound.holds(compiled(x), model(x).detach())


class Decides(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.fc(x)
        return y.argmax(-1), torch.where(y > 0, y, y * 0.5)


def test_a_decision_is_bounded_where_it_is_certain():
    torch.manual_seed(0)
    model = Decides().eval()
    x = torch.randn(64, 8)
    compiled = of(model, x)
    bound = error_bound(compiled, x)
    winners, _ = bound.bound
    assert 0 < int(winners.isinf().sum()) < 64 and float(winners[winners.isfinite()].max()) == 0.0
    assert bound.holds(compiled(x), tuple(part.detach() for part in model(x)))


@pytest.mark.parametrize("name", ["inplace_view", "inplace_add", "inplace_input", "counts_calls"])
def test_what_was_written_in_place_is_bounded(name):
    case = TROUBLE[name]
    model = case.make()
    compiled = compile_model(model, "int8", case)
    args, kwargs = call_of(case, 0)
    bound = bound_of(compiled, args, kwargs)
    assert bound.is_finite and bound.holds(*results(compiled, model, args, kwargs))


class WritesItems(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        y[:, 0] = 1.0
        y[:, 1] = y[:, 2] * 2.0
        z = torch.zeros_like(y)
        z[:, :3] = y[:, :3]
        z[:, 3:].copy_(y[:, 3:])
        return z


@pytest.mark.parametrize("preset", ["int8", "int8-dynamic"])
def test_written_items_carry_the_error_of_what_was_written(preset):
    torch.manual_seed(0)
    model, x = WritesItems().eval(), torch.randn(32, 8)
    compiled = of(model, x, preset)
    bound = error_bound(compiled, x)
    assert bound.is_finite and not bound.unexplained and bound.holds(compiled(x), model(x).detach())


def test_nothing_is_touched():
    model = CASE.make()
    compiled = compile_model(model, "int8", CASE)
    before = {name: tensor.clone() for name, tensor in compiled.state_dict().items()}
    x = CASE.inputs()
    kept = x[0].clone()
    with untouched(model):
        error_bound(compiled, x)
    assert all(torch.equal(before[name], tensor) for name, tensor in compiled.state_dict().items())
    assert torch.equal(x[0], kept)


def test_a_float_model_that_is_gone_is_said_to_be_gone():
    compiled = compile_model(CASE.make(), "int8", CASE)
    gc.collect()
    with pytest.raises(UnmeasurableError, match="the float model is gone") as error:
        error_bound(compiled, CASE.inputs())
    assert error.value.code == "FXQ313"
    assert error_bound(compiled, CASE.inputs(), model=CASE.make()).is_finite


def test_a_calibrating_model_has_no_bound_yet():
    model = CASE.make()
    compiled = fxquant.compile(model, "int8", example_inputs=CASE.inputs())
    with pytest.raises(UnmeasurableError, match="PREPARED"):
        error_bound(compiled, CASE.inputs())


def test_an_empty_batch_has_empty_bounds():
    model = CASE.make()
    bound = error_bound(compile_model(model, "int8-dynamic", CASE), torch.zeros(0, 8))
    assert bound.bound.shape == (0, 4) and bound.holds(torch.zeros(0, 4), torch.zeros(0, 4))


def test_a_model_that_stayed_float_has_no_error_at_all():
    from torch.ao.quantization import QConfigMapping

    model = CASE.make()
    bound = error_bound(compile_model(model, QConfigMapping(), CASE), CASE.inputs())
    assert float(bound.bound.max()) == 0.0 and float(bound.estimate.max()) == 0.0
    assert repr(bound).startswith("ErrorBound(1 outputs, largest 0,")


def test_the_package_has_these_two_names():
    import fxquant.bounds as bounds

    assert bounds.__all__ == ["ErrorBound", "error_bound"]
    with pytest.raises(AttributeError, match="no attribute 'bound'"):
        bounds.bound  # noqa: B018


class _WrittenThroughASlice(nn.Module):
    def __init__(self):
        super().__init__()
        self.line = nn.Linear(8, 8)

    def forward(self, x):
        x[..., :1].mul_(2.0)
        return self.line(x)


def test_a_write_through_a_view_of_an_input_is_followed():
    """The rule lifted the view and the input apart, each to memory of its own, and so lost the write."""
    model, x = _WrittenThroughASlice().eval(), torch.randn(16, 8)
    made = fxquant.compile(model, "int8", calibration_data=x, target="x86")
    found = error_bound(made, x, model=model)
    assert not found.unexplained and float(found.bound.max()) < 0.2
