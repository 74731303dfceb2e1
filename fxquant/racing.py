"""target="auto": the targets that are here lower the same converted graph, and are timed in turns; the fastest stays.

Each runs on the inputs that the caller gave as an example. The native engine stays where another one is less than 1 %
faster: it needs no package besides torch. What each took, or why it was out, is one notice (FXQ513). Where an engine
outside torch wins, precision is placed for it by measured times (place-precision).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxquant import targets
from fxquant.comparing.timing import Timing, interleaved_within
from fxquant.errors import BackendError, UnknownTargetError, did_you_mean, in_one_line
from fxquant.ledger import Ledger
from fxquant.lowering import Attempt, Lowering, Records
from fxquant.program import Program

VARIABLE = "FXQUANT_AUTO_TARGETS"
NATIVE = "native"  # the engine of torch's own that suits this CPU
DEFAULT = ("openvino", "onnxruntime")  # beside it; inductor compiles for tens of seconds
SECONDS = 2.0
TIE = 1.01
CODE = "FXQ513"


@dataclass(frozen=True, slots=True)
class Race:
    """Which targets outside torch take part, and how long all of them are timed."""

    names: tuple[str, ...]
    seconds: float = SECONDS
    is_native_in: bool = True

    def run(self, lowering: Lowering, program: Program, ledger: Ledger) -> tuple[Program, Records]:
        """Lower for each, time them, and keep one."""
        leaves = program.call_leaves or program.example_leaves
        outs = {name: found.why for name in self.names if not (found := targets.presence(name)).is_here}
        if leaves is None:
            ledger.notice(CODE, f"no race, since no example inputs are known: {program.engine} runs it, by its rule")
            return lowering.native(program, ledger)
        if len(outs) == len(self.names):
            told = ", ".join(_out(outs))
            ledger.notice(CODE, f"no race: {told}; {program.engine} runs it")
            return lowering.native(program, ledger)
        attempts = self._attempts(lowering, program, ledger, outs)
        timings = _timed_if_it_runs(attempts, leaves, self.seconds, outs)
        winner = fastest(timings, program.engine)
        told = _told(timings, outs, winner, leaves)
        if winner is None:
            ledger.notice(CODE, told)
            return lowering.native(program, ledger)
        made = lowering.kept(self._placed(winner, attempts[winner], lowering, program, ledger), ledger)
        ledger.notice(CODE, told)
        return made

    def _placed(self, winner: str, attempt: Attempt, lowering: Lowering, program: Program, ledger: Ledger) -> Attempt:
        """The winner once more with precision placement, unless the caller said whether to place; torch's own stays."""
        if lowering.places is not None or winner not in targets.EXTERNAL:
            return attempt
        again = lowering.placing(is_on=True).tried(winner, program, ledger)
        if isinstance(again, BackendError):
            attempt.ledger.notice(again.code, f"precision is not placed for {winner}: {again.message}")
            return attempt
        return again

    def _attempts(
        self, lowering: Lowering, program: Program, ledger: Ledger, outs: dict[str, str]
    ) -> dict[str, Attempt]:
        """What each target made of the program; why it could not goes to `outs`."""
        native = (program.engine,) if self.is_native_in else ()
        found: dict[str, Attempt] = {}
        for name in (*native, *(name for name in self.names if name not in outs)):
            tried = lowering.tried(name, program, ledger)
            if isinstance(tried, BackendError):
                outs[name] = f"{tried.code} {tried.message.removeprefix(f'{name} ')}"
            else:
                found[name] = tried
        return found


def _timed_if_it_runs(
    attempts: dict[str, Attempt], leaves: tuple[Tensor, ...], seconds: float, outs: dict[str, str]
) -> dict[str, Timing]:
    """`timed`, without those that fail: what is parity on some inputs may fail on these."""
    while True:
        try:
            return timed(attempts, leaves, seconds)
        except _Failure as failure:
            del attempts[failure.name]
            outs[failure.name] = f"it fails on these inputs: {failure}"


class _Failure(Exception):
    """A call that was to be timed failed."""

    def __init__(self, name: str, error: Exception) -> None:
        super().__init__(in_one_line(error))
        self.name = name


