"""fuse: a layer and its ReLU become one unit where they are quantized alike; all else stays as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.ao import quantization
from torch.ao.quantization import quantize_fx
from torch.nn import functional as F

from fxquant.keep_float import keep_float
from fxquant.origin import origins
from fxquant.passes.fuse import Fuse
from fxquant.pipeline import Pipeline
from fxquant.plan import Decision, Mode, QuantPlan
from fxquant.program import Stage
from fxquant.torch_ao import fused_with_relu, quiet
from support.asserts import assert_pass, assert_same
from support.tracing import call, run_passes, trace


class Chain(nn.Module):
    def __init__(self, layer, act):
        super().__init__()
        self.layer, self.act = layer, act

    def forward(self, x):
        return self.act(self.layer(x))


def named(program):
    return [node.name for node in program.graph.nodes]


LAYERS = {
    "Conv1d": (nn.Conv1d(2, 3, 3), (2, 2, 5)),
    "Conv2d": (nn.Conv2d(2, 3, 3, groups=1), (2, 2, 5, 5)),
    "Conv3d": (nn.Conv3d(2, 3, 3), (2, 2, 4, 4, 4)),
    "Linear": (nn.Linear(4, 3), (2, 4)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_fires_on_each_layer_with_a_unit(kind):
    layer, shape = LAYERS[kind]
    program, ledger = assert_pass(Fuse(), Chain(layer, nn.ReLU()), torch.randn(shape))
    assert named(program) == ["x", "layer", "output"]
    assert type(program.graph_module.layer).__name__ == kind.replace("Conv", "ConvReLU").replace("Linear", "LinearReLU")
    assert origins(list(program.graph.nodes)[1]) == ("layer", "act")
    assert ledger["act"].effective == "fused into layer"
    assert not hasattr(program.graph_module, "act")


@pytest.mark.parametrize("act", [F.relu, torch.relu, lambda y: y.relu(), nn.ReLU(inplace=True)])
def test_fires_on_every_spelling_of_relu(act):
    program, _ = assert_pass(Fuse(), Chain(nn.Linear(4, 3), act), torch.randn(2, 4))
    assert named(program) == ["x", "layer", "output"]


@pytest.mark.parametrize(
    "model",
    [
        Chain(nn.Linear(4, 4), nn.ReLU6()),
        Chain(nn.Linear(4, 4), nn.Sigmoid()),
        Chain(nn.LayerNorm(4), nn.ReLU()),
        Chain(torch.sin, nn.ReLU()),
        Chain(nn.ConvTranspose1d(4, 4, 1), nn.ReLU()),
    ],
)
def test_leaves_alone_what_has_no_unit(model):
    assert_pass(Fuse(), model, torch.randn(2, 4, 4), changes=False)


def test_leaves_alone_a_layer_that_others_read():
    class Forked(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            y = self.fc(x)
            return F.relu(y) + y

    assert_pass(Fuse(), Forked(), torch.randn(2, 4), changes=False)


def test_leaves_alone_a_layer_that_is_called_twice():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return self.fc(F.relu(self.fc(x)))

    assert_pass(Fuse(), Recurrent(), torch.randn(2, 4), changes=False)


def test_leaves_alone_a_layer_whose_weight_is_read():
    class Read(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return F.relu(self.fc(x)) + self.fc.weight.sum()

    assert_pass(Fuse(), Read(), torch.randn(2, 4), changes=False)


def test_one_relu_module_after_two_layers_goes_into_both():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.act = nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU()

        def forward(self, x):
            return self.act(self.b(self.act(self.a(x))))

    program, _ = assert_pass(Fuse(), Shared(), torch.randn(2, 4))
    assert named(program) == ["x", "a", "b", "output"]


def test_a_subclass_is_not_fused():
    layer = nn.Linear(2, 2)
    nn.utils.parametrizations.weight_norm(layer)
    assert fused_with_relu(layer) is None


def test_nothing_kept_float_is_fused():
    model = Chain(nn.Linear(4, 3), nn.ReLU()).eval()
    for name in ("layer", "act"):
        program, ledger = trace(model, torch.randn(2, 4))
        keep_float(next(node for node in program.graph.nodes if node.name == name), "a test says so")
        program, _ = Pipeline((Fuse(),)).run(program, ledger)
        assert named(program) == ["x", "layer", "act", "output"]


QCONFIG, OTHER = object(), object()


@pytest.mark.parametrize(
    ("layer", "act", "is_fused"),
    [
        ((Mode.STATIC, QCONFIG, False), (Mode.STATIC, QCONFIG, False), True),
        ((Mode.STATIC, QCONFIG, True), (Mode.STATIC, QCONFIG, False), True),
        ((Mode.STATIC, QCONFIG, False), (Mode.STATIC, OTHER, False), True),
        ((Mode.STATIC, QCONFIG, False), (Mode.STATIC, OTHER, True), False),
        ((Mode.STATIC, QCONFIG, False), (Mode.FLOAT, None, True), False),
        ((Mode.STATIC, QCONFIG, False), (Mode.FLOAT, None, False), False),
        ((Mode.FLOAT, None, False), (Mode.FLOAT, None, False), False),
        ((Mode.DYNAMIC, QCONFIG, False), (Mode.FLOAT, None, False), False),
        ((Mode.DYNAMIC, QCONFIG, False), (Mode.DYNAMIC, QCONFIG, False), False),
    ],
)
def test_the_plan_is_respected(layer, act, is_fused):
    model, x = Chain(nn.Linear(4, 3), nn.ReLU()).eval(), torch.randn(2, 4)
    program, ledger = trace(model, x)
    decisions = [
        Decision(site, site, site, mode, qconfig, str(mode), "a test says so", is_explicit)
        for site, (mode, qconfig, is_explicit) in {"layer": layer, "act": act}.items()
    ]
    planned = replace(program.at(Stage.PLANNED), plan=QuantPlan(tuple(decisions)))
    program, _ = Pipeline((Fuse(),)).run(planned, ledger)
    assert ("act" not in named(program)) is is_fused
    assert_same(call(program, x), model(x))


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor, torch.quantize_per_channel")
@pytest.mark.parametrize("kind", LAYERS)
def test_prepare_and_convert_take_the_unit(kind):
    """torch's own prepare_fx finds one observed unit, and convert_fx makes one quantized one of it."""
    layer, shape = LAYERS[kind]
    program, _ = run_passes(Fuse(), Chain(layer, nn.ReLU()), x := torch.randn(shape))
    with quiet():
        mapping = quantization.get_default_qconfig_mapping("x86")
        prepared = quantize_fx.prepare_fx(program.graph_module, mapping, (x,))
        prepared(x)
        converted = quantize_fx.convert_fx(prepared)
    assert type(converted.layer).__name__ == type(program.graph_module.layer).__name__
    assert "quantized" in type(converted.layer).__module__
