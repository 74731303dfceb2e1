"""Drawn models for laws: each is counted, and compiled under a policy of fast observers on an engine."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from hypothesis import strategies as st

import fxquant
from fxquant import torch_ao
from fxquant.testing import ModelSpec, model_specs
from support.compiling import ENGINES
from support.counting import counted

with torch_ao.quiet():
    from torch.ao.quantization import MinMaxObserver, PerChannelMinMaxObserver, QConfig, QConfigMapping

STATIC = ("per channel", "per tensor", "seven bits")
PRESETS = ("int8-dynamic", "int8-weight-only", "float16")  # 'int8' has histogram observers, ten times as slow
POLICIES = (*STATIC, *PRESETS)


def qconfig(*, is_per_channel: bool = True, reduce_range: bool = False) -> QConfig:
    """MinMax for activations and weights."""
    activation = MinMaxObserver.with_args(dtype=torch.quint8, reduce_range=reduce_range)
    options = {"dtype": torch.qint8, "qscheme": torch.per_tensor_symmetric}
    if not is_per_channel:
        return QConfig(activation, MinMaxObserver.with_args(**options))
    options["qscheme"] = torch.per_channel_symmetric
    return QConfig(activation, PerChannelMinMaxObserver.with_args(**options))


@cache
def policy(name: str) -> Any:
    """What `compile` takes for one of POLICIES: a mapping with MinMax everywhere, or the preset's own name."""
    if name not in STATIC:
        return name
    asked = qconfig(is_per_channel=name != "per tensor", reduce_range=name == "seven bits")
    return QConfigMapping().set_global(asked)


def drawn(**options: Any) -> st.SearchStrategy[ModelSpec]:
    """Specs of `fxquant.testing`, counted."""
    return model_specs(**options).map(_counted)


def _counted(spec: ModelSpec) -> ModelSpec:
    counted("model")
    return spec


engines = st.sampled_from(ENGINES)
static = st.sampled_from(STATIC)
policies = st.sampled_from(POLICIES)


def compiled(spec: ModelSpec, asked: str = "per channel", target: str = "x86", **options: Any) -> fxquant.CompiledModel:
    """The spec's model, compiled with its own data."""
    data = options.pop("calibration_data", None) or spec.batches()
    model = options.pop("model", None) or spec.build()
    return fxquant.compile(model, policy(asked), calibration_data=data, target=target, **options)
