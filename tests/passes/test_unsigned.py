"""Signed activations of a canonical graph come out right on torch's own engines, with or without a parity check."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import fxquant
from fxquant.ledger import Ledger
from fxquant.passes._canonical import is_activation_quantize
from fxquant.passes.lower_native import LowerNative
from fxquant.program import Program
from fxquant.torch_ao import engine
from support.compiling import ENGINES

X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
LOWERLESS = fxquant.default_pipeline().without("lower-native")


def signed(target: str) -> Program:
    """A canonical program whose activations have signed codes."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    program = fxquant.compile(net, "int8", calibration_data=X, target=target, passes=LOWERLESS).program
    for node in program.graph.nodes:
        if is_activation_quantize(node):
            x, scale, zero_point, *_ = node.args
            node.args = (x, scale, zero_point - 128, -128, 127, torch.int8)
            for user in list(node.users):
                user.args = (node, scale, zero_point - 128)
    program.graph_module.recompile()
    return program


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("target", [name for name in ENGINES if name != "qnnpack"])
def test_they_run_on_kernels_and_give_the_canonical_result(target, check):
    program = signed(target)
    expected = program.graph_module(X)[0]
    with engine(target), torch.no_grad():
        lowered = LowerNative(check=check).run(replace(program, example_leaves=(X,)), Ledger())
        assert "linear" in lowered.graph_module.code and "quantized" in lowered.graph_module.code
        assert fxquant.sqnr_db(expected, lowered.graph_module(X)[0]) > 35
    assert torch.equal(lowered.canonical(X)[0], expected)
