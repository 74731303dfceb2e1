"""torchao's PT2E flow: export, annotate for inductor on x86, calibrate, convert, torch.compile with freezing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

from fxquant.tools.bench.peers.by_torch import called
from fxquant.tools.bench.peers.job import Builder, Job, Runner


def compiled(job: Job) -> Builder:
    """Each batch size is exported, calibrated and compiled anew: shapes are static, as this flow is fastest."""
    return lambda rows: _compiled(job, rows)


def _compiled(job: Job, rows: int) -> Runner:
    flow: Any = import_module("torchao.quantization.pt2e.quantize_pt2e")
    x86 = import_module("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
    torchao = import_module("torchao.quantization.pt2e")
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = flow.prepare_pt2e(torch.export.export(job.model, job.rows(rows)).module(), quantizer)
    with torch.no_grad():
        for at in range(0, job.batches[0][0].shape[0] * len(job.batches) // rows * rows, rows):
            prepared(*(torch.cat(column)[at : at + rows] for column in zip(*job.batches, strict=True)))
    made = flow.convert_pt2e(prepared)
    torchao.move_exported_model_to_eval(made)
    settings: Any = import_module("torch._inductor.config")
    settings.freezing = True  # of this process: tracing, too, has to know that parameters are constants
    return called(torch.compile(made))
