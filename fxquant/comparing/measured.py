"""One row of a comparison, but for its timing: what a candidate makes of the data, and what it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fxquant.comparing.data import EvaluationData, call_on, of_size
from fxquant.comparing.footprint import int8_share, peak_bytes, size_on_disk
from fxquant.comparing.layers import layers_of
from fxquant.comparing.metrics import Metric
from fxquant.comparing.outputs import check_alike, sqnr
from fxquant.comparing.rows import FLOAT_NAME, ComparedRow
from fxquant.comparing.running import outputs_of, same_buffers
from fxquant.comparing.settings import Settings
from fxquant.ledger import Ledger
from fxquant.model import CompiledModel


@dataclass(frozen=True, slots=True)
class Bench:
    """What all candidates are held to."""

    model: nn.Module  # the float one
    data: EvaluationData
    reference: Sequence[Any]  # its outputs, one for each batch
    metric: Metric
    settings: Settings
    ledger: Ledger  # of notices about the comparison


def measured_row(name: str, module: nn.Module, bench: Bench) -> ComparedRow:
    """All but latency and compile time. FXQ120 where its outputs are not like the float model's."""
    is_float = name == FLOAT_NAME
    outputs = bench.reference if is_float else outputs_of(module, bench.data, bench.ledger)
    check_alike(bench.reference, outputs)
    metric = bench.metric.value(outputs, bench.data, bench.reference, bench.ledger)
    distance = None if is_float else sqnr(bench.reference, outputs)
    del outputs
    size, size_of = size_on_disk(module)
    layers, why = layers_of(module, bench.model, _example(bench.data))
    with same_buffers(module), torch.no_grad():
        batch = of_size(bench.data, bench.settings.largest or bench.data.rows[0])[0]
        peak = peak_bytes(call_on(module, batch, bench.data))
    return ComparedRow(
        name=name,
        kind="float" if is_float else "compiled" if isinstance(module, CompiledModel) else "module",
        target=module.target if isinstance(module, CompiledModel) else "",
        size_bytes=size,
        size_of=size_of,
        peak_bytes=peak,
        metric=metric,
        sqnr_db=distance,
        int8_share=0.0 if is_float else int8_share(module, _tensors(bench.data)),
        layers=layers,
        notes=(why,) if why else (),
    )


def _example(data: EvaluationData) -> Any:
    """The first batch's arguments, as `fxquant.measure` takes them; None where a forward_fn unpacks it."""
    if data.forward_fn is not None:
        return None
    call = data.call(0)
    return call.args, call.kwargs


def _tensors(data: EvaluationData) -> tuple[torch.Tensor, ...] | None:
    if data.forward_fn is not None:
        return None
    args = data.call(0).args
    return tuple(args) if args and all(isinstance(value, torch.Tensor) for value in args) else None
