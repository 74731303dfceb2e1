"""Parametrized, normalized and pruned layers, and lazy ones: plain in the copy, the same numbers, told by name."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import fxquant
from fxquant import errors, preflight
from fxquant.numerics import sqnr_db
from support.asserts import assert_same, untouched


def quietly(make):
    """torch calls its older forms deprecated."""

    def build(layer, tensor):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return make(layer, tensor)

    return build


class Clipped(nn.Module):
    def forward(self, weight):
        return weight.clamp(-0.2, 0.2)


class Symmetric(nn.Module):
    """With a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.5))

    def forward(self, weight):
        return torch.tanh(weight * self.gain)


def parametrized(*steps):
    def build(layer, tensor):
        for step in steps:
            parametrize.register_parametrization(layer, tensor, step())
        return layer

    return build


WAYS = {
    "old weight_norm": quietly(lambda layer, tensor: nn.utils.weight_norm(layer, tensor)),
    "weight_norm": lambda layer, tensor: parametrizations.weight_norm(layer, tensor),
    "old spectral_norm": quietly(lambda layer, tensor: nn.utils.spectral_norm(layer, tensor)),
    "spectral_norm": lambda layer, tensor: parametrizations.spectral_norm(layer, tensor),
    "orthogonal": lambda layer, tensor: parametrizations.orthogonal(layer, tensor),
    "own": parametrized(Clipped),
    "two of one's own": parametrized(Symmetric, Clipped),
    "pruned": lambda layer, tensor: prune.l1_unstructured(layer, tensor, amount=0.5),
    "pruned in structure": lambda layer, tensor: prune.ln_structured(layer, tensor, amount=0.25, n=2, dim=0),
    "pruned twice": lambda layer, tensor: prune.random_unstructured(
        prune.l1_unstructured(layer, tensor, amount=0.2), tensor, amount=0.2
    ),
}


class Last(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 8, batch_first=True)

    def forward(self, x):
        return self.lstm(x)[0][:, -1]


