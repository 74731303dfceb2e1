"""Rounds: a link of a fallback chain may turn out not to run; then the passes run again, with the next link there.

    PLANNED → prepare → calibrate → convert → lower → some sites did not land → PLANNED, with their next links → ...

What the observers saw is kept for it, so that the data is read once. A round begins at a copy of the planned program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from fxquant.calibration import MOST_KEPT, Observing, has_observers
from fxquant.graphmodule import copied
from fxquant.ledger import FLOAT, Ledger, LedgerState
from fxquant.lowering import Lowering
from fxquant.pipeline import Observer, Pass, PassRecord, Pipeline, after
from fxquant.plan import Decision, Mode
from fxquant.program import Program

CODE = "FXQ510"
Records = tuple[PassRecord, ...]


@dataclass(frozen=True, slots=True)
class Start:
    """Where a round begins: the planned program, never run itself, and what the ledger knew then."""

    program: Program
    told: LedgerState

    @classmethod
    def of(cls, program: Program, ledger: Ledger) -> Start | None:
        """A start to come back to; None where no site has another link."""
        if program.plan is None or not any(decision.fallbacks for decision in program.plan):
            return None
        return cls(_copied(program), ledger.state())

    @property
    def most(self) -> int:
        """How many rounds there may be after the first: as many as the longest chain has links to fall to."""
        return max(len(decision.fallbacks) for decision in self.program.plan or ())


@dataclass(frozen=True, slots=True)
class Rounds:
    """The passes that a round runs: up to the observers, from calibration to the canonical graph, and its lowering."""

    preparing: Pipeline
    finishing: Pipeline
    lowering: Lowering
    observers: Sequence[Observer]

    def prepare(self, program: Program, ledger: Ledger, start: Start | None) -> tuple[Program, Records, Start | None]:
        """Insert observers; a site that got none falls at once, before any data is read."""
        program, records = self.preparing.run(program, ledger, observers=self.observers)
        while start is not None and program.unlanded:
            program, start = _again(program, ledger, start)
            with after(records):
                program, more = self.preparing.run(program, ledger, observers=self.observers)
            records = (*records, *more)
        return program, records, start

    def finish(self, program: Program, ledger: Ledger, start: Start | None, samples: int) -> tuple[Program, Records]:
        """Calibrate, convert, lower; and again for as long as some site did not land."""
        program, records = _seen(self.finishing, samples).run(program, ledger, observers=self.observers)
        with after(records):
            program, more = self.lowering.run(program, ledger)
        records = (*records, *more)
        rounds = 0 if start is None else start.most
        while start is not None and program.unlanded and rounds > 0:
            rounds -= 1
            kept, example = program.kept_batches, program.example_leaves
            program, start = _again(program, ledger, start, is_last=rounds == 0)
            with after(records):
                program, more, start = self.prepare(program, ledger, start)
                program = replace(program, example_leaves=example or program.example_leaves)
                program, samples = _replayed(program, ledger, kept)
                fed = Pipeline(tuple(_without_data(step) for step in self.finishing))
                program, rest = _seen(fed, samples).run(program, ledger, observers=self.observers)
            records = (*records, *more, *rest)
            with after(records):
                program, last = self.lowering.run(program, ledger, is_again=True)
            records = (*records, *last)
        return replace(program, kept_batches=()), records


def _copied(program: Program) -> Program:
    return replace(program, graph_module=copied(program.graph_module))


def _again(program: Program, ledger: Ledger, start: Start, *, is_last: bool = False) -> tuple[Program, Start]:
    """The planned program once more, with the next links of what did not land, and the ledger as it was then."""
    assert program.plan is not None
    assert start.program.plan is not None
    fallen = {site: _fallen(program.plan[site], why, is_last=is_last) for site, why in program.unlanded.items()}
    ledger.restore(start.told)
    plan = start.program.plan.with_decisions(fallen)
    for decision in fallen.values():
        tell(decision, ledger)
    start = Start(replace(start.program, plan=plan), ledger.state())
    return _copied(start.program), start


def _fallen(decision: Decision, why: str, *, is_last: bool) -> Decision:
    """The next link; in the last round the last one, which there is no time to fail."""
    while is_last and len(decision.fallbacks) > 1:
        decision, why = decision.fall(why), "not tried, so that this ends"
    return decision.fall(why)


def tell(decision: Decision, ledger: Ledger) -> None:
    """Write down which links a site has tried, whatever becomes of it with this one."""
    site, _, part = decision.site.partition("/")  # see origin.part_key
    if decision.mode is Mode.FLOAT and decision.tried:
        ledger.settle_site(site, FLOAT, decision.why, code=CODE, part=part)
    elif decision.tried:
        ledger.remark_site(site, decision.path.rstrip("; "), code=CODE)


def _replayed(program: Program, ledger: Ledger, kept: tuple[tuple[torch.Tensor, ...], ...]) -> tuple[Program, int]:
    """The observers see again what was kept; how many samples that is."""
    if not has_observers(program):
        return program, 0
    if len(kept) == MOST_KEPT:
        ledger.notice("FXQ309", f"the next round of a chain saw {MOST_KEPT} batches again: no more are kept")
    fed = Observing(program, ledger)
    for leaves in kept:
        fed.run(leaves)
    return replace(fed.finish(), kept_batches=kept), fed.samples


def _seen(steps: Pipeline, samples: int) -> Pipeline:
    return Pipeline(tuple(replace(s, seen=samples) if s.name == "calibrate" else s for s in steps))  # type: ignore[type-var]


def _without_data(step: Pass) -> Pass:
    return replace(step, data=None) if step.name == "calibrate" else step  # type: ignore[type-var]
