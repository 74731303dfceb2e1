"""place-precision: of the ops that the plan has on int8 codes, those stay there that make the whole faster.

    conv → q → dq → small op → q → dq → softmax      ⇒      conv → q → dq → small op → softmax

An op pays for itself and for the conversions at its borders: Σ op(x) + Σ conversions(x), with each op's time on codes
and in float measured here, is least at a minimum cut (see fxquant/graphs/placement.py). The cut is then run against the
graph that has everything on codes, in turns; the faster one is kept. Where an op leaves int8 its activations are no
longer rounded, so accuracy can only gain; its weights stay int8 and are widened ahead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import fx

from fxquant.graphs.placement import Op, Problem, place
from fxquant.keep_float import kept_because
from fxquant.ledger import FLOAT, Ledger
from fxquant.origin import origins
from fxquant.passes._canonical import is_activation_quantize
from fxquant.passes._native_graph import NativeGraph
from fxquant.passes._placing_clock import TooSlow
from fxquant.passes._placing_native import Measured, measured
from fxquant.passes._placing_race import is_gain, raced, winner
from fxquant.passes._replaced import replaced
from fxquant.passes._weights import held_as
from fxquant.passes.lower_native import _decided_float
from fxquant.pipeline import Pass
from fxquant.placed import placed_as
from fxquant.program import Program, Stage
from fxquant.torch_ao import engine, quiet

Leaves = tuple[torch.Tensor, ...]
QUANTIZED, PLACED, PLAIN = "everything int8", "placed", "everything float"


@dataclass(frozen=True)
class PlacePrecision(Pass):
    """Ops that cost more on codes, conversions included, than in float go back to float: an exact minimum cut.

    `enabled` False, or `strict`, keeps everything as it was asked for. Measuring takes about `seconds` at most.
    """

    name: ClassVar[str] = "place-precision"
    accepts: ClassVar[frozenset[Stage]] = frozenset({Stage.CONVERTED})

    enabled: bool = True
    strict: bool = False
    seconds: float = 2.0

    def run(self, program: Program, ledger: Ledger) -> Program:
        if not self.enabled or self.strict or not any(map(is_activation_quantize, program.graph.nodes)):
            return program
        if program.example_leaves is None:
            told = "nothing was measured: there are no example inputs, so every op is computed as the plan says"
            ledger.notice("FXQ518", told, hint="pass example_inputs or calibration_data")
            return program
        target = getattr(program, "engine", program.target)
        try:
            with engine(target), quiet(), torch.no_grad():
                return self._placed(program, target, program.example_leaves, ledger)
        except TooSlow as error:
            told = f"nothing was measured: one call takes {in_words(error.call_seconds)}, so that it would take more"
            told += f" than {self.seconds:g} s; every op is computed as the plan says"
            ledger.notice("FXQ518", told, hint="place-precision{seconds=...} gives it more time")
            return program

    def _placed(self, program: Program, target: str, leaves: Leaves, ledger: Ledger) -> Program:
        costs = measured(program.graph_module, target, leaves, _decided_float(program), seconds=self.seconds / 2)
        graphs = {} if costs is None else candidates(program.graph_module, costs)
        if costs is None or not graphs:
            return program
        calls = {QUANTIZED: lambda: costs.quantized(*leaves)}
        calls |= {name: _call(replace(program, graph_module=made), target, leaves) for name, made in graphs.items()}
        times = raced(calls, seconds=self.seconds / 2)
        told = ", ".join(f"{name} {in_words(seconds)}" for name, seconds in times.items())
        best = winner(times, QUANTIZED)
        if best == QUANTIZED:
            ledger.notice("FXQ518", f"everything stays int8: placing ops in float gains nothing here ({told} a call)")
            return program
        placed = replace(program, graph_module=graphs[best])
        _settle(placed, ledger)
        count = sum(1 for name in costs.found.coded if _is_placed(placed, name))
        kernels = f"{count} of {len(costs.found.coded)} int8 kernels are in float, which is faster"
        ledger.notice("FXQ518", f"{kernels} ({told} a call)")
        return placed


def candidates(canonical: fx.GraphModule, costs: Measured) -> dict[str, fx.GraphModule]:
    """The cut, and the whole in float where that is another graph. None where the cut promises no gain."""
    problem, coded = costs.problem, costs.found.coded
    chosen = place(problem).int8
    if not is_gain(problem.seconds(coded), problem.seconds(chosen)):
        return {}
    made = {PLACED: _with(canonical, costs, chosen)}
    if any(not costs.found.units[name].is_requantize for name in chosen):
        made[PLAIN] = _with(canonical, costs, frozenset())
    return made


def _with(canonical: fx.GraphModule, costs: Measured, int8: frozenset[str]) -> fx.GraphModule:
    ops = {op.name: op for op in costs.problem.ops}
    floating = {
        name: (
            "bfloat16" if ops[name].bfloat16 < ops[name].float32 else "float32",
            _why(costs.problem, int8, ops[name]),
        )
        for name in costs.found.coded - int8
        if not costs.found.units[name].is_requantize
    }
    return replaced(canonical, costs.found, int8, floating)


def _why(problem: Problem, int8: frozenset[str], op: Op) -> str:
    """The op's own times, and what its conversions would take more if it alone were on codes."""
    more = problem.seconds(int8 | {op.name}) - problem.seconds(int8) - op.int8 + op.floating
    own = f"{in_words(op.floating)}; on codes {in_words(op.int8)}"
    return f"{own} and {in_words(more)} for conversions" if more > 0 else own


def _call(program: Program, target: str, leaves: Leaves) -> Callable[[], object]:
    lowered = NativeGraph(program.graph_module, target, _decided_float(program)).build().graph_module
    return lambda: lowered(*leaves)


def _is_placed(program: Program, name: str) -> bool:
    return any(node.name == name and placed_as(node) for node in program.graph.nodes)


def _settle(program: Program, ledger: Ledger) -> None:
    """A row for each node that was placed."""
    for node in program.graph.nodes:
        if placed_as(node) and origins(node):
            effective = held_as(node, program.graph_module) or FLOAT
            ledger.settle(node, effective, kept_because(node), code="FXQ518")


def in_words(seconds: float) -> str:
    """'1.20 ms', '35 µs'."""
    return f"{seconds * 1e3:.2f} ms" if abs(seconds) >= 1e-3 else f"{seconds * 1e6:.3g} µs"
