"""ONNX Runtime's rules for pairs: around convolutions all stay, between linear layers only those that layers read."""

from __future__ import annotations

from collections import Counter

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import fxquant
from fxquant import qdq
from fxquant.engines.onnx import to_onnx
from fxquant.engines.onnxruntime_placement import placed


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down, self.norm = nn.Linear(8, 16), nn.Linear(16, 8), nn.LayerNorm(8)

    def forward(self, x):
        return self.norm(x + self.down(nn.functional.gelu(self.up(x))))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return self.b(torch.relu(self.a(x) + x))


def canonical(model, x):
    return fxquant.compile(model.eval(), "int8", calibration_data=[(x,)], target="onednn").canonical


def pairs(graph_module):
    return sum(node.target is qdq.quantize_per_tensor for node in graph_module.graph.nodes)


@pytest.fixture(scope="module")
def block():
    torch.manual_seed(0)
    model, x = Block().eval(), torch.randn(2, 5, 8)
    return canonical(model, x), x, model(x).detach()


def test_between_linear_layers_only_what_they_read_is_rounded(block):
    before = pairs(block[0])
    made = placed(block[0])
    assert pairs(made) == 2 < before == pairs(block[0])
    linears = [node for node in made.graph.nodes if node.target is nn.functional.linear]
    assert [node.args[0].target for node in linears] == [qdq.dequantize_per_tensor] * 2
    made.graph.lint()


def test_fewer_roundings_are_closer_to_the_float_model(block):
    graph, x, wanted = block
    off = [float((wanted - one(x)[0]).detach().square().sum()) for one in (placed(graph), graph)]
    assert off[0] < off[1]


def fused(graph_module, x, path):
    """How many nodes of each kind the runtime makes of a graph."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(path), 4
    onnxruntime.InferenceSession(to_onnx(graph_module, (x,)).SerializeToString(), options)
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def test_each_layer_has_its_int8_kernel(block, tmp_path):
    kinds = fused(placed(block[0]), block[1], tmp_path / "m.onnx")
    assert kinds["MatMulIntegerToFloat"] == 2 and not kinds["DequantizeLinear"]


def test_a_matrix_layer_that_gives_floats_has_its_int8_kernel_too(tmp_path):
    x = torch.randn(3, 8)
    graph = placed(canonical(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)), x))
    kinds = fused(graph, x, tmp_path / "m.onnx")
    assert kinds["QGemm"] + kinds["MatMulIntegerToFloat"] == 2 and not kinds["Gemm"] and not kinds["MatMul"]


def test_pairs_around_convolutions_and_their_sums_stay():
    graph = canonical(Residual(), torch.randn(2, 4, 6, 6))
    assert pairs(placed(graph)) == pairs(graph)
