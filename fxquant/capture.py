"""nn.Module → Program[TRACED]. Strategies are tried in order; symbolic tracing is the first of the list."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fxquant.errors import UntraceableError
from fxquant.ledger import Ledger
from fxquant.program import Program
from fxquant.sandbox import untouched_world
from fxquant.symbolic import capture_symbolic


@dataclass(frozen=True, slots=True)
class CaptureRequest:
    """What to capture, and how.

    `example_args`/`example_kwargs` are one call's arguments (None: not known, every parameter without a default is
    taken to be a tensor); `concrete_args` fixes parameters by name; `leaf_modules` are dotted names, classes, or
    're:' regexes of modules that are not traced into.
    """

    model: nn.Module  # the compiler's own copy, in eval mode
    example_args: tuple[Any, ...] | None = None
    example_kwargs: Mapping[str, Any] | None = None
    concrete_args: Mapping[str, Any] | None = None
    leaf_modules: Sequence[str | type[nn.Module]] = ()


Strategy = Callable[[CaptureRequest, Ledger], Program]

STRATEGIES: tuple[Strategy, ...] = (capture_symbolic,)


def capture(request: CaptureRequest, ledger: Ledger) -> Program:
    """The first strategy's program that succeeds; else the first one's error, which names the user's line."""
    refusals: list[UntraceableError] = []
    for strategy in STRATEGIES:
        try:
            with untouched_world(), torch.no_grad():
                return strategy(request, ledger)
        except UntraceableError as error:
            refusals.append(error)
    raise refusals[0]
