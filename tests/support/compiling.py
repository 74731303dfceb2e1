"""Short cuts for tests of the whole compiler: compile a case on an engine, and what raw FX makes of the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

import fxquant
from fxquant.numerics import sqnr_db
from fxquant.torch_ao import engine, raw_mapping, raw_quantize
from support.models.case import Case

ENGINES = [
    name for name in ("x86", "fbgemm", "onednn", "qnnpack") if name in torch.backends.quantized.supported_engines
]


def compiled(case: Case, policy: Any = "int8", *, target: str = "x86", **options: Any) -> fxquant.CompiledModel:
    """The case's model, compiled with its own data."""
    return compile_model(case.make(), policy, case, target=target, **options)


def compile_model(
    model: nn.Module, policy: Any, case: Case, *, target: str = "x86", **options: Any
) -> fxquant.CompiledModel:
    """This very model, with the case's data (and keywords, where it has any)."""
    batches: Any = case.batches(2, 16)
    if case.keywords is not None:
        batches = [(args, case.arguments(1000 + index, 16)) for index, args in enumerate(batches)]
    return fxquant.compile(model, policy, calibration_data=batches, target=target, **options)


def raw(case: Case, target: str) -> fx.GraphModule:
    """What prepare_fx, the same data and convert_fx make of the case."""
    with engine(target):
        return raw_quantize(case.make(), raw_mapping(target), case.inputs(), case.batches(2, 16))


def run(model: nn.Module, target: str, *args: Any) -> Any:
    """Its output under the engine it was made for."""
    with engine(target), torch.no_grad():
        return model(*args)


def quality_db(case: Case, model: nn.Module, target: str, seed: int = 0) -> float:
    """SQNR against the float model, in decibels."""
    inputs = case.inputs(seed, 32)
    with torch.no_grad():
        return sqnr_db(case.make()(*inputs), run(model, target, *inputs))
