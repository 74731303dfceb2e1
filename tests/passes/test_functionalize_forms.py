"""The less usual ways to write in place: dispatcher calls, special methods, flags, lists of tensors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fxquant.errors import MutationError
from fxquant.passes.functionalize import Functionalize
from support.asserts import assert_same, untouched
from support.tracing import call, run_passes

X = torch.linspace(-1, 1, 24).reshape(4, 6)


class Runs(nn.Module):
    def __init__(self, forward) -> None:
        super().__init__()
        self.fc, self._run = nn.Linear(6, 6), forward

    def forward(self, x):
        return self._run(self, x)


def _special_method(self, x):
    y = self.fc(x)
    v = y[:, :3]
    y = y.__iadd__(1)
    return v, y


def _special_item(self, x):
    y = self.fc(x)
    v = y[:, 0]
    y.__setitem__((slice(None), 0), 2.0)
    return v, y


def _flag(self, x):
    y = self.fc(x).detach()
    z = y.requires_grad_(False)
    y.add_(1)
    return y, z


def _dispatcher(self, x):
    y = self.fc(x)
    v = y.view(-1)
    torch.ops.aten.mul_(y, 2)
    torch.ops.aten.add_.Tensor(y, x)
    return v, y


def _torch_function_with_a_method_only(self, x):
    y = self.fc(x)
    v = y[0]
    torch.fill_(y, 0.5)
    return v, y


FORMS = [_special_method, _special_item, _flag, _dispatcher, _torch_function_with_a_method_only]


@pytest.mark.parametrize("forward", FORMS)
def test_later_readers_see_what_was_written(forward):
    model = Runs(forward).eval()
    with untouched(model):
        program, _ = run_passes(Functionalize(), model, X)
    assert_same(call(program, X), model(X))


def test_a_flag_that_is_set_is_no_computation_and_says_so():
    program, ledger = run_passes(Functionalize(), Runs(_flag).eval(), X)
    assert "requires_grad_" not in [node.target for node in program.graph.nodes]
    row = next(row for row in ledger.layers if row.op == "requires_grad_")
    assert (row.effective, row.reason) == (
        "removed",
        "it sets a flag of the tensor, which a graph does not compute with",
    )


def _list_of_tensors(self, x):
    y = self.fc(x)
    torch._foreach_add_([y], 1.0)
    return y


def _list_for_the_dispatcher(self, x):
    y = self.fc(x)
    torch.ops.aten._foreach_mul_([y], 2.0)
    return y


@pytest.mark.parametrize(
    ("forward", "culprit"), [(_list_of_tensors, "_foreach_add_"), (_list_for_the_dispatcher, "_foreach_mul_")]
)
def test_a_write_to_a_list_of_tensors_is_refused_by_name(forward, culprit):
    with pytest.raises(MutationError) as caught:
        run_passes(Functionalize(), Runs(forward).eval(), X)
    assert caught.value.code == "FXQ211" and culprit in str(caught.value) and caught.value.where is not None
