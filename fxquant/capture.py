"""nn.Module → Program[TRACED]. Strategies are tried in order; symbolic tracing is the first of the list.

A TrainableModel holds its program already.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from fxquant.arrival import arrival_of
from fxquant.casts import settle_casts
from fxquant.errors import UntraceableError
from fxquant.ledger import Ledger
from fxquant.program import Program
from fxquant.request import CaptureRequest
from fxquant.sandbox import untouched_world
from fxquant.symbolic import capture_symbolic
from fxquant.trainable import TrainableModel, recaptured
from fxquant.values import record_values

Strategy = Callable[[CaptureRequest, Ledger], Program]

STRATEGIES: tuple[Strategy, ...] = (capture_symbolic,)


def capture(request: CaptureRequest, ledger: Ledger) -> Program:
    """The first strategy's program that succeeds; else the first one's error, which names the user's line."""
    arrival = arrival_of(request.model)
    if isinstance(request.model, TrainableModel):
        program = recaptured(request, request.model)
        settle_casts(program.graph_module, arrival, ledger)
        return program
    refusals: list[UntraceableError] = []
    for strategy in STRATEGIES:
        try:
            with untouched_world(), torch.no_grad():
                program = strategy(request, ledger)
                settle_casts(program.graph_module, arrival, ledger)
                return replace(program, values=record_values(program.graph_module, program.example_leaves))
        except UntraceableError as error:
            refusals.append(error)
    raise refusals[0]
