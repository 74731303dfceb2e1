"""measure(): exact where nothing was quantized, local where one layer errs, and honest about what it cannot know."""

from __future__ import annotations

import gc
import math

import pytest
import torch
from torch import nn
from torch.ao.quantization import QConfigMapping

import fxquant
from fxquant.errors import UnmeasurableError
from fxquant.measuring import BINS, measure
from support.asserts import untouched
from support.compiling import ENGINES, compile_model
from support.data import vectors
from support.models import FAMILIES, MODELS
from support.models.case import Case

TRACEABLE = {name: case for name, case in MODELS.items() if case.is_traceable}
CASE = FAMILIES["mlp"]


@pytest.mark.parametrize("name", TRACEABLE)
def test_a_model_that_stayed_float_has_no_noise_anywhere(name):
    """Holds the pairing of sites: a node compared with another site's value would show noise."""
    model = TRACEABLE[name].make()
    found = measure(compile_model(model, QConfigMapping(), TRACEABLE[name]), is_timed=False)
    assert found.output_sqnr_db == math.inf
    noisy = [layer for layer in found.layers if layer.sqnr_db < 100 or layer.own_sqnr_db < 100]
    assert not noisy and found.layers


@pytest.mark.parametrize("name", TRACEABLE)
def test_every_layer_of_an_int8_model_is_measured_or_computed_within_one_that_is(name):
    model = TRACEABLE[name].make()
    compiled = compile_model(model, "int8", TRACEABLE[name])
    found = measure(compiled, is_timed=False)
    sites = {layer.site for layer in found.layers}
    assert sites <= {row.site for row in compiled.ledger.layers}
    assert all(layer.own_sqnr_db > 8 for layer in found.layers)
    assert all(len(layer.histogram) == BINS and sum(layer.histogram) > 0 for layer in found.layers)


class Tail(nn.Module):
    """Its middle layer is quantized with a range that the data leaves by far."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.middle(self.first(x)))


def test_the_layer_at_which_the_error_enters_stands_out_and_those_after_it_do_not():
    torch.manual_seed(0)
    model = Tail().eval()
    compiled = fxquant.compile(model, "int8", calibration_data=torch.randn(64, 8))
    node = next(node for node in compiled.graph_module.graph.nodes if "middle" in str(node.args))
    node.args = (*node.args[:2], node.args[2] / 20, *node.args[3:])  # a twentieth of its scale: nearly all is clipped
    compiled.graph_module.recompile()
    middle, last = (next(layer for layer in measure(compiled).layers if layer.module == m) for m in ("middle", "last"))
    assert middle.own_sqnr_db < 6 and middle.clipped > 0.5
    assert last.own_sqnr_db > 25 > 6 > last.sqnr_db


def test_ranges_and_histograms_are_those_of_the_float_values():
    model = nn.Sequential(nn.Linear(8, 4)).eval()
    x = torch.randn(4, 8)
    compiled = fxquant.compile(model, "int8", calibration_data=torch.randn(64, 8))
    (layer,) = measure(compiled, inputs=x).layers
    expected = model(x)
    assert (layer.low, layer.high) == (expected.min().item(), expected.max().item())
    assert sum(layer.histogram) == expected.numel() and layer.seconds > 0
    assert layer.quant_low < layer.quant_high


@pytest.mark.skipif("fbgemm" not in ENGINES, reason="this torch has no FBGEMM, which computes the clamp by itself")
@pytest.mark.parametrize("clamp", [nn.ReLU6(), nn.Hardtanh(-0.5, 1.5)])
def test_a_value_before_a_clamp_is_compared_as_the_clamp_lets_it_through(clamp):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), clamp, nn.Conv2d(8, 4, 3)).eval()
    compiled = fxquant.compile(model, "int8", calibration_data=4 * torch.randn(4, 3, 8, 8), target="fbgemm")
    layers = {layer.module: layer for layer in measure(compiled, is_timed=False).layers}
    assert layers["0"].own_sqnr_db > 25, "its codes end where the clamp does"
    assert layers["0"].low < -4 and layers["0"].clipped == 0 and layers["0"].quant_low is None
    assert layers["1"].quant_high is not None
    node = next(node for node in compiled.graph_module.graph.nodes if "packed" in str(node.args))
    node.args = (*node.args[:2], node.args[2] / 4, *node.args[3:])  # a quarter of its scale: the codes end before it
    compiled.graph_module.recompile()
    worse = {layer.module: layer for layer in measure(compiled, is_timed=False).layers}
    assert worse["0"].own_sqnr_db < 15, "what the clamp lets through and the codes do not is an error"


def test_other_inputs_come_in_every_form_of_a_call():
    model = CASE.make()
    compiled = compile_model(model, "int8", CASE)
    x = CASE.inputs(3, 2)[0]
    results = [measure(compiled, inputs=given).output_sqnr_db for given in (x, (x,), {"x": x})]
    assert results[0] == results[1] == results[2] and measure(compiled, inputs=x).rows == 2


def test_nothing_is_touched():
    model = CASE.make()
    compiled = compile_model(model, "int8", CASE)
    before = {name: tensor.clone() for name, tensor in compiled.state_dict().items()}
    with untouched(model):
        measure(compiled)
    assert all(torch.equal(before[name], tensor) for name, tensor in compiled.state_dict().items())


def test_a_model_that_counts_its_calls_is_not_counted_on():
    case = MODELS["counts_calls"]
    compiled = compile_model(case.make(), "int8", case)
    model = case.make()
    x = case.inputs()
    measure(compiled, model=model)
    again = compile_model(case.make(), "int8", case)
    assert torch.equal(compiled(*x), again(*x))


def test_a_float_model_that_is_gone_is_said_to_be_gone():
    compiled = compile_model(CASE.make(), "int8", CASE)
    gc.collect()
    with pytest.raises(UnmeasurableError, match="the float model is gone") as error:
        measure(compiled)
    assert error.value.code == "FXQ313"
    assert measure(compiled, model=CASE.make()).output_sqnr_db > 20


def test_a_float_model_that_was_changed_is_not_compared_with():
    model = CASE.make()
    compiled = compile_model(model, "int8", CASE)
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    with pytest.raises(UnmeasurableError, match="changed since"):
        measure(compiled)


def test_a_model_without_known_inputs_asks_for_some():
    model = nn.Sequential(nn.Linear(8, 4)).eval()
    compiled = fxquant.compile(model, "int8-dynamic")
    with pytest.raises(UnmeasurableError, match="no example"):
        measure(compiled)
    assert measure(compiled, inputs=torch.randn(4, 8)).output_sqnr_db > 20


def test_a_calibrating_model_is_not_measured():
    compiled = fxquant.compile(CASE.make(), "int8", example_inputs=CASE.inputs())
    with pytest.raises(UnmeasurableError, match="PREPARED"):
        measure(compiled)


def test_rows_are_as_many_as_asked_for_and_given():
    case = Case(lambda: nn.Sequential(nn.Linear(8, 4)), vectors(8))
    model = case.make()
    compiled = compile_model(model, "int8", case)
    assert measure(compiled, rows=3).rows == 3
    assert measure(compiled, inputs=torch.randn(2, 8), rows=64).rows == 2
