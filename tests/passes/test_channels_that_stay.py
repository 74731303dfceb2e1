"""prune-channels: what stays, and why; and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fxquant
from fxquant.errors import ExampleInputError, FxQuantError, UnknownTargetError, UsageError
from fxquant.passes.prune_channels import PruneChannels
from support.models import MODELS
from support.pruning import PICTURES, conv, net, pruned, residual, shapes, stays

WHY = {
    "output": (lambda m, x: (m.head(m.conv(x)), m.conv(x)), "it is an output of the model"),
    "input": (lambda m, x: m.head(m.conv(x) + x.repeat(1, 2, 1, 1)[:, :4]), "'add' joins it with 'getitem'"),
    "softmax": (lambda m, x: m.head(m.conv(x).softmax(1)), "works across them"),
    "mean": (lambda m, x: m.head(m.conv(x) - m.conv(x).mean(1, keepdim=True)), "'mean' works across them"),
    "unknown": (lambda m, x: m.head(torch.roll(m.conv(x), 1, 1)), "'roll' cannot be followed"),
    "two": (
        lambda m, x: m.head((m.conv(x)[..., :1, 0] * m.conv(x)[:, :, 0, 0].unsqueeze(1)).flatten(1).view(-1, 4, 2, 2)),
        "'flatten' joins two dimensions of channels",
    ),
    "apart": (lambda m, x: m.head(m.conv(x)) + torch.stack(m.conv(x).unbind(1), 1)[:, :2], "'unbind' takes them apart"),
    "one": (lambda m, x: m.head(m.conv(x)) + m.conv(x)[:, 0].unsqueeze(1), "'getitem' picks some of them"),
    "number": (lambda m, x: m.head(m.conv(x) / m.conv(x).shape[1]), "computes with a number of channels"),
    "squeeze": (lambda m, x: m.head(m.conv(x).squeeze()), "say squeeze(dim)"),
    "pixels": (lambda m, x: m.head(F.max_pool2d(m.conv(x).transpose(1, 3), 1).transpose(1, 3)), "works across them"),
}  # fmt: skip


@pytest.mark.parametrize("name", WHY)
def test_what_cannot_be_followed_keeps_its_channels_and_the_ledger_says_why(name):
    function, why = WHY[name]
    model = net(function, conv=conv(3, 4), head=conv(4, 2))
    made = pruned(model)
    assert why in stays(made)["conv"]
    assert shapes(made) == shapes(model)
    with torch.no_grad():
        expected, found = model(PICTURES), made(PICTURES)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_layers_around_a_recurrent_one_keep_their_width():
    model = net(
        lambda m, x: m.head(m.rnn(m.embed(x))[0]),
        embed=nn.Linear(4, 8), rnn=nn.LSTM(8, 8, batch_first=True), head=nn.Linear(8, 2),
    )  # fmt: skip
    assert "LSTM 'rnn' cannot be followed" in stays(pruned(model, torch.rand(2, 3, 4)))["embed"]


class Gain(nn.Module):
    """A module of the user's own, kept whole."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x):
        return x * self.weight


def test_a_leaf_module_of_the_users_own_freezes_what_it_touches():
    model = net(lambda m, x: m.head(m.gain(m.conv(x))), conv=conv(3, 4), gain=Gain(), head=conv(4, 2))
    step = PruneChannels(ratio=0.5, round_to=1)
    made = fxquant.compress(model, [step], example_inputs=(PICTURES,), leaf_modules=[Gain])
    assert "Gain 'gain' cannot be followed" in stays(made)["conv"]
    assert shapes(pruned(model))["gain.weight"] == (2, 1, 1)  # traced through, it can be


