"""The exact texts of prune-channels: its errors and its lines in the ledger."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxquant
from fxquant.errors import FxQuantError
from fxquant.passes.prune_channels import PruneChannels


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.wide = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(4, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.left(x) + self.right(x)), self.wide(x)


def compressed(*, example=True, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Net().eval()
    return fxquant.compress(model, [PruneChannels(**options)], example_inputs=torch.ones(1, 4) if example else None)


TEXTS = {
    "FXQ110": (
        {"ratio": 0.5, "ignore": ("lift",)},
        "FXQ110 ignore names 'lift', and no layer with channels is called so\n"
        "  in pass 'prune-channels', after functionalize, normalize-calls\n"
        "  hint: did you mean 'left'?",
    ),
    "FXQ130": (
        {"ratio": 1.0},
        "FXQ130 ratio=1.0 would prune everything: the model's inputs and outputs stay, and so does at least one channel "
        "of each layer\n"
        "  in pass 'prune-channels'\n"
        "  hint: give ratio=0.5, say",
    ),
    "FXQ131": (
        {"macs": 0.1, "round_to": 2},
        "FXQ131 macs=0.1 is out of reach: with every channel gone that may go, 45.0% of the MACs remain; 'wide' keeps 8 "
        "channels: it is an output of the model; 'head' keeps 3 channels: it is an output of the model\n"
        "  in pass 'prune-channels', after functionalize, normalize-calls\n"
        "  hint: ask for more, free what is frozen, or let go of round_to=2 and min_channels=1",
    ),
    "FXQ132": (
        {"ratio": 0.5, "example": False},
        "FXQ132 prune-channels has to know shapes, and Net came without an example\n"
        "  in pass 'prune-channels', after functionalize, normalize-calls\n"
        "  hint: pass example_inputs=(...), one call's arguments, to compress() or compile()",
    ),
}


@pytest.mark.parametrize("code", TEXTS)
def test_the_text_of_an_error(code):
    options, text = TEXTS[code]
    with pytest.raises(FxQuantError) as caught:
        compressed(**options)
    assert str(caught.value) == text


def test_the_lines_of_the_ledger():
    assert [(row.code, row.module, row.reason) for row in compressed(macs=0.7, round_to=1).ledger.notices] == [
        (
            "FXQ410",
            "",
            "prune-channels{macs=0.7,round_to=1}: 120 → 76 MACs (63.3%), 147 → 95 parameters (64.6%); "
            "1 of 3 groups pruned, 2 frozen",
        ),
        ("FXQ410", "left", "8 → 4 channels in a group of 2 layers, with 'right', importance l2"),
        ("FXQ411", "head", "its 3 channels stay: it is an output of the model"),
        ("FXQ411", "wide", "its 8 channels stay: it is an output of the model"),
    ]
