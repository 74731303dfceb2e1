"""A model with every kind of neighbour, its canonical program, and planted costs and times for placing its ops."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxquant
from fxquant.graphs.placement import Op
from fxquant.ledger import Ledger
from fxquant.passes import _placing_native, place_precision
from fxquant.passes._native_graph import NativeGraph
from fxquant.passes._placeable import placeable
from fxquant.passes._placing_native import measured
from fxquant.passes._replaced import replaced
from fxquant.passes.lower_native import LowerNative, decided_float
from fxquant.passes.place_precision import PlacePrecision
from fxquant.program import Program
from fxquant.torch_ao import engine
from support.compiling import ENGINES, compiled
from support.data import images
from support.models.case import Case
from support.small import SMALL

MICRO = 1e-6
UNPLACED = fxquant.default_pipeline().without("place-precision")
PLACING = UNPLACED.before("lower-native", PlacePrecision(enabled=True))
LOWERLESS = UNPLACED.without("lower-native")
TARGET = "onednn" if "onednn" in ENGINES else ENGINES[0]


class Net(nn.Module):
    """Layers with a skip connection, ops that no engine has on codes, and small ops between those."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.first(x)))
        x = F.relu(self.second(x) + x)
        x = F.gelu(x)
        x = x + x
        x = F.gelu(x)
        return self.head(x.mean((2, 3)))


NET = Case(Net, images(8, 3))


@cache
def converted(name: str = "") -> Program:
    """The canonical program of a case; nobody may change it."""
    return compiled(SMALL[name] if name else NET, target=TARGET, passes=LOWERLESS)._program


def found_of(program: Program):
    with engine(TARGET):
        lowered = NativeGraph(program.graph_module, TARGET, decided_float(program)).build()
    return placeable(program.graph_module, lowered.native, lowered.fused)


def placed(program: Program, int8, floating: str = "float32"):
    found = found_of(program)
    names = [name for name in found.coded - set(int8) if not found.units[name].is_requantize]
    made = replaced(program.graph_module, found, int8, dict.fromkeys(names, (floating, "a test says so")))
    return replace(program, graph_module=made)


def lowered(program: Program):
    with engine(TARGET):
        return LowerNative().run(program, Ledger()).graph_module


def conversions(graph_module) -> int:
    nodes = graph_module.graph.nodes
    return sum(node.target in (torch.quantize_per_tensor, "dequantize") for node in nodes)


def problem_of(found):
    """Any costs: only the structure counts."""
    from fxquant.graphs.placement import Problem, Value

    ops = tuple(Op(name, 1.0 if unit.is_coded else math.inf, 1.0) for name, unit in found.units.items())
    return Problem(ops, tuple(Value(value.producer, value.readers, 1.0, 1.0) for value in found.values))


def plant(monkeypatch, costs=None, times=None):
    """Other costs in the place of each op's own, and times of the race by name."""
    if costs is not None:

        def planted(*arguments, **options):
            found = measured(*arguments, **options)
            ops = tuple(costs(op) for op in found.problem.ops)
            return replace(found, problem=replace(found.problem, ops=ops))

        monkeypatch.setattr(_placing_native, "measured", planted)
    if times is not None:

        def race(calls, *, seconds):
            for call in calls.values():
                call()
            return {name: times[name] for name in calls}

        monkeypatch.setattr(place_precision, "raced", race)


def run(program: Program, **options):
    ledger = Ledger()
    return PlacePrecision(**options).run(program, ledger), ledger


def all_float(op: Op) -> Op:
    return Op(op.name, math.inf if math.isinf(op.int8) else 1e-3, 1e-4)
