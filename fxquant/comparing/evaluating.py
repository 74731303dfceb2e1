"""evaluate(): one number for one model on data that is read once; and whether it was calibrated on that data."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from fxquant.comparing.data import MAX_BATCHES, EvaluationData, ForwardFn, read_data
from fxquant.comparing.metrics import read_metric
from fxquant.comparing.running import float_outputs, ready
from fxquant.errors import FxQuantWarning, MetricError
from fxquant.ledger import Ledger
from fxquant.model import CompiledModel
from fxquant.sandbox import untouched_world


def evaluate(
    model: nn.Module,
    data: Any,
    metric: Any = None,
    *,
    reference: nn.Module | None = None,
    forward_fn: ForwardFn | None = None,
    max_batches: int = MAX_BATCHES,
) -> float:
    """One number for a float or compiled model on test data. Neither is changed.

    Args:
        model: a CompiledModel or any `nn.Module`. What is in training mode is evaluated as a copy in eval mode.
        data: batches as `fxquant.compile` takes them, each with its labels: `(inputs, labels)`. Read once.
        metric: 'accuracy' (top 1; 0 to 1) or 'top5' for scores (N, classes) and labels (N); 'sqnr' (dB) or 'mse'
            against the float model, for data without labels; or a function `metric(outputs, labels)`, which is
            `metric(outputs, batch)` where there are no labels. It is called once, with the rows of all batches
            joined; where they cannot be joined, once a batch, and the mean by rows is taken. None: accuracy where the
            labels are classes, else SQNR.
        reference: the float model for 'sqnr' and 'mse'. None: the one that `model` was compiled from.
        forward_fn: `forward_fn(model, batch)` calls the model on a batch of a shape of its own; the metric gets the
            batch, or its second half where it is a pair.
        max_batches: how many batches are read at most; that there may be more is a FxQuantWarning, FXQ319.

    Returns:
        The metric. Where rows of the data are rows that `model` was calibrated on, its ledger has notice FXQ318.

    Raises:
        MetricError: FXQ137 for a metric that does not suit the data, FXQ138 where it gives no finite number, FXQ139
            where it raises.
        CalibrationError: FXQ312 where the data fails, FXQ317 where it is empty.
        FxQuantError: FXQ401 for a model that still calibrates; FXQ313 where the float model is gone.
    """
    ledger = Ledger()
    with untouched_world(), torch.no_grad():
        module = ready(model, ledger)
        read = read_data(module, data, ledger, max_batches=max_batches, forward_fn=forward_fn)
        own = model.ledger if isinstance(model, CompiledModel) else ledger
        outputs = float_outputs(module, read, own, "the model")
        asked = read_metric(metric, read, outputs[0], Ledger())
        known = _reference(module, reference, read, ledger) if asked.needs_reference else ()
        value = asked.value(outputs, read, known, ledger)
    if value is None:
        raise MetricError("FXQ137", f"{asked.name} needs floating-point outputs, and there are none")
    for row in ledger.notices:
        if row.code in ("FXQ319", "FXQ141"):
            warnings.warn(f"{row.code} {row.reason}", FxQuantWarning, stacklevel=2)
    return value


def _reference(module: nn.Module, given: nn.Module | None, data: EvaluationData, ledger: Ledger) -> list[Any]:
    """The float model's outputs: of the one given, else of the one that was compiled. MetricError FXQ137, FXQ313."""
    if given is not None:
        return float_outputs(ready(given, ledger, "the reference"), data, ledger, "the reference")
    if not isinstance(module, CompiledModel):
        told = f"SQNR and MSE are against a float model, and {type(module).__name__} was not compiled from one"
        raise MetricError("FXQ137", told, hint="evaluate(model, data, metric, reference=float_model)")
    return float_outputs(_Float(module), data, ledger, "the float model")


class _Float(nn.Module):
    """The float model that a compiled one came from, with the same signature."""

    def __init__(self, compiled: CompiledModel) -> None:
        super().__init__()
        program = compiled.trace_float()
        self.graph_module, self.signature = program.graph_module, program.signature

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.signature.rebuild(self.graph_module.forward(*self.signature.leaves(args, kwargs)))