def timed(attempts: dict[str, Attempt], leaves: tuple[Tensor, ...], seconds: float) -> dict[str, Timing]:
    """Each one's seconds a call, in turns; nobody is timed who runs alone."""
    calls = {name: _call(name, attempt, leaves) for name, attempt in attempts.items()}
    if len(calls) < 2:
        return {name: Timing(()) for name in calls}
    return interleaved_within(calls, seconds=seconds, threads=torch.get_num_threads())


def _call(name: str, attempt: Attempt, leaves: tuple[Tensor, ...]) -> Callable[[], Any]:
    forward = attempt.program.graph_module.forward

    def call() -> Any:
        try:
            return forward(*leaves)
        except Exception as error:  # engines raise what they like
            raise _Failure(name, error) from error

    return call


def fastest(timings: dict[str, Timing], native: str) -> str | None:
    """The name of the one to keep; None where there is none."""
    if len(timings) < 2:
        return next(iter(timings), None)
    best = min(timings, key=lambda name: timings[name].median)
    is_tie = native in timings and timings[native].median <= TIE * timings[best].median
    return native if is_tie else best


def _told(timings: dict[str, Timing], outs: dict[str, str], winner: str | None, leaves: tuple[Tensor, ...]) -> str:
    shapes = ", ".join(str(list(leaf.shape)) for leaf in leaves)
    ran = sorted(timings, key=lambda name: timings[name].seconds and timings[name].median)
    parts = [*(f"{name} {_milliseconds(timings[name])}" for name in ran), *_out(outs)]
    best = ran[0] if ran else winner
    kept = f"{winner} is kept" if winner is not None else "torch's own engine runs it"
    tie = f", within {TIE - 1:.0%} of {best} and without its package" if winner != best else ""
    return f"race on inputs of {shapes}, {_threads()}: {', '.join(parts)}; {kept}{tie}"


def _out(outs: dict[str, str]) -> list[str]:
    return [f"{name} is out ({why})" for name, why in outs.items()]


def _threads() -> str:
    count = torch.get_num_threads()
    return f"{count} thread{'s'[: count != 1]}"


def _milliseconds(timing: Timing) -> str:
    if not timing.seconds:
        return "alone"
    low, high = timing.quartiles
    return f"{timing.median * 1e3:.3g} ms ({low * 1e3:.3g} to {high * 1e3:.3g})"


# Who may take part ----------------------------------------------------------------------------------------------------


def race_for(names: Sequence[str] | None, seconds: float) -> Race | None:
    """The race of these targets within what FXQUANT_AUTO_TARGETS allows; None for none. FXQ109 for unknown names."""
    asked = _checked(DEFAULT if names is None else tuple(names), "race_targets")
    allowed = allowed_targets()
    named = tuple(name for name in dict.fromkeys(asked) if name != NATIVE and (allowed is None or name in allowed))
    return Race(named, seconds, allowed is None or NATIVE in allowed) if seconds > 0 and named else None


def unraced(target: str, names: Sequence[str] | None, seconds: float, *, is_own: bool) -> str:
    """Why what was said of a race does nothing here; '' where nothing was said. `is_own`: of the caller's pipeline."""
    said = {"race_targets": names is not None, "race_seconds": seconds not in (SECONDS, 0)}
    given = " and ".join([name for name, is_given in said.items() if is_given])
    why = f"target={target!r} is named" if target != targets.AUTO else "a pipeline of your own has one target"
    return f"no race: {why}, and {given} is for target='auto'" if given and (is_own or target != targets.AUTO) else ""


def allowed_targets() -> tuple[str, ...] | None:
    """What the environment lets `auto` choose among; None: all."""
    value = os.environ.get(VARIABLE, "").strip()
    if not value:
        return None
    return _checked(tuple(name.strip() for name in value.split(",") if name.strip()), VARIABLE)


def _checked(names: tuple[str, ...], said_in: str) -> tuple[str, ...]:
    known = (NATIVE, *targets.EXTERNAL)
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known) or f"known: {', '.join(known)}"
            raise UnknownTargetError("FXQ109", f"{said_in}: '{name}' is no target that 'auto' chooses among", hint=hint)
    return names