class Table(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(32, 8)

    def forward(self, x):
        return self.table(x).mean(1)


def _generator():
    return torch.Generator().manual_seed(1)


# kind → (model, layer, tensor, inputs, policy)
LAYERS = {
    "Linear": (lambda: nn.Sequential(nn.Linear(8, 8)), "0", "weight", torch.randn(32, 8, generator=_generator())),
    "Conv2d": (
        lambda: nn.Sequential(nn.Conv2d(4, 8, 3)),
        "0",
        "weight",
        torch.randn(8, 4, 6, 6, generator=_generator()),
    ),
    "LSTM": (Last, "lstm", "weight_hh_l0", torch.randn(16, 5, 8, generator=_generator())),
    "Embedding": (Table, "table", "weight", torch.randint(0, 32, (16, 5), generator=_generator())),
}


def made(kind, way):
    make, name, tensor, inputs = LAYERS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make()
        WAYS[way](model.get_submodule(name), tensor)
        model.train()
        with torch.no_grad():
            model(inputs)  # spectral norms take a step of their power method
    return model.eval(), f"{name}.{tensor}", inputs


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", LAYERS)
def test_the_copy_computes_what_the_model_computes_in_eval_mode(kind, way):
    model, name, inputs = made(kind, way)
    with torch.no_grad():
        expected = model(inputs)
    with untouched(model):
        copied = preflight.fork(model)
    assert isinstance(dict(copied.named_parameters())[name], nn.Parameter)
    assert not any(
        "original" in key or "mask" in key or key.endswith(("_g", "_v", "_u")) for key in copied.state_dict()
    )
    with torch.no_grad():
        assert_same(copied(inputs), expected, rtol=1e-6, atol=1e-6)
        assert_same(model(inputs), expected)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", LAYERS)
def test_the_compiled_model_is_near_and_its_ledger_names_the_layer(kind, way):
    model, name, inputs = made(kind, way)
    policy = "int8-dynamic" if kind == "LSTM" else "int8"
    with untouched(model):
        compiled = fxquant.compile(model, policy, calibration_data=inputs, target="x86")
    with torch.no_grad():
        assert sqnr_db(model(inputs), compiled(inputs)) > 20
    [row] = [row for row in compiled.ledger.notices if row.code == "FXQ236"]
    assert f"'{name}' (" in row.reason and "eval mode" in row.reason
    assert any(row.effective.startswith("int8") for row in compiled.ledger.layers)


def test_pruned_weights_are_exactly_zero_in_the_compiled_model():
    model, _, inputs = made("Linear", "pruned")
    compiled = fxquant.compile(model, "int8", calibration_data=inputs, target="x86")
    zeros = model[0].weight == 0
    assert zeros.sum() == 32 and (compiled.state_dict()["0.weight"][zeros] == 0).all()


def test_all_ways_in_one_model_and_in_bfloat16():
    layers = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for way in ("old weight_norm", "weight_norm", "own", "pruned"):
            layers += [WAYS[way](nn.Linear(8, 8), "weight"), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(8, 2)).bfloat16().eval()
    inputs = LAYERS["Linear"][3]
    with untouched(model):
        compiled = fxquant.compile(model, "int8", calibration_data=inputs, target="x86")
    with torch.no_grad():
        assert sqnr_db(model(inputs.bfloat16()), compiled(inputs)) > 20
    [told] = [row.reason for row in compiled.ledger.notices if row.code == "FXQ236"]
    assert told.startswith("4 tensors") and "WeightNorm" in told and "Clipped" in told and "pruned" in told


def test_a_parametrized_buffer_stays_a_buffer():
    model = nn.Sequential(nn.BatchNorm1d(8)).eval()
    parametrize.register_parametrization(model[0], "running_mean", Clipped())
    copied = preflight.fork(model)
    assert "running_mean" in copied[0]._buffers and [name for name, _ in copied.named_parameters()] == [
        "0.weight",
        "0.bias",
    ]


def test_a_lazy_model_that_was_called_once_is_like_any_other():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    x = torch.randn(16, 2, 6, 6, generator=_generator())
    with pytest.raises(errors.UnsupportedModelError, match="FXQ223"):
        fxquant.compile(model.eval(), "int8", calibration_data=x, target="x86")
    model(x)
    with untouched(model):
        compiled = fxquant.compile(model, "int8", calibration_data=x, target="x86")
    assert sqnr_db(model(x), compiled(x)) > 25


class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        self.is_broken = False

    def forward(self, weight):
        if self.is_broken:
            raise LookupError("no table of gains")
        return weight


def test_a_parametrization_that_raises_is_named_and_the_model_untouched():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).eval()
    step = Broken()
    parametrize.register_parametrization(model[1], "weight", step)
    step.is_broken = True
    with pytest.raises(errors.UnsupportedModelError) as caught:
        fxquant.compile(model, "int8-dynamic", example_inputs=(torch.ones(1, 4),), target="x86")
    assert caught.value.code == "FXQ237" and caught.value.module == "1" and caught.value.hint
    assert "'1.weight' cannot be computed: its Broken raises LookupError: no table of gains" in caught.value.message
    step.is_broken = False
    assert parametrize.is_parametrized(model[1]) and model(torch.ones(1, 4)).shape == (1, 4)


class Checkered(prune.BasePruningMethod):
    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t, default_mask):
        mask = default_mask.clone()
        mask.view(-1)[::2] = 0
        return mask


def test_a_pruning_method_of_ones_own_is_worked_in():
    model = nn.Sequential(nn.Linear(4, 4)).eval()
    Checkered.apply(model[0], "weight")
    with untouched(model):
        copied = preflight.fork(model)
    assert (copied[0].weight.view(-1)[::2] == 0).all() and type(copied[0].weight) is nn.Parameter


class Stubborn(prune.BasePruningMethod):
    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t, default_mask):
        return default_mask

    def remove(self, module):
        raise RuntimeError("once pruned, always pruned")


def test_a_pruning_method_that_cannot_be_removed_is_named():
    model = nn.Sequential(nn.Linear(4, 4)).eval()
    Stubborn.apply(model[0], "weight")
    with pytest.raises(errors.UnsupportedModelError, match=r"FXQ237 '0.weight'.*always pruned"):
        preflight.fork(model)
