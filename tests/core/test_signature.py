"""Calls of a captured model: what fits goes through at once, what does not is told by the argument's name."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from torch import nn

from fxquant.capture import capture
from fxquant.errors import ExampleInputError, FxQuantError
from fxquant.ledger import Ledger
from fxquant.request import CaptureRequest
from support.tracing import call, trace


class Keyword(nn.Module):
    def forward(self, x, /, y, *, z, scale: float = 1.0, flag: bool = False):
        return x + y * z * scale


class Optional(nn.Module):
    def forward(self, x, mask=None, mode="sum"):
        return x if mask is None else x * mask


class Many(nn.Module):
    def forward(self, *values, **named):
        return sum(values) + sum(named.values())


def code_of(function) -> tuple[str, str]:
    with pytest.raises(FxQuantError) as caught:
        function()
    return caught.value.code, str(caught.value)


def test_positional_tensors_are_not_bound_at_each_call(monkeypatch):
    one, x = torch.ones(1), torch.ones(3)
    program, _ = trace(Optional(), x)
    monkeypatch.setattr(inspect.Signature, "bind", None)
    assert program.signature.leaves((x,), {}) == (x,)
    assert program.signature.rebuild([one]) is one


def test_keyword_only_and_positional_only():
    ones = torch.ones(2)
    program, _ = trace(Keyword(), ones, ones, z=ones)
    assert torch.equal(call(program, ones, y=ones * 2, z=ones * 3), ones * 7)
    assert torch.equal(call(program, ones, ones * 2, z=ones * 3, scale=1.0), ones * 7)


def test_without_examples_defaults_are_fixed_and_the_rest_are_tensors():
    ones = torch.ones(2)
    program = capture(CaptureRequest(Keyword()), Ledger())
    assert [leaf.path for leaf in program.signature.tensor_leaves] == ["x", "y", "z"]
    assert program.example_leaves is None
    assert torch.equal(call(program, ones, ones, z=ones), ones * 2)


def test_var_arguments():
    ones = torch.ones(2)
    program, _ = trace(Many(), ones, ones, a=ones)
    assert [leaf.path for leaf in program.signature.tensor_leaves] == ["values[0]", "values[1]", "named['a']"]
    assert torch.equal(call(program, ones, ones, a=ones), ones * 3)
    code, text = code_of(lambda: call(program, ones, a=ones))
    assert code == "FXQ107" and "'values[1]' missing" in text
    code, text = code_of(lambda: capture(CaptureRequest(Many()), Ledger()))
    assert code == "FXQ212" and "*values" in text and "example_inputs" in text


@pytest.mark.parametrize(
    ("args", "kwargs", "code", "told"),
    [
        ((), {}, "FXQ107", "forward(x, mask=None, mode='sum')"),
        ((1.5,), {}, "FXQ107", "argument 'x' must be a tensor, not 1.5 (float)"),
        ((torch.ones(2),), {"maks": 1}, "FXQ107", "maks"),
        (([torch.ones(2)],), {}, "FXQ107", "'x' missing, 'x[0]' too many"),
        ((torch.ones(2),), {"mode": "mean"}, "FXQ108", "argument 'mode' was fixed at 'sum'"),
        ((torch.ones(2), torch.ones(2)), {}, "FXQ108", "argument 'mask' was fixed at None"),
    ],
)
def test_calls_that_do_not_fit(args, kwargs, code, told):
    program, _ = trace(Optional(), torch.ones(2))
    found, text = code_of(lambda: call(program, *args, **kwargs))
    assert found == code and told in text and "hint:" in text


def test_a_dict_in_another_order_and_a_list_for_a_tuple_fit():
    class Model(nn.Module):
        def forward(self, batch, pair):
            return batch["a"] - batch["b"] + pair[0] / pair[1]

    a, b = torch.ones(1), torch.ones(1) * 2
    program, _ = trace(Model(), {"a": a, "b": b}, (a, b))
    assert float(call(program, {"b": b, "a": a}, [a, b])) == -0.5
    code, text = code_of(lambda: call(program, {"a": a, "c": b}, (a, b)))
    assert code == "FXQ107" and "batch['b']" in text and "batch['c']" in text


def test_names_are_distinct_identifiers():
    class Model(nn.Module):
        def forward(self, a, a_0, b):
            return a[0] + a_0 + b["class"] + b["größe"] + b["gr.e"] + b[1]

    one = torch.ones(1)
    program, _ = trace(Model(), [one], one, {"class": one, "größe": one, "gr.e": one, 1: one})
    names = [leaf.name for leaf in program.signature.tensor_leaves]
    assert len(set(names)) == 6 and all(name.isidentifier() for name in names)
    assert float(call(program, [one], one, {"class": one, "größe": one, "gr.e": one, 1: one})) == 6


def test_a_keyword_key_alone_is_no_placeholder_name():
    class Model(nn.Module):
        def forward(self, **kw):
            return kw["lambda"] + kw["input"]

    program, _ = trace(Model(), **{"lambda": torch.ones(1), "input": torch.ones(1)})
    assert float(call(program, **{"lambda": torch.ones(1), "input": torch.ones(1)})) == 2


def test_nan_is_the_same_constant():
    class Model(nn.Module):
        def forward(self, x, fill=float("nan")):
            return x

    program, _ = trace(Model(), torch.ones(1), float("nan"))
    assert call(program, torch.ones(1), float("nan")) is not None


def test_an_example_that_does_not_bind():
    with pytest.raises(ExampleInputError, match=r"FXQ107 .*too many") as caught:
        trace(Optional(), torch.ones(1), None, "sum", 4)
    assert "forward(x, mask=None, mode='sum')" in str(caught.value)


def test_an_array_is_no_constant_that_a_call_could_repeat():
    class Model(nn.Module):
        def forward(self, x, table=None):
            return x + 1

    table = np.arange(2)
    program, _ = trace(Model(), torch.ones(2), table=table)
    assert torch.equal(call(program, torch.ones(2), table=table), torch.full((2,), 2.0))  # the very same one
    code, text = code_of(lambda: call(program, torch.ones(2), table=table.copy()))
    assert code == "FXQ108" and "'table' was fixed at array([0, 1])" in text


def test_an_argument_that_is_left_out_beside_a_fixed_one_is_told():
    class Model(nn.Module):
        def forward(self, x, y, mode):
            return x + y if mode == "sum" else x

    ledger = Ledger()
    program = capture(CaptureRequest(Model(), (torch.ones(2), torch.ones(2)), concrete_args={"mode": "sum"}), ledger)
    code, text = code_of(lambda: call(program, torch.ones(2)))
    assert code == "FXQ107" and "missing a required argument: 'y'" in text


def test_a_forward_without_a_readable_signature_is_refused():
    class Model(nn.Module):
        forward = dict.update  # a function of C

    class Named(nn.Module):
        def forward(self, **named):
            return named["x"]

    code, text = code_of(lambda: capture(CaptureRequest(Named()), Ledger()))
    assert code == "FXQ212" and "**named" in text and "example_inputs" in text
    code, text = code_of(lambda: capture(CaptureRequest(Model()), Ledger()))
    assert code == "FXQ212" and "the signature of Model.forward cannot be read" in text
