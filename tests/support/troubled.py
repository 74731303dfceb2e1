"""Small nets with one trouble each, planted so that the float result hardly knows of it and int8 suffers from it."""

from __future__ import annotations

import torch
from torch import nn

from fxquant.recipe import Recipe, parse


class Chain(nn.Module):
    """Four convolutions with ReLUs between, and a Linear layer on the mean."""

    def __init__(self, width=16):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU())
        self.third = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU())
        self.fourth = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = self.fourth(self.third(self.second(self.first(x))))
        return self.head(x.mean((2, 3)))


def chain(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Chain().eval()


def outlier_site():
    """'second' gives one channel of about 400 that 'third' weighs with nearly nothing."""
    model = chain()
    with torch.no_grad():
        model.second[0].bias[3] = 400.0
        model.third[0].weight[:, 3] = 0.0
    return model


def wild_channel():
    """One weight of 'third' is 200 times the others, on an input channel that is always zero."""
    model = chain()
    with torch.no_grad():
        model.second[0].bias[3] = -1000.0
        model.third[0].weight[5, 3, 1, 1] = 20.0
    return model


def mlp_with_a_wild_channel():
    """The same in Linear layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8)).eval()
    with torch.no_grad():
        model[1].weight[3] *= 300.0
        model[1].bias[3] = -1e6
    return model


PER_TENSOR = """
schema = 1

[[rule]]
targets = ["Conv2d", "ReLU", "Linear"]
weight = { granularity = "tensor" }
activation = { observer = "histogram" }

[[rule]]
targets = ["*"]
scheme = "int8"
"""


def per_tensor() -> Recipe:
    return parse(PER_TENSOR, title="the start")


class Island(nn.Module):
    """Cheap layers on a large map, with a float op that has no int8 kernel between them."""

    def __init__(self, width=4):
        super().__init__()
        self.enter = nn.Conv2d(width, width, 1)
        self.leave = nn.Conv2d(width, width, 1)
        self.deep = nn.Sequential(nn.Conv2d(width, 32, 3, stride=4), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU())
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = self.leave(torch.erf(self.enter(x)))
        return self.head(self.deep(x).mean((2, 3)))


def island():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Island().eval()


def normal(*shape, count=4, seed=0):
    """Batches from a normal distribution."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator) for _ in range(count)]


def kept_float() -> Recipe:
    """One ReLU between int8 layers is kept float by a rule."""
    return parse(
        'schema = 1\n[[rule]]\ntargets = ["second.1"]\nscheme = "float"\n[[rule]]\ntargets = ["*"]\nscheme = "int8"'
    )


def _third(table: str) -> Recipe:
    rule = f'[[rule]]\ntargets = ["third.0", "third.1"]\n{table}\n'
    return parse(f'schema = 1\n{rule}[[rule]]\ntargets = ["*"]\nscheme = "int8"', title="the start")


def narrow_weights() -> Recipe:
    """3 bits for the weight of 'third'."""
    return _third('weight = { num_bits = 3 }\nactivation = { observer = "histogram" }')


def moving_average() -> Recipe:
    """A range for 'second' that follows the mean of the batches."""
    table = 'weight = {}\nactivation = { observer = "moving-average" }'
    rule = f'[[rule]]\ntargets = ["second.0", "second.1"]\n{table}\n'
    return parse(f'schema = 1\n{rule}[[rule]]\ntargets = ["*"]\nscheme = "int8"', title="the start")
