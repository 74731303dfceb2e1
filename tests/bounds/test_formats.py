"""Bounds of number formats: what a compiled model is off by is within them, and a wrong weight is not explained."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.ao.quantization import QConfigMapping

import fxquant
from fxquant import qdq
from fxquant.bounds import formats
from fxquant.bounds.bounding import error_bound
from fxquant.bounds.rounding import nothing_rounded
from support.compiling import ENGINES

X = torch.randn(6, 5, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.up = nn.Conv1d(5, 6, 3), nn.ConvTranspose1d(6, 4, 3)
        self.rnn, self.head = nn.GRU(8, 7, batch_first=True), nn.Linear(7, 3)

    def forward(self, x):
        return self.head(self.rnn(torch.relu(self.up(torch.relu(self.conv(x)))))[0])


ASKED = {
    "int4": {"weight": "int4", "group_size": 6},
    "asymmetric int4": {"weight": "int4", "symmetric": False, "weight_bits": 3},
    "int4, dynamic": {"weight": "int4", "activation": "uint8", "dynamic": True},
    "int4, static": {"weight": "int4", "activation": "uint8", "observer": "minmax"},
    "bfloat16": {"weight": "bfloat16"},
    "float16": {"weight": "float16"},
    "float8, static": {"weight": "float8_e4m3", "activation": "float8_e4m3", "observer": "minmax"},
    "float8, dynamic": {"weight": "float8_e5m2", "activation": "float8_e5m2", "dynamic": True},
    "e3m2, tensor": {"weight": "e3m2", "granularity": "tensor"},
    "4 bits, static": {"activation": "uint8", "activation_bits": 4, "granularity": "tensor", "observer": "minmax"},
    "3 bits, dynamic": {"activation": "uint8", "activation_bits": 3, "dynamic": True},
}


def made(asked):
    torch.manual_seed(0)
    model = Net().eval()
    mapping = QConfigMapping().set_global(fxquant.qconfig(**ASKED[asked]))
    return model, fxquant.compile(model, mapping, calibration_data=[X], target="x86")


@pytest.mark.parametrize("factor", [0.5, 3.0])
@pytest.mark.parametrize("asked", ASKED)
def test_the_error_is_within_its_bound_and_the_weights_explain_the_rest(asked, factor):
    model, compiled = made(asked)
    bound = error_bound(compiled, X * factor, model=model)
    error = (compiled(X * factor) - model(X * factor)).abs()
    assert bool((error <= bound.leaves[0].bound * (1 + 1e-6) + 1e-6).all())
    assert not bound.unbounded and not bound.unexplained


@pytest.mark.parametrize("asked", ["int4", "asymmetric int4", "bfloat16", "e3m2, tensor", "float8, static"])
def test_a_weight_that_is_another_one_is_not_explained(asked):
    model, compiled = made(asked)
    with torch.no_grad():
        for name, value in compiled.canonical.named_buffers():
            if name.startswith("head.weight"):
                value.copy_(value.flip(0))
    assert [found.site for found in error_bound(compiled, X, model=model).unexplained] == ["head"]


FOLDED = {"relu6": nn.ReLU6(), "from below zero": nn.Hardtanh(-1.0, 2.0), "narrow": nn.Hardtanh(-0.3, 0.4)}


def clamped(clamp):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(5, 6, 3), FOLDED[clamp], nn.Conv1d(6, 4, 3)).eval()
    compiled = fxquant.compile(model, "int8", calibration_data=[4 * X], target="onednn")
    assert "folded into the range" in compiled.ledger["_1"].reason
    return model, compiled


@pytest.mark.skipif("onednn" not in ENGINES, reason="needs oneDNN, whose kernels take all 8 bits")
@pytest.mark.parametrize("factor", [0.5, 4.0, 12.0])
@pytest.mark.parametrize("clamp", FOLDED)
def test_a_clamp_that_became_a_range_is_explained(clamp, factor):
    model, compiled = clamped(clamp)
    bound = error_bound(compiled, X * factor, model=model)
    assert not bound.unbounded and not bound.unexplained
    error = (compiled(X * factor) - model(X * factor)).abs()
    assert bool((error <= bound.leaves[0].bound * (1 + 1e-6) + 1e-6).all())


@pytest.mark.skipif("onednn" not in ENGINES, reason="needs oneDNN, whose kernels take all 8 bits")
@pytest.mark.parametrize("clamp", FOLDED)
def test_a_range_that_is_not_that_of_the_clamp_is_not_explained(clamp):
    model, compiled = clamped(clamp)
    [_, quantize, _] = [node for node in compiled.canonical.graph.nodes if node.target is qdq.quantize_per_tensor]
    for node in (quantize, *quantize.users):
        node.args = (*node.args[:2], node.args[2] + 5, *node.args[3:])  # five steps lower at both ends
    assert [found.site for found in error_bound(compiled, 4 * X, model=model).unexplained] == ["_1"]


def test_a_bfloat16_kernel_is_within_what_it_is_allowed():
    torch.manual_seed(0)
    x, weight, bias = torch.randn(64, 96), torch.randn(32, 96).bfloat16(), torch.randn(32)
    from fxquant.passes._native_formats import linear_bf16

    class Node:
        target = torch.nn.functional.linear

    slack = formats.bfloat16_slack(Node, weight, (x, weight.float(), bias), {})
    error = (linear_bf16(x, weight, bias.bfloat16()) - torch.nn.functional.linear(x, weight.float(), bias)).abs()
    assert slack is not None and bool((error <= slack).all()) and float((error / slack).max()) > 0.005


def test_rounding_to_a_small_float_is_nothing_where_nothing_is_rounded():
    with nothing_rounded():
        found = formats.simulate(X, 0.5, 3, 2)
    assert torch.equal(found.value.float(), X) and not bool(found.error.any())
