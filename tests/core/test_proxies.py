"""What forward() may ask of a traced value in plain Python, and gets answered as an eager run answers it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from fxquant.errors import UntraceableError
from support.asserts import assert_same, untouched
from support.tracing import call, trace


class Asks(nn.Module):
    """Steered by `ask(self, x)`; has a parameter, flags in buffers, and a buffer that is counted up."""

    def __init__(self, ask) -> None:
        super().__init__()
        self.ask, self.fc, self.ones = ask, nn.Linear(4, 4), (1,)
        self.register_buffer("kinds", torch.tensor([1.0, 2.0, 3.0]))
        self.register_buffer("rows", torch.tensor(2))
        self.register_buffer("scale", torch.tensor(0.5))

    def forward(self, x):
        return self.ask(self, x)


def _index(self, x):
    return x[:, : range(5)[self.rows]]


def _writes_and_asks(self, x):
    self.rows.add_(1)
    return x * int(self.rows)


@pytest.mark.parametrize(
    "ask",
    [
        lambda self, x: x.reshape(-1) if self.fc.weight.dim() == 2 else x,
        lambda self, x: x * self.fc.weight.numel() + self.fc.weight.nelement(),
        lambda self, x: x * 2 if self.fc.weight.is_floating_point() and not self.fc.weight.is_complex() else x,
        lambda self, x: x * len(self.kinds),
        lambda self, x: sum(x * kind for kind in self.kinds),
        lambda self, x: x * self.fc.weight.size()[0] + self.fc.weight.size(1),
        lambda self, x: x * float(self.scale) + int(self.rows) + self.scale.item(),
        _index,
        lambda self, x: x.view(*(x.shape + self.ones)),
        lambda self, x: x.view(*(self.ones + x.size())) if len(x.size()[1:]) == 1 else x,
        lambda self, x: x + x.ndim + x.dim(),
        lambda self, x: x * 2 if torch.is_tensor(x) and not torch.is_tensor(2) else x,
        lambda self, x: x * 3 if isinstance(self.ones, tuple) and isinstance(self.fc, nn.Module) else x,
        lambda self, x: self.fc(x) if isinstance(x, (torch.Tensor, list)) and not isinstance(x.shape[0], torch.Tensor) else x,
    ],
)  # fmt: skip
def test_a_plain_answer_is_the_one_of_an_eager_run(ask):
    torch.manual_seed(0)
    model, x = Asks(ask).eval(), torch.randn(2, 4)
    with untouched(model):
        program, _ = trace(model, x)
    assert_same(call(program, x), model(x))


@pytest.mark.parametrize("ask", [_writes_and_asks, lambda self, x: [row * 2 for row in x], lambda self, x: x * len(x)])
def test_an_answer_that_would_differ_at_run_time_is_refused(ask):
    """A buffer that forward() writes to, and the batch size: a constant of the trace, but not of the model."""
    with pytest.raises(UntraceableError):
        trace(Asks(ask).eval(), torch.randn(2, 4))


def _branches(x: torch.Tensor) -> torch.Tensor:
    if bool(x.sum() > 0):
        return x * 2
    return x - 1


def _scripted() -> Callable[[torch.Tensor], torch.Tensor]:
    with pytest.warns(DeprecationWarning):
        return torch.jit.script(_branches)


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


@pytest.mark.parametrize("make", [_scripted, lambda: lambda x: _Doubled.apply(x)], ids=["script", "autograd"])
def test_a_function_without_python_is_one_call_of_the_graph_and_runs_at_once_on_constants(make):
    function = make()
    model = Asks(lambda self, x: function(x) + function(torch.ones(4))).eval()
    program, _ = trace(model, torch.ones(2, 4))
    for x in (torch.ones(2, 4), -torch.ones(2, 4)):
        assert_same(call(program, x), model(x))
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    assert len(calls) == 2, f"{calls}: the call on x, and the sum with a constant"
