"""A Pass states what it accepts and yields; a Pipeline checks the order, then runs, verifies and records."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import ClassVar

from torch import nn

from fxquant.errors import ContractError, FxQuantError, LintError, PassError
from fxquant.graphs.snapping import snapshot_of
from fxquant.graphs.snapshot import GraphSnapshot
from fxquant.ledger import Ledger
from fxquant.program import Program, Stage
from fxquant.values import complete_values
from fxquant.weighing import Weights, weights_of
from fxquant.zeros import HeldZeros, followed, held_parameters


class Pass(ABC):
    """One rewrite. A subclass is a frozen dataclass whose fields are its options."""

    name: ClassVar[str]  # its spelling in pipeline text and on the command line
    accepts: ClassVar[frozenset[Stage]] = frozenset(Stage)
    yields: ClassVar[Stage | None] = None  # None: the stage stays

    @abstractmethod
    def run(self, program: Program, ledger: Ledger) -> Program:
        """Rewrite the program's graph in place; return the program, one stage further where `yields` says so."""

    def verify(self, program: Program) -> None:  # noqa: B027 - a pass without a promise of its own has nothing to check
        """Raise when this pass's own promise does not hold on its result."""

    def __str__(self) -> str:
        options = {field.name: getattr(self, field.name) for field in fields(self) if field.repr}  # type: ignore[arg-type]
        changed = {f.name: options[f.name] for f in fields(self) if f.name in options and options[f.name] != f.default}  # type: ignore[arg-type]
        told = ",".join(f"{key}={value!r}" for key, value in changed.items())
        return f"{self.name}{{{told}}}" if told else self.name


@dataclass(frozen=True, slots=True)
class PassRecord:
    """What one pass did: timing, drawing and dumping are readers of this."""

    name: str
    stage: Stage  # after the pass
    before: GraphSnapshot
    after: GraphSnapshot
    seconds: float
    weights_before: Weights | None = None  # of passes on a float graph that leave it one (TRACED): pruning, low rank
    weights_after: Weights | None = None

    @property
    def is_changed(self) -> bool:
        """Computed from the graphs and the weights, never self-reported."""
        return self.before.nodes != self.after.nodes or self.weights_before != self.weights_after


Observer = Callable[[PassRecord], None]


@dataclass(frozen=True)
class Pipeline:
    """Passes, run in order."""

    passes: tuple[Pass, ...]

    def __iter__(self) -> Iterator[Pass]:
        return iter(self.passes)

    def __len__(self) -> int:
        return len(self.passes)

    def __str__(self) -> str:
        return " | ".join(str(step) for step in self.passes)

    def check(self, stage: Stage) -> Stage:
        """Follow the stages through all passes without touching a model; the last one. FXQ401 on a wrong order."""
        for index, step in enumerate(self.passes):
            if stage not in step.accepts:
                accepted = ", ".join(sorted(accepted.name for accepted in step.accepts))
                before = self.passes[index - 1].name if index else "the start"
                raise ContractError(
                    "FXQ401",
                    f"pass '{step.name}' takes a program that is {accepted}; after {before} it is {stage.name}",
                    hint="reorder the passes: `fxquant passes` lists what each one accepts and yields",
                    pass_name=step.name,
                )
            stage = stage if step.yields is None else step.yields
        return stage

    def run(
        self, program: Program, ledger: Ledger, *, observers: Sequence[Observer] = ()
    ) -> tuple[Program, tuple[PassRecord, ...]]:
        """Run every pass: run, lint, recompile, verify, snapshot, record.

        Raises FxQuantError that names the pass and carries the records of the passes before it.
        """
        self.check(program.stage)
        records: list[PassRecord] = []
        before, weights = snapshot_at(program), None
        for step in self.passes:
            is_weighed = program.stage is Stage.TRACED and step.yields is None
            weights = (weights or weights_of(program.graph_module)) if is_weighed else None
            started = time.perf_counter()
            try:
                program = _run_one(step, program, ledger)
            except FxQuantError as error:
                error.pass_name, error.records = error.pass_name or step.name, tuple(records)
                raise
            after = snapshot_at(program)
            seconds, weighed = time.perf_counter() - started, weights
            weights = weights_of(program.graph_module) if is_weighed else None
            records.append(PassRecord(step.name, program.stage, before, after, seconds, weighed, weights))
            for observe in observers:
                observe(records[-1])
            before = after
        return program, tuple(records)

    def _index(self, name: str) -> int:
        names = [step.name for step in self.passes]
        if name not in names:
            raise ContractError("FXQ402", f"no pass '{name}' in this pipeline", hint=f"it has: {', '.join(names)}")
        return names.index(name)

    def before(self, name: str, *steps: Pass) -> Pipeline:
        """This pipeline with `steps` put in before the pass called `name`."""
        index = self._index(name)
        return Pipeline((*self.passes[:index], *steps, *self.passes[index:]))

    def after(self, name: str, *steps: Pass) -> Pipeline:
        """This pipeline with `steps` put in after the pass called `name`."""
        index = self._index(name) + 1
        return Pipeline((*self.passes[:index], *steps, *self.passes[index:]))

    def without(self, name: str) -> Pipeline:
        """This pipeline less the pass called `name`."""
        index = self._index(name)
        return Pipeline((*self.passes[:index], *self.passes[index + 1 :]))

    def until(self, stage: Stage) -> Pipeline:
        """The passes up to and with the one that yields `stage`."""
        for index, step in enumerate(self.passes):
            if step.yields is stage:
                return Pipeline(self.passes[: index + 1])
        raise ContractError("FXQ402", f"no pass of this pipeline yields {stage.name}")


