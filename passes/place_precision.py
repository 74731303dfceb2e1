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

from fxquant.graphs.placement import Placement, place
from fxquant.keep_float import kept_because
from fxquant.ledger import FLOAT, Ledger
from fxquant.origin import origins
from fxquant.passes._native_graph import NativeGraph
from fxquant.passes._placing_native import Measured, measured
from fxquant.passes._placing_race import raced, winner
from fxquant.passes._replaced import replaced
from fxquant.passes._weights import held_as
from fxquant.passes.lower_native import _decided_float
from fxquant.pipeline import Pass
from fxquant.placed import placed_as
from fxquant.program import Program, Stage
from fxquant.torch_ao import engine, quiet

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
        if not self.enabled or self.strict or not _has_codes(program):
            return program
        if program.example_leaves is None:
            ledger.notice(
                "FXQ518",
                "nothing was measured: there are no example inputs, so every op is computed as the plan says",
                hint="pass example_inputs or calibration_data",
            )
            return program
        target = getattr(program, "engine", program.target)
        with engine(target), quiet(), torch.no_grad():
            return self._placed(program, target, ledger)

    def _placed(self, program: Program, target: str, ledger: Ledger) -> Program:
        leaves = program.example_leaves
        assert leaves is not None
        costs = measured(program.graph_module, target, leaves, _decided_float(program), seconds=self.seconds / 2)
        if costs is None:
            return program
        placement = place(costs.problem)
        graphs = _candidates(program.graph_module, costs, placement)
        if not graphs:
            return program
        calls: dict[str, Callable[[], object]] = {QUANTIZED: lambda: costs.quantized(*leaves)}
        for name, graph in graphs.items():
            calls[name] = _call(replace(program, graph_module=graph), target, leaves)
        times = raced(calls, seconds=self.seconds / 2)
        best = winner(times, QUANTIZED)
        told = ", ".join(f"{name} {in_words(seconds)}" for name, seconds in times.items())
        if best == QUANTIZED:
            ledger.notice("FXQ518", f"everything stays int8, which is as fast as any placement: {told} a call")
            return program
        placed = replace(program, graph_module=graphs[best])
        count = _settle(placed, ledger)
        ledger.notice("FXQ518", f"{count} of {len(costs.found.coded)} kernels compute in float: {told} a call")
        return placed


def _has_codes(program: Program) -> bool:
    from fxquant.passes._canonical import is_activation_quantize

    return any(map(is_activation_quantize, program.graph.nodes))


def _call(program: Program, target: str, leaves: tuple[torch.Tensor, ...]) -> Callable[[], object]:
    lowered = NativeGraph(program.graph_module, target, dict(_decided_float(program))).build().graph_module
    return lambda: lowered(*leaves)


def _candidates(canonical: fx.GraphModule, costs: Measured, placement: Placement) -> dict[str, fx.GraphModule]:
    """The cut, and the whole in float where that is another graph. None where the cut is what there is already."""
    coded = costs.found.coded
    chosen = placement.int8 & coded
    if chosen == coded:
        return {}
    made = {PLACED: _with(canonical, costs, chosen)}
    if any(not unit.is_requantize for name, unit in costs.found.units.items() if name in chosen):
        made[PLAIN] = _with(canonical, costs, frozenset())
    return made


def _with(canonical: fx.GraphModule, costs: Measured, int8: frozenset[str]) -> fx.GraphModule:
    why = {
        name: ("float32", _why(costs, int8, name))
        for name in costs.found.coded - int8
        if not costs.found.units[name].is_requantize
    }
    return replaced(canonical, costs.found, int8, why)


def _why(costs: Measured, int8: frozenset[str], name: str) -> str:
    """The op's own times, and what its conversions would take more if it alone were on codes."""
    problem = costs.problem
    op = next(op for op in problem.ops if op.name == name)
    more = problem.seconds(int8 | {name}) - problem.seconds(int8) - op.int8 + op.floating
    return f"{in_words(op.floating)} in float, {in_words(op.int8)} on codes and {in_words(more)} for conversions"


def _settle(program: Program, ledger: Ledger) -> int:
    """A row for each node that was placed; how many there are."""
    found = [node for node in program.graph.nodes if placed_as(node)]
    for node in found:
        if origins(node):
            effective = held_as(node, program.graph_module) or FLOAT
            ledger.settle(node, effective, kept_because(node), code="FXQ518")
    return len(found)


def in_words(seconds: float) -> str:
    """'1.20 ms', '35 µs'."""
    sign, size = ("-" if seconds < 0 else ""), abs(seconds)
    return f"{sign}{size * 1e3:.2f} ms" if size >= 1e-3 else f"{sign}{size * 1e6:.3g} µs"
