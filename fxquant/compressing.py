"""compress(): passes that make a float model smaller, before it is quantized; the result trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from fxquant import preflight
from fxquant.arguments import example_call
from fxquant.capture import capture
from fxquant.errors import ContractError, UsageError
from fxquant.fork import fork
from fxquant.ledger import Ledger
from fxquant.options import check_options
from fxquant.pipeline import Pass, Pipeline
from fxquant.program import Stage
from fxquant.registry import make
from fxquant.request import CaptureRequest
from fxquant.sandbox import one_compilation
from fxquant.trainable import TrainableModel

BEFORE = ("functionalize", "normalize-calls")  # so that each op has one spelling


def compress(
    model: nn.Module,
    passes: Pipeline | Sequence[Pass | str],
    *,
    example_inputs: Any = None,
    concrete_args: Mapping[str, Any] | None = None,
    leaf_modules: Sequence[str | type[nn.Module]] = (),
) -> TrainableModel:
    """Prune, factorize or distil a float model. The model itself is never changed.

    Args:
        model: a float32 `nn.Module`, or the result of an earlier `compress`.
        passes: what to do, in order: passes or names of passes that leave the program TRACED.
        example_inputs: one call's arguments, where a pass has to know shapes.
        concrete_args, leaf_modules: as in `fxquant.compile`.

    Returns:
        A float model that trains, with a ledger (a row per layer, a notice per step) that `compile` goes on with.

    Raises:
        FxQuantError: every failure; its code has a page (`fxquant explain CODE`).
    """
    if passes is None:
        raise UsageError("FXQ111", "passes=None", hint="give the passes that compress; [] only captures the model")
    check_options(passes=passes, concrete_args=concrete_args, leaf_modules=leaf_modules)
    steps = Pipeline(tuple(make(step) if isinstance(step, str) else step for step in (*BEFORE, *passes)))
    if steps.check(Stage.TRACED) is not Stage.TRACED:
        raise ContractError(
            "FXQ401", "compress() got a pass that quantizes", hint="give it to compile(passes=...) instead"
        )
    ledger = Ledger.of(model.ledger.state()) if isinstance(model, TrainableModel) else Ledger()
    with one_compilation():
        float_model = preflight.check(model, ledger)
        request = CaptureRequest(fork(float_model), *example_call(example_inputs), concrete_args, tuple(leaf_modules))
        program, records = steps.run(capture(request, ledger), ledger)
    before = model.history if isinstance(model, TrainableModel) else ()
    return TrainableModel(program, ledger, (*before, *records))
