"""place-precision: of the ops that the plan has on int8 codes, those stay there that make the whole faster.

    conv → q → dq → small op → q → dq → softmax      ⇒      conv → q → dq → small op → softmax

An op pays for itself and for the conversions at its borders: Σ op(x) + Σ conversions(x), with each op's time on codes
and in float measured here, is least at a minimum cut (see fxquant/graphs/placement.py). The cut is then run against the
graph that has everything on codes, in turns; the faster one is kept. Where an op leaves int8 its activations are no
longer rounded, so accuracy can only gain; its weights stay int8 and are widened ahead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from fxquant.keep_float import kept_because
from fxquant.ledger import FLOAT, Ledger
from fxquant.origin import origins
from fxquant.passes import _placing_engines, _placing_native
from fxquant.passes._canonical import is_activation_quantize
from fxquant.passes._placing_clock import TooSlow
from fxquant.passes._placing_contest import QUANTIZED, WHOLE, Contest, in_words
from fxquant.passes._placing_race import raced, winner
from fxquant.passes._weights import held_as
from fxquant.passes.lower_native import decided_float
from fxquant.pipeline import Pass
from fxquant.placed import place_in, placed_as
from fxquant.program import Program, Stage
from fxquant.targets import EXTERNAL
from fxquant.torch_ao import engine, quiet


@dataclass(frozen=True)
class PlacePrecision(Pass):
    """Ops that cost more on codes, conversions included, than in float go back to float: an exact minimum cut.

    `enabled` False, or `strict`, keeps everything as it was asked for. Measuring takes about `seconds` at most.
    """

    name: ClassVar[str] = "place-precision"
    accepts: ClassVar[frozenset[Stage]] = frozenset({Stage.CONVERTED})

    enabled: bool | None = None  # None: as the compilation says, and by itself: yes
    strict: bool = False
    seconds: float = 2.0

    def run(self, program: Program, ledger: Ledger) -> Program:
        if self.enabled is False or self.strict or not any(map(is_activation_quantize, program.graph.nodes)):
            return program
        if program.example_leaves is None:
            told = "nothing was measured: there are no example inputs, so every op is computed as the plan says"
            ledger.notice("FXQ518", told, hint="pass example_inputs or calibration_data")
            return program
        try:
            with engine(program.engine), quiet(), torch.no_grad():
                return self._placed(program, ledger)
        except TooSlow as error:
            told = f"nothing was measured: one call takes {in_words(error.call_seconds)}, so that it would take more"
            told += f" than {self.seconds:g} s; every op is computed as the plan says"
            ledger.notice("FXQ518", told, hint="place-precision{seconds=...} gives it more time")
            return program

    def _placed(self, program: Program, ledger: Ledger) -> Program:
        contest = _contest(program, seconds=self.seconds / 2)
        if contest is None or len(contest.calls) == 1:
            return program
        times = raced(contest.calls, seconds=self.seconds / 2)
        told = ", ".join(f"{name} {in_words(seconds)}" for name, seconds in times.items())
        best = winner(times, QUANTIZED)
        if best == QUANTIZED:
            ledger.notice("FXQ518", f"everything stays int8: placing ops in float gains nothing here ({told} a call)")
            return program
        placed = replace(program, graph_module=contest.graphs[best])
        _settle(placed, ledger, f"{in_words(times[best])} for the whole model; {in_words(times[QUANTIZED])} on codes")
        count = sum(1 for node in placed.graph.nodes if placed_as(node))
        ops = "1 op that could run on codes is" if count == 1 else f"{count} ops that could run on codes are"
        ledger.notice("FXQ518", f"{ops} in float, which is faster ({told} a call)")
        return placed


def _contest(program: Program, *, seconds: float) -> Contest | None:
    leaves = program.call_leaves or program.example_leaves
    assert leaves is not None
    if program.target in EXTERNAL:
        return _placing_engines.contest(program, leaves, seconds=seconds)
    return _placing_native.contest(program, leaves, decided_float, seconds=seconds)


def _settle(program: Program, ledger: Ledger, whole: str) -> None:
    """A row for each node that was placed. `whole`: why, where all of them were placed together."""
    for node in program.graph.nodes:
        if not placed_as(node):
            continue
        if kept_because(node).endswith(WHOLE):
            place_in(node, placed_as(node), whole)
        if origins(node):
            floating = placed_as(node) if program.target in EXTERNAL else FLOAT
            effective = held_as(node, program.graph_module) or floating
            ledger.settle(node, effective, kept_because(node), code="FXQ518")
