"""Kernels put in float: values stay, roundings go, and conversions are as many as the problem says."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

import fxquant
from fxquant.graphs.snapping import snapshot_of
from fxquant.numerics import sqnr_db
from fxquant.placed import placed_as
from support.compiling import compiled
from support.data import images
from support.models.case import Case
from support.placing import (
    LOWERLESS,
    NET,
    TARGET,
    conversions,
    converted,
    found_of,
    lowered,
    placed,
    problem_of,
)
from support.small import SMALL


def test_with_every_kernel_on_codes_the_graph_is_what_it_was():
    program = converted()
    made = placed(program, found_of(program).coded)
    assert snapshot_of(made.graph_module).nodes == snapshot_of(program.graph_module).nodes


@pytest.mark.parametrize("name", ["", *sorted(SMALL)])
def test_with_nothing_on_codes_it_is_the_graph_without_rounding(name):
    """The float model itself, but for its weights, which stay int8."""
    program = converted(name)
    if not found_of(program).coded:
        assert name in ("embedding", "lstm") or program.plan is not None
    made = placed(program, ())
    quantizes = [node for node in made.graph.nodes if node.target is fxquant.qdq.quantize_per_tensor]
    left = {node.name for node in quantizes}
    assert left.isdisjoint(value.source.name for value in found_of(program).values)
    case = SMALL[name] if name else NET
    with torch.no_grad():
        exact, before = case.make()(*case.inputs()), program.graph_module(*case.inputs())[0]
        after = made.graph_module(*case.inputs())[0]
    assert sqnr_db(exact, after) >= sqnr_db(exact, before) - 0.01


@pytest.mark.parametrize("seed", range(12))
def test_the_lowered_graph_converts_as_often_as_the_problem_says(seed):
    program = converted()
    found = found_of(program)
    draw = random.Random(seed)
    int8 = frozenset(name for name in sorted(found.coded) if draw.random() < 0.6)
    made = placed(program, int8)
    assert conversions(lowered(made)) == problem_of(found).crossings(int8)
    example = program.example_leaves
    with torch.no_grad():
        canonical, native = made.graph_module(*example)[0], lowered(made)(*example)[0]
    assert sqnr_db(canonical, native) > 25, "one step a kernel, as without placement"


def test_the_given_graph_is_left_alone():
    program = converted()
    before = snapshot_of(program.graph_module)
    placed(program, ())
    assert snapshot_of(program.graph_module) == before and not any(map(placed_as, program.graph.nodes))


def test_sizes_are_read_from_whatever_the_producer_gives():
    class Viewed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(144, 4)

        def forward(self, x):
            x = self.conv(x)
            return self.fc(x.reshape(x.size(0), -1))

    program = compiled(Case(Viewed, images(8, 3)), target=TARGET, passes=LOWERLESS)._program
    made = placed(program, ())
    assert not [node for node in made.graph.nodes if node.target is fxquant.qdq.quantize_per_tensor]
    with torch.no_grad():
        made.graph_module(*program.example_leaves)
