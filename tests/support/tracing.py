"""Short cuts for tests of passes: trace a model, run passes on it, call the result like the model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fxquant.capture import capture
from fxquant.ledger import Ledger
from fxquant.pipeline import Pass, Pipeline
from fxquant.program import Program
from fxquant.request import CaptureRequest


def trace(model: nn.Module, *args: Any, **kwargs: Any) -> tuple[Program, Ledger]:
    """Capture a copy of the model in eval mode, with these arguments as its example."""
    ledger = Ledger()
    program = capture(CaptureRequest(copy.deepcopy(model).eval(), args or None, kwargs or None), ledger)
    return program, ledger


def run_passes(steps: Pass | Sequence[Pass], model: nn.Module, *args: Any, **kwargs: Any) -> tuple[Program, Ledger]:
    """Trace the model and run the passes."""
    program, ledger = trace(model, *args, **kwargs)
    chosen = (steps,) if isinstance(steps, Pass) else tuple(steps)
    program, _ = Pipeline(chosen).run(program, ledger)
    return program, ledger


def call(program: Program, *args: Any, **kwargs: Any) -> Any:
    """Run the program as the model would be called."""
    with torch.no_grad():
        return program.signature.rebuild(program.graph_module(*program.signature.leaves(args, kwargs)))
