"""OpenVINO runs the canonical graph: close to it, on any shape, from any thread, and its refusals name the node."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant.engines.engine import EngineModule
from fxquant.engines.openvino import build
from fxquant.numerics import sqnr_db
from support.models import MODELS


def canonical_of(name: str, preset: str) -> tuple[fx.GraphModule, tuple[Tensor, ...], nn.Module]:
    case = MODELS[name]
    model, batches = case.make().eval(), case.batches(2, 2)
    data = batches if preset == "int8" else None
    compiled = fxquant.compile(model, preset, calibration_data=data, example_inputs=batches[0], target="onednn")
    return compiled.canonical, tuple(batches[0]), model


@cache
def engine_of(name: str, preset: str) -> tuple[EngineModule, fx.GraphModule, tuple[Tensor, ...], nn.Module]:
    canonical, leaves, model = canonical_of(name, preset)
    return build(canonical, leaves, threads=1), canonical, leaves, model


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("resnet18", "int8"),
        ("unet", "int8"),
        ("lstm_both_ways", "int8"),
        ("gru", "int8-dynamic"),
        ("mlp", "int8-dynamic"),
        ("encoder", "int8-weight-only"),
        ("lstm_state", "int8-weight-only"),
    ],
)
def test_its_output_is_as_near_to_the_float_model_as_the_canonical_graphs(name: str, preset: str) -> None:
    engine, canonical, leaves, model = engine_of(name, preset)
    with torch.no_grad():
        exact, expected = model(*leaves), canonical(*leaves)[0]
        got = engine(*leaves)[0]
    assert sqnr_db(exact, got) >= min(sqnr_db(exact, expected), 40.0) - 1.0  # bfloat16 keeps 8 bits: 40 dB and more
