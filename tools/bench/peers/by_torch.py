"""What torch itself has: eager float, stock FX graph mode on an engine, and eager dynamic quantization."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fxquant.tools.bench.peers.job import Bound, Builder, Inputs, Job, Runner, as_tensor
from fxquant.torch_ao import quiet, raw_fx, raw_mapping, raw_quantize


def eager(job: Job) -> Builder:
    """The float model as it is."""
    return lambda rows: called(job.model)


def stock(job: Job, *, engine_name: str) -> Builder:
    """prepare_fx, calibrate, convert_fx with torch's own mapping. The engine is this process's from here on."""
    torch.backends.quantized.engine = engine_name
    made = raw_quantize(job.model, raw_mapping(engine_name), job.batches[0], job.batches)
    return lambda rows: called(made)


def dynamic(job: Job) -> Builder:
    """quantize_dynamic of linear and recurrent layers, on the engine that torch takes by default."""
    with quiet():
        made = raw_fx("quantize_dynamic")(job.model, {nn.Linear, nn.LSTM, nn.GRU}, dtype=torch.qint8)
    return lambda rows: called(made)


def called(model: Any) -> Runner:
    """Runs a module that takes and returns tensors."""

    def runner(inputs: Inputs) -> Bound:
        return Bound(lambda: model(*inputs), as_tensor)

    return runner
