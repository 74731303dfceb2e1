"""Candidates: what a user may compare, by name; which are compiled, for which engines; and how each is made."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from torch import nn

from fxquant.comparing.data import EvaluationData
from fxquant.comparing.rows import FLOAT_NAME
from fxquant.comparing.running import ready
from fxquant.compiler import compile
from fxquant.errors import ComparisonError, UsageError, did_you_mean
from fxquant.fork import fork
from fxquant.ledger import Ledger
from fxquant.preflight import unwrapped

_POLICY = "qconfig_mapping"
_GIVEN = ("model", "calibration_data")  # what compare() itself gives to compile()


@dataclass(frozen=True, slots=True)
class Candidate:
    """One row to be: `what` is a policy, options of compile, a module, or a function of the float model."""

    name: str
    what: Any
    target: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)  # of compile(), for those that are compiled here


@dataclass(frozen=True, slots=True)
class Made:
    """A candidate that can be called. `seconds` is None for what was made before."""

    module: nn.Module
    seconds: float | None


def read_candidates(
    given: Any, targets: str | Sequence[str] | None, options: Mapping[str, Any] | None
) -> tuple[Candidate, ...]:
    """Each candidate; what is compiled, once for each target: 'int8 on x86'. FXQ136 for names that do not tell."""
    named = tuple(given.items()) if isinstance(given, Mapping) else _pairs(given)
    if not named:
        raise ComparisonError("FXQ136", "there are no candidates", hint='compare(model, {"int8": "int8"}, data)')
    for name, _ in named:
        if not isinstance(name, str) or not name.strip():
            told = f"a candidate has the name {name!r}"
            raise ComparisonError("FXQ136", told, hint="give each a name that says what it is")
    places = (targets,) if isinstance(targets, str) else tuple(targets or ())
    crossed = [made for name, what in named for made in _crossed(" ".join(name.split()), what, places, options or {})]
    names = [FLOAT_NAME, *(candidate.name for candidate in crossed)]
    twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if twice is not None:
        told = "is the row of the model itself" if twice == FLOAT_NAME else "stands for two candidates"
        raise ComparisonError("FXQ136", f"the name '{twice}' {told}", hint="give each another name")
    return tuple(crossed)


def _pairs(given: Any) -> tuple[tuple[Any, Any], ...]:
    """(name, candidate) pairs in a list, in which a name can stand twice, and is told then."""
    is_list = isinstance(given, Iterable) and not isinstance(given, (str, bytes, nn.Module))
    found = tuple(given) if is_list else None
    if found is None or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in found):
        told = f"candidates are a {type(given).__name__}, not a dict of them by name"
        raise ComparisonError("FXQ136", told, hint='compare(model, {"int8": "int8", "mixed": "mixed.toml"}, data)')
    return found


def _crossed(name: str, what: Any, targets: Sequence[str], options: Mapping[str, Any]) -> list[Candidate]:
    if not _is_compiled_here(what):
        return [Candidate(name, what)]
    own = {key: value for key, value in what.items() if key != _POLICY} if _has_options(what) else {}
    policy = what[_POLICY] if _has_options(what) else what
    whole = {**options, **own}
    if "target" in whole or not targets:
        return [Candidate(name, policy, whole.pop("target", "auto"), whole)]
    return [Candidate(f"{name} on {target}", policy, target, whole) for target in targets]


def _has_options(what: Any) -> bool:
    return isinstance(what, Mapping) and _POLICY in what


def _is_compiled_here(what: Any) -> bool:
    """A policy, with or without options: not a module, and no function that makes one."""
    return not isinstance(what, nn.Module) and not callable(what)


def make(candidate: Candidate, model: nn.Module, calibration: EvaluationData, ledger: Ledger) -> Made:
    """Compile it, call it, or take it as it is. Any error is the candidate's own."""
    what = candidate.what
    if isinstance(what, nn.Module):
        return Made(ready(what, ledger, f"candidate '{candidate.name}'"), None)
    started = perf_counter()
    if _is_compiled_here(what):
        _check_options(candidate.options)
        given = {"target": candidate.target, "forward_fn": calibration.forward_fn, **candidate.options}
        if "calibration_data" not in given:
            batches = list(calibration.batches)
            given = {"calibration_data": batches, "max_batches": len(batches), **given}
        compiled = compile(model, what, **given)
        return Made(ready(compiled, ledger, f"candidate '{candidate.name}'"), perf_counter() - started)
    made = what(fork(unwrapped(model, Ledger())))
    seconds = perf_counter() - started
    if not isinstance(made, nn.Module):
        told = f"the function of candidate '{candidate.name}' gave {type(made).__name__}, which is no nn.Module"
        raise UsageError("FXQ136", told, hint="return the model that it makes of the float one")
    return Made(ready(made, ledger, f"candidate '{candidate.name}'"), seconds)


def _check_options(options: Mapping[str, Any]) -> None:
    """FXQ136 for what compile() does not take, before Python says so in other words."""
    known = [name for name in inspect.signature(compile).parameters if name not in (*_GIVEN, _POLICY)]
    wrong = next((name for name in options if name not in (*known, "calibration_data")), None)
    if wrong is not None:
        raise UsageError("FXQ136", f"compile() has no option {wrong!r}", hint=did_you_mean(str(wrong), known))
