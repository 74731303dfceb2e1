"""A model made fit to be evaluated, and its outputs on all batches. The caller's model stays as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from fxquant.comparing.data import EvaluationData, copied
from fxquant.errors import ContractError
from fxquant.fork import fork
from fxquant.ledger import Ledger
from fxquant.model import CompiledModel
from fxquant.preflight import unwrapped
from fxquant.program import Stage


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


def outputs_of(model: nn.Module, data: EvaluationData) -> list[Any]:
    """What the model makes of each batch, in tensors that nothing else holds."""
    with same_buffers(model):
        return [copied(data.output(model, index)) for index in range(len(data.batches))]


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
