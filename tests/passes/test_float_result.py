"""Layers on codes whose result stays float: oneDNN's kernels are the canonical graph's numbers, and survive copies and files."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxquant
from fxquant.activation_sites import ActivationRule
from fxquant.passes import _native_float_result
from fxquant.passes._native_float_result import FloatResultWeight
from fxquant.recipe import Activation, Recipe, RecipeRule, Weight
from support.compiling import ENGINES

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")

LAYERS = {
    "linear": (lambda: nn.Linear(8, 5), (16, 8)),
    "linear_of_three_dimensions": (lambda: nn.Linear(8, 5, bias=False), (16, 3, 8)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), (16, 4, 9)),
    "conv": (lambda: nn.Conv2d(4, 6, 3, bias=False), (16, 4, 8, 8)),
    "conv_grouped": (
        lambda: nn.Conv2d(4, 8, 3, stride=(2, 1), padding=(0, 1), dilation=(1, 2), groups=2),
        (16, 4, 9, 9),
    ),
    "conv_depthwise": (lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4), (16, 4, 8, 8)),
}


def case(name, *after):
    make, shape = LAYERS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(make(), *after).eval(), torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def compiled(model, x, *, target="x86", weight="channel", **options):
    rule = RecipeRule(
        ("*",), weight=Weight(granularity=weight), activation=Activation(observer="minmax", reduce_range=True)
    )
    given = Recipe((rule,), activations=(ActivationRule(("0",), keep="float"),))
    return fxquant.compile(model, given, calibration_data=x, target=target, **options)


@pytest.mark.parametrize("target", [name for name in ("x86", "onednn") if name in ENGINES])
@pytest.mark.parametrize("weight", ["channel", "tensor"])
@pytest.mark.parametrize("name", LAYERS)
def test_the_kernel_computes_what_the_canonical_graph_does(name, weight, target):
    model, x = case(name)
    made = compiled(model, x, weight=weight, target=target, strict=True)
    [row] = made.ledger.layers
    assert row.effective == "int8" and row.reason.endswith(f"_pointwise on {target}"), row
    expected = made.canonical(x)[0]
    assert made(x).is_contiguous() == expected.is_contiguous()
    assert torch.allclose(made(x), expected, atol=1e-4 * float(expected.abs().max()), rtol=0)


@pytest.mark.parametrize("name", ["linear", "conv"])
def test_a_copy_and_a_file_have_the_same_bits(name, tmp_path):
    model, x = case(name)
    made = compiled(model, x)
    assert copy.deepcopy(made)(x).equal(made(x))
    assert fxquant.load(made.save(tmp_path / "layer.fxq.safetensors"))(x).equal(made(x))


@pytest.mark.parametrize("name", ["linear", "conv"])
def test_it_is_measured_like_any_other_kernel(name):
    """Alone, fed the float model's own values as codes of a range of their own."""
    model, x = case(name, nn.ReLU())
    model = nn.Sequential(nn.ReLU(), *model).eval()
    rule = RecipeRule(("*",), weight=Weight(), activation=Activation(observer="minmax", reduce_range=True))
    given = Recipe((rule,), activations=(ActivationRule(("1",), keep="float"),))
    made = fxquant.compile(model, given, calibration_data=10 * x, target="x86")
    first, *others = fxquant.measure(made, inputs=x).layers
    assert first.module == "0" and others and min(layer.own_sqnr_db for layer in others) > 25


@pytest.mark.parametrize("target", [name for name in ("fbgemm", "qnnpack") if name in ENGINES])
def test_other_engines_compute_it_in_float_and_say_so(target):
    model, x = case("conv")
    [row] = compiled(model, x, target=target).ledger.layers
    assert (row.effective, row.code) == ("int8 weights", "FXQ207")
    assert row.reason == (
        "its output stays float32, by activation rule 1 of the recipe; "
        f"{target} has no int8 kernel for Conv2d here: it is computed in float32"
    )


@pytest.mark.parametrize("name", LAYERS)
def test_a_relu_behind_it_is_in_the_same_kernel(name):
    model, x = case(name, nn.ReLU())
    made = compiled(model, x)
    assert [row.effective for row in made.ledger.layers] == ["int8", "int8"]
    assert not [node for node in made.graph_module.graph.nodes if node.op == "call_function" and node.target is F.relu]
    assert (made(x) >= 0).all() and torch.allclose(made(x), made.canonical(x)[0], atol=1e-4)


def test_a_relu_behind_a_layer_that_others_read_too_is_float():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 5)

        def forward(self, x):
            y = self.fc(x)
            return torch.relu(y), y

    given = Recipe((RecipeRule(("*",), scheme="int8"),), activations=(ActivationRule(("fc", "relu"), keep="float"),))
    made = fxquant.compile(Twice().eval(), given, calibration_data=torch.randn(32, 8), target="x86")
    assert [row.effective for row in made.ledger.layers] == ["int8", "float32"]
    positive, plain = made(torch.randn(4, 8))
    assert positive.equal(plain.relu())


def test_a_kernel_that_computes_wrongly_is_caught(monkeypatch):
    def wrong(x, weight, has_relu=False):
        return _native_float_result.qlinear_pointwise(x, weight, has_relu) * 1.1

    monkeypatch.setitem(_native_float_result.KERNELS, F.linear, (wrong, 0))
    model, x = case("linear")
    [row] = compiled(model, x).ledger.layers
    assert (row.effective, row.code) == ("float32", "FXQ505") and "codes off the canonical graph" in row.reason


def test_a_weight_that_onednn_refuses_is_computed_in_float(monkeypatch):
    def refuse(*args):
        raise RuntimeError("no primitive")

    monkeypatch.setattr(FloatResultWeight, "of", refuse)
    model, x = case("linear")
    [row] = compiled(model, x).ledger.layers
    assert (row.effective, row.code) == ("int8 weights", "FXQ207")


def test_a_weight_with_zero_points_is_computed_in_float():
    model, x = case("linear")
    rule = RecipeRule(("*",), weight=Weight(symmetric=False), activation=Activation())
    given = Recipe((rule,), activations=(ActivationRule(("0",), keep="float"),))
    [row] = fxquant.compile(model, given, calibration_data=x, target="x86").ledger.layers
    assert (row.effective, row.code) == ("int8 weights", "FXQ207")
