"""ONNX Runtime as an engine: shapes that stay open, memory of its own for each result, refusals of bad input."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import fxquant
from fxquant.engines.onnxruntime import build


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
        self.shift = nn.Parameter(torch.ones(2))

    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3))), self.shift, x


@pytest.fixture(scope="module")
def made():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 6)
    compiled = fxquant.compile(Net().eval(), "int8", calibration_data=[(x,)], target="onednn")
    return compiled, build(compiled.canonical, (x,), threads=1)


@pytest.fixture
def canonical(made):
    return lambda x: tuple(value.detach() for value in made[0].canonical(x))


@pytest.mark.parametrize("shape", [(1, 3, 6, 6), (5, 3, 6, 6), (2, 3, 9, 7), (0, 3, 6, 6)])
def test_batch_and_size_are_open(made, canonical, shape):
    x = torch.randn(shape)
    for found, wanted in zip(made[1](x), canonical(x), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0.02)  # two steps of the output


def test_a_tensor_that_is_not_contiguous_is_read_right(made):
    x = torch.randn(2, 6, 6, 3).permute(0, 3, 1, 2)
    assert not x.is_contiguous()
    assert torch.equal(made[1](x)[0], made[1](x.contiguous())[0])


def test_an_input_that_needs_gradients_is_read_too(made):
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(made[1](x.clone().requires_grad_())[0], made[1](x)[0])


def test_results_share_no_memory(made):
    x = torch.randn(2, 3, 6, 6)
    first, second = made[1](x), made[1](x)
    kept = [value.clone() for value in second]
    for value in first:
        value.add_(1)  # the constant and the input among them
    assert all(torch.equal(value, before) for value, before in zip(second, kept, strict=True))
    assert all(torch.equal(value, before) for value, before in zip(made[1](x), kept, strict=True))


def test_a_result_outlives_its_engine():
    torch.manual_seed(1)
    x = torch.randn(4, 8)
    compiled = fxquant.compile(nn.Linear(8, 8).eval(), "int8", calibration_data=[(x,)], target="onednn")
    engine = build(compiled.canonical, (x,), threads=1)
    (result,) = engine(x)
    kept = result.clone()
    del engine
    assert torch.equal(result, kept)


@pytest.mark.parametrize(
    ("x", "told"),
    [
        (torch.zeros(2, 3, 6, 6, dtype=torch.float64), "takes torch.float32, not torch.float64"),
        (torch.zeros(2, 3, 6, 6, dtype=torch.bfloat16), "not torch.bfloat16"),
        (torch.zeros(3, 6, 6), "Invalid rank"),
        (torch.zeros(2, 4, 6, 6), "QLinearConv"),
    ],
)
def test_what_the_graph_does_not_take_is_a_runtime_error(made, x, told, capfd):
    with pytest.raises(RuntimeError, match=told):
        made[1](x)
    assert capfd.readouterr() == ("", "")


def test_threads_may_call_it_at_once(made):
    inputs = [torch.randn(2, 3, 6, 6) for _ in range(8)]
    wanted = [made[1](x)[0] for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda x: made[1](x)[0], inputs))
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_a_copy_shares_the_session(made):
    assert copy.deepcopy(made[1]) is made[1]


class BothWays(nn.Module):
    """Its last states go through a layer that is not quantized at each step."""

    def __init__(self):
        super().__init__()
        self.gru, self.fc = nn.GRU(8, 10, 2, batch_first=True, bidirectional=True), nn.Linear(20, 16)

    def forward(self, x):
        _, h = self.gru(x)
        return torch.tanh(self.fc(torch.cat([h[-2], h[-1]], 1))), h


def test_a_recurrent_layer_that_rounds_less_than_the_canonical_one_is_no_fault():
    torch.manual_seed(0)
    x = torch.randn(16, 9, 8)
    compiled = fxquant.compile(BothWays().eval(), "int8-dynamic", example_inputs=(x,), target="onnxruntime")
    assert compiled.target == "onnxruntime", str(compiled.ledger)
