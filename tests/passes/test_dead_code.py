"""What nothing reads goes, unless computing it does something."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fxquant.capture import capture
from fxquant.ledger import Ledger
from fxquant.passes._dead_code import drop_dead_code
from fxquant.request import CaptureRequest

X = torch.ones(2, 4)


class Counts(nn.Module):
    """A leaf of the user's own, that remembers its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x


class Dead(nn.Module):
    def __init__(self, runs, part=None) -> None:
        super().__init__()
        self.fc, self.part, self.runs = nn.Linear(4, 4), part, runs

    def forward(self, x):
        self.runs(self, x)
        return self.fc(x)


def left(model, **options):
    program = capture(CaptureRequest(model.eval(), (X,), **options), Ledger())
    drop_dead_code(program)
    return [str(node.target) for node in program.graph.nodes if node.op not in ("placeholder", "output")], program


@pytest.mark.parametrize("runs", [lambda self, x: self.part(x).relu(), lambda self, x: x.sum() + self.part.weight])
def test_a_dead_chain_goes_as_a_whole_and_its_module_with_it(runs):
    targets, program = left(Dead(runs, nn.Linear(4, 4)))
    assert targets == ["fc"] and "part" not in dict(program.graph_module.named_modules())


def test_a_dead_call_of_a_module_of_the_users_own_stays():
    targets, _ = left(Dead(lambda self, x: self.part(x), Counts()), leaf_modules=("part",))
    assert targets == ["part", "fc"]


def test_a_dead_random_number_stays_so_that_the_next_ones_are_the_same():
    targets, _ = left(Dead(lambda self, x: torch.rand_like(x)))
    assert len(targets) == 2