@contextmanager
def after(records: tuple[PassRecord, ...]) -> Iterator[None]:
    """The pipeline inside goes on where another one ended: an error carries the records of both."""
    try:
        yield
    except FxQuantError as error:
        error.records = (*records, *error.records)
        raise


def snapshot_at(program: Program) -> GraphSnapshot:
    """The program's graph as it is now, each node with the dtype and shape that it gives."""
    complete_values(program.graph_module, program.values, may_run=not program.is_foreign)
    return snapshot_of(program.graph_module, title=f"{program.model_name}, {program.stage.name}")


def _with_names(program: Program, pruned: Mapping[str, nn.Parameter]) -> Program:
    """The pruned parameters under the names that they have after a pass; it needs to know nothing of them."""
    renamed = followed(program.graph_module, pruned)
    names = program.pruned - renamed.keys() | {name for names in renamed.values() for name in names}
    return replace(program, pruned=names) if renamed else program


def _run_one(step: Pass, program: Program, ledger: Ledger) -> Program:
    expected = program.stage if step.yields is None else step.yields
    is_float = program.stage < Stage.CALIBRATED
    pruned = held_parameters(program.graph_module, program.pruned) if is_float else {}
    zeros = HeldZeros(program.graph_module, program.pruned if program.stage is Stage.TRACED else ())
    try:
        program = _with_names(step.run(program, ledger), pruned)
        revived = zeros.restore(program.graph_module)
    except (FxQuantError, MemoryError):
        raise
    except Exception as error:
        raise PassError(
            "FXQ403",
            f"pass '{step.name}' failed: {type(error).__name__}: {error}",
            hint="this is a fault of the pass, not of your model: please report it with the text above",
        ) from error
    if revived:
        told = f"pass '{step.name}' wrote to {revived:,} pruned weights: they are zero again"
        ledger.notice("FXQ412", told, hint="train a TrainableModel, which holds its zeros while it trains")
    if program.stage is not expected:
        raise ContractError("FXQ401", f"pass '{step.name}' promised {expected.name}, gave {program.stage.name}")
    try:
        program.graph.lint()
    except (RuntimeError, ValueError) as error:
        raise LintError(
            "FXQ404",
            f"the graph is malformed after pass '{step.name}': {str(error).strip()}",
            hint="this is a fault of the pass: collect nodes first, then change; replace uses before erasing",
        ) from error
    program.graph_module.recompile()
    step.verify(program)
    return program
