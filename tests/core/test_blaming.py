"""Where an error enters: bisection and bounds find the planted layer, shared and in-place modules do not mislead them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxquant
from fxquant.blaming import Trial
from fxquant.numerics import sqnr_db
from fxquant.torch_ao import engine, quiet
from support.compiling import compiled
from support.models import MODELS


def corrupt(made, number):
    """Another bias in the kernel of the `number`-th linear layer from the first; its packed name."""
    names = [str(n.target) for n in made.graph_module.graph.nodes if n.op == "get_attr" and "_packed" in str(n.target)]
    linear = [name for name in names if hasattr(getattr(made.graph_module, name), "unpack") and is_linear(made, name)]
    name = linear[number % len(linear)]
    weight, bias = getattr(made.graph_module, name).unpack()
    with engine("fbgemm"), quiet():
        wrong = bias + 5 * bias.abs().max() * (-1.0) ** torch.arange(len(bias))
        setattr(made.graph_module, name, torch.ops.quantized.linear_prepack(weight, wrong))
    return name


def is_linear(made, name):
    return "Linear" in type(getattr(made.graph_module, name)).__name__ or "Linear" in str(
        getattr(made.graph_module, name)._type()
    )


@pytest.mark.parametrize(("name", "number"), [("mlp", 0), ("mlp", 1), ("mlp", -1), ("encoder", -1), ("encoder", -2)])
def test_bisection_finds_the_planted_layer(name, number):
    case = MODELS[name]
    made = compiled(case, target="fbgemm")
    name = corrupt(made, number)
    inputs = case.inputs(0, 16)
    with torch.no_grad():
        expected = case.make()(*inputs)
    trial = Trial(made, made.trace_float(case.make()), made.program.signature.leaves(inputs, {}))
    culprit = trial.bisected(lambda output: sqnr_db(expected, output) >= 20)
    assert culprit is not None and f"{culprit.row.module.replace('.', '_')}_weight_packed" == name.replace(".", "_")


class Twice(nn.Module):
    """One layer at two sites, and a write in place between them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(self.fc(x).relu_())


def test_a_shared_module_and_a_write_in_place_do_not_mislead():
    model = Twice().eval()
    torch.manual_seed(1)
    made = fxquant.compile(model, "int8", calibration_data=torch.randn(64, 4))
    x = torch.randn(4, 4)
    with torch.no_grad():
        expected = model(x)
    for number, site in enumerate(row.site for row in made.ledger.layers if row.op == "Linear"):
        wrong = fxquant.compile(model, "int8", calibration_data=torch.randn(64, 4), target="fbgemm")
        corrupt(wrong, number)
        trial = Trial(wrong, wrong.trace_float(model), (x,))
        found = trial.bisected(lambda output: sqnr_db(expected, output) >= 15)
        assert found is not None and found.row.site == site
    assert number == 1


def test_what_forcing_every_site_does_not_mend_has_no_culprit():
    case = MODELS["mlp"]
    made, inputs = compiled(case), case.inputs(0, 16)
    trial = Trial(made, made.trace_float(case.make()), made.program.signature.leaves(inputs, {}))
    assert trial.bisected(lambda output: False) is None
