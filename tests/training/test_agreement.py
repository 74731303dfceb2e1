"""The check that what was trained is what runs: it sees every requantization, and it fails when it should."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxquant
from fxquant.errors import SemanticsError
from fxquant.passes.convert import Convert
from fxquant.training.fake_quantizer import FakeQuantizer
from support.models import MODELS
from support.training import net, pictures, qat, train

ZOO = {
    "int8": ("mobilenet_v3", "unet", "encoder", "lstm_both_ways", "inplace_view", "shared_conv_norm", "tied_weights",
             "grouped_transpose_norm", "dict_input", "counts_calls"),
    "int8-dynamic": ("lstm_both_ways", "gru", "lstm_state", "tied_weights"),
    "int8-weight-only": ("shared_conv_norm", "gru"),
}  # fmt: skip


@pytest.mark.parametrize(("policy", "name"), [(policy, name) for policy, names in ZOO.items() for name in names])
def test_models_of_every_shape_agree_layer_by_layer(policy, name):
    case = MODELS[name]
    trained = fxquant.compile(case.make(), policy, mode="qat", calibration_data=case.batches(2, 16), target="x86")
    rows = trained.check()
    requantized = [
        node
        for node in trained.graph_module.graph.nodes
        if node.op == "call_module" and isinstance(trained.program.module_of(node), FakeQuantizer)
    ]
    sources = {node.all_input_nodes[0] for node in requantized}
    assert rows and len(rows) >= len(sources)
    assert all(row.steps <= 1.001 for row in rows)


def tampered(monkeypatch, change):
    plain = Convert.run

    def run(self, program, ledger):
        made = plain(self, program, ledger)
        change(made.graph_module)
        return made

    monkeypatch.setattr(Convert, "run", run)


def test_a_weight_that_conversion_got_wrong_is_found_and_named(monkeypatch):
    trained = qat()
    train(trained)

    def change(graph_module):
        graph_module.get_submodule("5").weight.add_(3)

    tampered(monkeypatch, change)
    with pytest.raises(SemanticsError, match=r"FXQ408 '5' computes something else now") as told:
        trained.convert()
    assert told.value.module == "5"
    assert [row.is_met for row in trained.agreement] == [True, True, False]


def test_a_wrong_bias_of_a_layer_that_nothing_requantizes_is_found(monkeypatch):
    trained = qat(policy="int8-weight-only")
    tampered(monkeypatch, lambda graph_module: graph_module.get_submodule("5").bias.add_(1.0))
    with pytest.raises(SemanticsError, match=r"FXQ408 '5'"):
        trained.check()


def test_nan_agrees_with_nothing(monkeypatch):
    trained = qat(policy="int8-weight-only")
    tampered(monkeypatch, lambda graph_module: graph_module.get_submodule("0").bias.mul_(float("nan")))
    with pytest.raises(SemanticsError, match="nan steps"):
        trained.check()


def test_what_is_trained_in_float_is_told_and_not_compared():
    class Bags(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.EmbeddingBag(50, 8, mode="sum"), nn.Linear(8, 4)

        def forward(self, tokens):
            return self.head(self.table(tokens))

    tokens = torch.randint(0, 50, (16, 5), generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trained = fxquant.compile(Bags().eval(), "int8", mode="qat", calibration_data=[tokens], target="x86")
    trained.train()(tokens).square().sum().backward()
    torch.optim.SGD(trained.parameters(), lr=0.01).step()
    compiled = trained.convert()
    assert [row.module for row in trained.agreement] == ["table", "head"][-len(trained.agreement) :]
    assert compiled.ledger["table"].code == "FXQ232" and "trained in float" in compiled.ledger["table"].reason


def test_without_an_example_the_first_batch_is_the_one_that_is_compared():
    trained = qat(net(), calibration_data=None)
    trained.train()(pictures()).sum().backward()
    assert len(trained.check()) == 3