def test_a_parameter_that_a_leaf_module_holds_too_stays_whole():
    model = net(
        lambda m, x: m.head(m.gain(m.conv(x)) + m.other(m.branch(x) * m.scale)),
        conv=conv(3, 4), gain=Gain(), head=conv(4, 2), branch=conv(3, 4), other=conv(4, 4),
    )  # fmt: skip
    model.scale = model.gain.weight
    step = PruneChannels(ratio=0.5, round_to=1)
    made = fxquant.compress(model, [step], example_inputs=(PICTURES,), leaf_modules=[Gain])
    assert "Gain 'gain' cannot be followed" in stays(made)["branch"]


def test_ignored_layers_keep_their_channels_and_their_inputs_may_shrink():
    model = net(lambda m, x: m.head(m.two(m.one(x))), one=conv(3, 8), two=conv(8, 8), head=conv(8, 2))
    made = pruned(model, ignore=["two"])
    assert shapes(made)["two.weight"] == (8, 4, 3, 3) and stays(made)["two"].endswith("'two' is in ignore")


def test_a_name_in_ignore_may_be_a_module_with_layers_in_it():
    made = pruned(MODELS["resnet18"].make(), *MODELS["resnet18"].inputs(), ignore=("layers.1",))
    assert {name for name in stays(made) if name.startswith("layers")} == {
        "layers.1.0.downsample.0", "layers.1.0.conv1", "layers.1.1.conv1"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "neither ratio nor macs"),
        ({"ratio": 0.5, "macs": 0.5}, "ratio=0.5 and macs=0.5"),
        ({"ratio": 1.0}, "ratio=1.0 would prune everything: the model's inputs and outputs stay"),
        ({"macs": 0}, "macs=0 would prune everything"),
        ({"ratio": -0.1}, "ratio=-0.1 is no share"),
        ({"macs": 1.5}, "macs=1.5 is no share"),
        ({"ratio": float("nan")}, "ratio=nan is no share"),
        ({"macs": float("inf")}, "macs=inf is no share"),
        ({"ratio": "half"}, "ratio='half' is no share"),
        ({"ratio": True}, "ratio=True is no share"),
        ({"ratio": 0.5, "importance": "l3"}, "importance='l3'"),
        ({"ratio": 0.5, "round_to": 0}, "round_to=0 is no number of channels"),
        ({"ratio": 0.5, "min_channels": 2.5}, "min_channels=2.5 is no number of channels"),
        ({"ratio": 0.5, "keep_mean": 1}, "keep_mean=1"),
        ({"ratio": 0.5, "ignore": "head"}, "ignore='head'"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, told):
    with pytest.raises(UsageError) as caught:
        PruneChannels(**options)
    assert caught.value.code == "FXQ130" and told in caught.value.message and caught.value.hint


def test_a_budget_out_of_reach_names_the_best_and_what_is_in_the_way():
    model = residual()
    with pytest.raises(UsageError) as caught:
        pruned(model, macs=0.05, ignore=("stem",))
    assert caught.value.code == "FXQ131"
    assert "100.0% of the MACs remain" in caught.value.message and "'stem' keeps 8 channels" in caught.value.message
    with pytest.raises(UsageError) as caught:
        pruned(model, macs=0.2, round_to=4)
    assert "50.0% of the MACs remain" in caught.value.message and "round_to=4" in caught.value.hint


@pytest.mark.parametrize("name", ["haed", "norm", ""])
def test_a_name_in_ignore_that_no_layer_has_is_refused(name):
    with pytest.raises(UnknownTargetError) as caught:
        pruned(residual(), ignore=(name,))
    assert caught.value.code == "FXQ110" and f"'{name}'" in caught.value.message and "head" in caught.value.hint


def test_without_an_example_it_says_how_to_give_one():
    with pytest.raises(ExampleInputError) as caught:
        fxquant.compress(residual(), [PruneChannels(ratio=0.5)])
    assert caught.value.code == "FXQ132" and "example_inputs" in caught.value.hint


def test_an_example_that_the_model_fails_on_is_refused():
    with pytest.raises(FxQuantError) as caught:
        pruned(residual(), torch.rand(2, 4, 8, 8))
    assert caught.value.code == "FXQ132" and "fails on its example" in caught.value.message
