"""Layers with tiny values: no observer of ours makes them zero, and one of the user's that does is told of."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import fxquant
from fxquant.numerics import sqnr_db
from support.compiling import ENGINES

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.ao.quantization import MinMaxObserver, PerChannelMinMaxObserver, QConfig, QConfigMapping

OWN = QConfig(
    MinMaxObserver.with_args(dtype=torch.quint8),
    PerChannelMinMaxObserver.with_args(dtype=torch.qint8, qscheme=torch.per_channel_symmetric),
)


class Tiny(nn.Module):
    """Values of 1e-9 between two layers, whose weights shrink them and bring them back."""

    def __init__(self, small=1e-9):
        super().__init__()
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 8)
        with torch.no_grad():
            self.first.weight.mul_(small)
            self.first.bias.mul_(small)
            self.second.weight.div_(small)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


class TinyConv(nn.Module):
    """The same of convolutions."""

    def __init__(self, small=1e-9):
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 8, 3), nn.Conv2d(8, 4, 3)
        with torch.no_grad():
            self.first.weight.mul_(small)
            self.first.bias.mul_(small)
            self.second.weight.div_(small)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


def rows(seed, shape=(32, 16)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made(kind):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind().eval()


def compiled(model, policy, target, shape=(32, 16)):
    return fxquant.compile(model, policy, calibration_data=[rows(1, shape), rows(2, shape)], target=target)


@pytest.mark.parametrize("target", ENGINES)
@pytest.mark.parametrize(("kind", "shape"), [(Tiny, (32, 16)), (TinyConv, (8, 4, 10, 10))])
def test_the_preset_quantizes_tiny_values_on_each_engine(kind, shape, target):
    model = made(kind)
    found = compiled(model, "int8", target, shape)
    with torch.no_grad():
        assert sqnr_db(model(rows(3, shape)), found(rows(3, shape))) > 28.0
    assert {row.effective for row in found.ledger.layers if row.module in ("first", "second")} == {"int8"}
    assert "FXQ322" not in {row.code for row in found.ledger.notices}


@pytest.mark.parametrize("policy", ["int8-weight-only", "int8-dynamic"])
def test_tiny_weights_keep_their_codes_in_other_presets(policy):
    model = made(Tiny).first
    found = compiled(model, policy, "onednn")
    with torch.no_grad():
        assert sqnr_db(model(rows(3)), found(rows(3))) > 28.0


def test_rows_of_a_table_keep_their_codes():
    model = nn.Sequential(nn.Embedding(10, 32)).eval()
    with torch.no_grad():
        model[0].weight.mul_(1e-8)
    ids = torch.arange(10).reshape(2, 5)
    found = fxquant.compile(model, "int8-weight-only", example_inputs=(ids,), target="onednn")
    with torch.no_grad():
        assert sqnr_db(model(ids), found(ids)) > 28.0


def test_a_recipe_and_qconfig_have_the_same_floor():
    mapping = QConfigMapping().set_global(fxquant.qconfig("int8", "uint8", observer="minmax"))
    model = made(Tiny)
    found = compiled(model, mapping, "onednn")
    with torch.no_grad():
        assert sqnr_db(model(rows(3)), found(rows(3))) > 28.0


def test_an_eps_of_the_users_own_that_bites_is_told_of():
    found = compiled(made(Tiny), QConfigMapping().set_global(OWN), "onednn")
    told = [row for row in found.ledger.notices if row.code == "FXQ322"]
    assert [row.reason for row in told] == [
        "the range of 'first' is [0, 1.88e-09], and its observer's eps=1.19e-07 is wider than its step: codes are lost",
        "the weight of 'first' has 32 channels with values below its observer's eps=1.19e-07: codes are lost",
    ]
    assert all("eps=2**-60" in row.hint for row in told)


def test_an_eps_that_does_not_bite_is_not_spoken_of():
    mapping = QConfigMapping().set_global(OWN)
    usual = compiled(made(lambda: Tiny(1.0)), mapping, "onednn")
    assert "FXQ322" not in {row.code for row in usual.ledger.notices}


@pytest.mark.parametrize("target", ENGINES)
def test_a_channel_of_zeros_leaves_room_for_its_bias(target):
    model = nn.Sequential(nn.Linear(16, 8)).eval()
    with torch.no_grad():
        model[0].weight[3].zero_()
        model[0].bias.fill_(40.0)
    found = compiled(model, "int8", target)
    assert float(found.canonical.get_submodule("0").weight_scale.reshape(-1).min()) > 1e-4
    with torch.no_grad():
        assert sqnr_db(model(rows(3)), found(rows(3))) > 28.0


def test_a_weight_of_zeros_alone_has_a_scale_of_one():
    model = nn.Sequential(nn.Linear(16, 8)).eval()
    with torch.no_grad():
        model[0].weight.zero_()
    found = compiled(model, "int8", "onednn")
    assert found.canonical.get_submodule("0").weight_scale.tolist() == [1.0] * 8
