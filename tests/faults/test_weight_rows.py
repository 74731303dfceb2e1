"""The model rows of the fault table about values: a zero channel (16), a constant input (17), an outlier channel (18)."""

from __future__ import annotations

import torch
from torch import nn

import fxquant
from support.asserts import untouched


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(6, 4).eval()


def test_row_16_a_zero_channel_gives_its_bias_exactly_and_all_is_finite():
    model, data = nn.Sequential(linear(), nn.ReLU()).eval(), torch.rand(64, 6)
    with torch.no_grad():
        model[0].weight[2] = 0
        model[0].bias[2] = 0
    with untouched(model):
        compiled = fxquant.compile(model, "int8", calibration_data=data, target="x86")
    found = compiled(data)
    assert torch.isfinite(found).all()
    assert (found[:, 2] == 0).all(), "zero is exact on every grid"
    scales = compiled.state_dict()["0.weight_scale"]
    alive = torch.tensor([0, 1, 3])
    assert float(scales[2]) == float(scales[alive].max()), (
        "its codes are zero with any scale; with a tiny one no bias fits"
    )
    assert torch.allclose(scales[alive], model[0].weight[alive].abs().amax(1) / 127.5, rtol=1e-5), "those of the others"


def test_row_17_a_constant_tensor_lies_on_the_grid():
    model, data = nn.Sequential(linear()).eval(), torch.full((64, 6), 5.0)
    compiled = fxquant.compile(model, "int8", calibration_data=data, target="x86")
    quantize = next(node for node in compiled.canonical.graph.nodes if node.name.startswith("quantize"))
    scale, zero_point = quantize.args[1:3]
    code = round(5.0 / scale) + zero_point
    assert abs((code - zero_point) * scale - 5.0) < 1e-6
    step = next(node for node in reversed(compiled.canonical.graph.nodes) if node.name.startswith("quantize")).args[1]
    with torch.no_grad():
        assert float((compiled(data) - model(data)).abs().max()) < 0.1 + step


def test_row_18_an_outlier_channel_is_named():
    model, data = nn.Sequential(linear()).eval(), torch.rand(64, 6)
    with torch.no_grad():
        model[0].weight[1] *= 1000
    with untouched(model):
        compiled = fxquant.compile(model, "int8", calibration_data=data, target="x86")
    (told,) = [row for row in compiled.ledger.notices if row.code == "FXQ311"]
    assert "'0.weight'" in told.reason
