"""What compile() may be given besides model, mapping and data: each argument is checked before any work is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from fxquant.errors import UsageError
from fxquant.pipeline import Pass, Pipeline


def check_options(**options: Any) -> None:
    """FXQ111 names the first argument that is of a kind that compile() does not take, and what it takes."""
    for name, value in options.items():
        told = _REFUSALS[name](value)
        if told is not None:
            raise UsageError("FXQ111", f"{name}={_shown(value)}", hint=told)


def check_schedule(schedule: Any, mode: str) -> None:
    """FXQ111 for a schedule that is none, or that nothing would follow."""
    if schedule is None:
        return
    if type(schedule).__name__ != "QATSchedule":
        raise UsageError("FXQ111", f"schedule={_shown(schedule)}", hint="give a fxquant.QATSchedule(...), or None")
    if mode != "qat":
        raise UsageError("FXQ111", f"schedule={_shown(schedule)} with mode={mode!r}", hint="it is for mode='qat'")


def _each(*kinds: type, told: str) -> Callable[[Any], str | None]:
    def refusal(value: Any) -> str | None:
        is_series = isinstance(value, (Sequence, set, frozenset)) and not isinstance(value, (str, bytes))
        return None if is_series and all(isinstance(item, kinds) for item in value) else told

    return refusal


def _passes(value: Any) -> str | None:
    if value is None or isinstance(value, Pipeline):
        return None
    return _each(Pass, str, told="give a Pipeline, or a list of passes and names of passes (`fxquant passes`)")(value)


def _leaf_modules(value: Any) -> str | None:
    told = "give a list of module names, 're:' regexes and nn.Module classes"
    is_right = _each(str, type, told=told)(value) is None
    return None if is_right and all(isinstance(i, str) or issubclass(i, nn.Module) for i in value) else told


def _concrete_args(value: Any) -> str | None:
    is_right = value is None or (isinstance(value, Mapping) and all(isinstance(name, str) for name in value))
    return None if is_right else "give a dict: names of forward()'s parameters and the values to fix them at"


def _observers(value: Any) -> str | None:
    told = "give a list of functions, each called with a PassRecord"
    return None if _each(object, told=told)(value) is None and all(map(callable, value)) else told


def _forward_fn(value: Any) -> str | None:
    return None if value is None or callable(value) else "give a function forward_fn(model, batch) that calls the model"


def _seconds(value: Any) -> str | None:
    is_right = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= _MOST_SECONDS
    return None if is_right else f"give seconds, {_MOST_SECONDS:,} at most, 0 for none"


_MOST_SECONDS = 3600  # of a race: nobody waits longer for one, and beyond 1e300 there is no number of rounds
_MODES = ("ptq", "qat")

_REFUSALS: dict[str, Callable[[Any], str | None]] = {
    "passes": _passes,
    "concrete_args": _concrete_args,
    "leaf_modules": _leaf_modules,
    "skip_batchnorm": _each(str, told="give a list of names of batch norms"),
    "custom_modules": _each(object, told="give a list of handlers (see fxquant.CustomModule)"),
    "forward_fn": _forward_fn,
    "observers": _observers,
    "mode": lambda value: (
        None if isinstance(value, str) and value in _MODES else "'qat' to train with rounding, or 'ptq' (the default)"
    ),
    "race_seconds": _seconds,
    "place": lambda value: (
        None if value is None or isinstance(value, bool) else "give True, False, or None for the default"
    ),
    "race_targets": lambda value: None if value is None else _each(str, told="give a list of names of targets")(value),
    "strict": lambda value: None if isinstance(value, bool) else "True or False",
}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
