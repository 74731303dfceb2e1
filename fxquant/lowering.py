"""From the canonical graph to an engine: the last passes, and the next target where one does not work out.

An engine outside torch may refuse a graph, or compute something else. Then the same passes run again for the native
engine that the plan was made for, on the graph as it was, and the ledger says why. With `strict` that is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from fxquant import targets
from fxquant.called_with import with_call_that_fits
from fxquant.errors import BackendError, ContractError, EngineUnavailableError, PassError
from fxquant.graphmodule import copied
from fxquant.ledger import Ledger
from fxquant.pipeline import Observer, Pass, PassRecord, Pipeline
from fxquant.program import Program
from fxquant.tails import LOWERING_PASSES, aimed_at, lowering_of, placing, targets_of

if TYPE_CHECKING:
    from fxquant.racing import Race

Records = tuple[PassRecord, ...]


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one target made of a converted program."""

    program: Program
    ledger: Ledger
    records: Records


@dataclass(frozen=True, slots=True)
class Lowering:
    """The passes after `convert`."""

    tail: Pipeline
    is_strict: bool = False
    observers: Sequence[Observer] = ()
    race: Race | None = None  # of target='auto'
    places: bool | None = None  # is precision placed by measured times; None: where auto chose an engine outside torch
    options: Mapping[str, Any] = field(default_factory=dict)  # of lowering passes, besides `strict`

    def run(self, program: Program, ledger: Ledger, *, is_again: bool = False) -> tuple[Program, Records]:
        """The program on its target, or on the next one. `is_again`: a later round, which has had its race."""
        if not len(self.tail):
            return program, ()
        if self.race is not None or program.target in targets.EXTERNAL:
            program = with_call_that_fits(program, ledger, is_strict=self.is_strict)
        if self.race is not None and not is_again:
            return self.race.run(self.placing(is_on=self.places is True), program, ledger)
        if program.target not in targets.EXTERNAL or self.is_strict or lowering_of(self.tail) is None:
            return self.tail.run(program, ledger, observers=self.observers)
        tried = self.tried(program.target, program, ledger)
        if isinstance(tried, Attempt):
            return self.kept(tried, ledger)
        fall(ledger, tried, program.engine)
        return self.native(program, ledger)

    def placing(self, *, is_on: bool) -> Lowering:
        """The same with precision placement, or without."""
        return replace(self, tail=placing(self.tail, is_on=is_on))

    def native(self, program: Program, ledger: Ledger) -> tuple[Program, Records]:
        """The program itself, on the engine of torch's own that its plan is for."""
        tail = aimed_at(self.tail, program.engine, self._options)
        return tail.run(replace(program, target=program.engine), ledger, observers=self.observers)

    def tried(self, target: str, program: Program, ledger: Ledger) -> Attempt | BackendError:
        """A copy of the program on another target; the program and the ledger stay as they are."""
        aimed = replace(program, target=target, graph_module=copied(program.graph_module))
        told = Ledger.of(ledger.state())
        try:
            made, records = aimed_at(self.tail, target, self._options).run(aimed, told)
        except BackendError as error:
            return error
        except PassError as error:
            if error.code != "FXQ403":
                raise
            return BackendError("FXQ512", f"{target} does not run this model: {error.message}", hint=error.hint)
        return Attempt(made, told, records)

    def kept(self, attempt: Attempt, ledger: Ledger) -> tuple[Program, Records]:
        """The attempt is what becomes of the program: its ledger is the ledger, and its passes are told of."""
        ledger.become(attempt.ledger.state())
        for record in attempt.records:
            for observe in self.observers:
                observe(record)
        return attempt.program, attempt.records

    @property
    def _options(self) -> dict[str, Any]:
        return {"strict": self.is_strict, **self.options}


def fall(ledger: Ledger, error: BackendError, engine: str) -> None:
    """Write down why a target does not run the model, and what does."""
    code = "FXQ511" if isinstance(error, EngineUnavailableError) else error.code
    ledger.notice(
        code, f"{error.message}; {engine} runs it instead", hint=f"name target='{engine}' to leave out the try"
    )


def check_aim(passes: Iterable[Pass | str], target: str) -> str:
    """The target of a pipeline of the caller's own. FXQ401 where it lowers for another one than is named."""
    names = (step if isinstance(step, str) else step.name for step in passes)
    name = next((name for name in names if name in LOWERING_PASSES), None)
    meant = targets_of(name)
    if not meant or target in meant:
        return target
    if target == targets.AUTO:
        return meant[0] if meant[0] in targets.EXTERNAL else target
    raise ContractError(
        "FXQ401",
        f"the pipeline has the pass '{name}', which does not lower for target {target!r}",
        hint=f"start from fxquant.default_pipeline(target={target!r}), or name the target that it is for",
    )


def resolved(target: str, ledger: Ledger, *, is_strict: bool) -> targets.Resolution:
    """The target, or torch's own engine where one outside torch is not here; FXQ502 then, where `is_strict`."""
    try:
        return targets.resolve(target)
    except EngineUnavailableError as error:
        if is_strict or target not in targets.EXTERNAL:
            raise
        fallen = targets.resolve(targets.AUTO)
        ledger.notice("FXQ511", f"{error.message}; {fallen.target} runs it instead", hint=error.hint)
        return fallen
