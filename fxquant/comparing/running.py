"""A model made fit to be evaluated, and its outputs on all batches. The caller's model stays as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from fxquant.comparing.data import EvaluationData
from fxquant.errors import CalibrationShapeError, ContractError, FxQuantError
from fxquant.fork import fork
from fxquant.ledger import Ledger
from fxquant.model import CompiledModel
from fxquant.preflight import unwrapped
from fxquant.program import Stage
from fxquant.row_digests import row_digests
from fxquant.structure import copied


def ready(model: Any, ledger: Ledger, what: str = "the model") -> nn.Module:
    """The model as it is, hooks and `torch.compile` included; where a part of it trains, a copy in eval mode.

    FXQ201 for what is no module, FXQ401 for a model that still calibrates: evaluating it would calibrate it.
    """
    if isinstance(model, CompiledModel) and model.stage is Stage.PREPARED:
        raise ContractError(
            "FXQ401",
            f"{what} is still calibrating: its calls would calibrate it on the test data",
            hint="feed it calibration data, then call convert()",
        )
    if not isinstance(model, nn.Module):
        return unwrapped(model, ledger)  # which raises
    if not any(module.training for module in model.modules()):
        return model
    ledger.notice("FXQ141", f"{what} is in training mode: a copy of it in eval mode was evaluated")
    return fork(unwrapped(model, ledger))


def outputs_of(model: nn.Module, data: EvaluationData, ledger: Ledger) -> list[Any]:
    """What the model makes of each batch, in tensors that nothing else holds.

    Notice FXQ318 in the ledger where it was calibrated on rows of the data.
    """
    with same_buffers(model):
        if not isinstance(model, CompiledModel) or not model.program.calibrated_on:
            return [copied(data.output(model, index)) for index in range(len(data.batches))]
        watched = _Watched(model)
        outputs = [copied(data.output(watched, index)) for index in range(len(data.batches))]
    if watched.known:
        ledger.notice(
            "FXQ318",
            f"{watched.known} of {watched.rows} test rows are rows that the model was calibrated on: "
            "the result flatters it",
            hint="calibrate on training data",
        )
    return outputs


def float_outputs(model: nn.Module, data: EvaluationData, ledger: Ledger, what: str) -> list[Any]:
    """`outputs_of` for a model whose failure is the data's fault, or its own. FXQ304, with torch's words."""
    try:
        return outputs_of(model, data, ledger)
    except FxQuantError:
        raise
    except Exception as error:  # a user's forward() may raise anything
        raise CalibrationShapeError(
            "FXQ304",
            f"{what} fails on the data: {type(error).__name__}: {error}",
            hint="a tensor is one argument, a tuple the arguments, a dict the keywords; forward_fn settles the rest",
        ) from error


class _Watched(nn.Module):
    """A compiled model that counts the rows which it sees, and those of them that it was calibrated on."""

    def __init__(self, compiled: CompiledModel) -> None:
        super().__init__()
        self.training = False
        self.compiled, self.rows, self.known = compiled, 0, 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        program = self.compiled.program
        digests = row_digests(program.signature.leaves(args, kwargs))
        self.rows += len(digests)
        self.known += sum(digest in program.calibrated_on for digest in digests)
        return self.compiled(*args, **kwargs)


@contextmanager
def same_buffers(model: nn.Module) -> Iterator[None]:
    """Buffers that calls change (counters, caches) are put back as they were."""
    graph = model.graph_module if isinstance(model, CompiledModel) else model  # a compiled model's are in its graph
    held = [(module, name, buffer) for module in graph.modules() for name, buffer in module._buffers.items()]
    saved = [None if buffer is None else buffer.clone() for _, _, buffer in held]
    try:
        yield
    finally:
        with torch.no_grad():
            for (module, name, buffer), value in zip(held, saved, strict=True):
                module._buffers[name] = buffer
                if buffer is not None and value is not None and not _is_equal(buffer, value):
                    buffer.copy_(value)


def _is_equal(buffer: torch.Tensor, value: torch.Tensor) -> bool:
    return not buffer.is_quantized and torch.equal(buffer, value)
