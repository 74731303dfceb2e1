"""inputs(): ranges and just outside, dtypes, tokens, keywords, batches that the model takes; FXQ313; the least input."""

from __future__ import annotations

import pytest
import torch
from hypothesis import find, given
from torch import nn

import fxquant
from fxquant.errors import FxQuantError
from fxquant.testing import inputs
from fxquant.testing.ranges import arguments_of


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(50, 4), nn.Linear(4, 2)

    def forward(self, tokens):
        return self.head(self.embedding(tokens).mean(1))


class Fixed(nn.Module):
    """Takes batches of eight alone."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(x).reshape(8, 4)


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, parts, *, shift):
        return self.fc(parts["x"]) + shift


def linear():
    torch.manual_seed(0)
    return fxquant.compile(nn.Sequential(nn.Linear(4, 4)).eval(), "int8", calibration_data=torch.randn(64, 4))


LINEAR = linear()
ARGUMENT = arguments_of(LINEAR).tensors[0]
WIDTH = ARGUMENT.high - ARGUMENT.low


def only(call):
    return call.args[0]


@given(inputs(LINEAR))
def test_floats_lie_in_the_range_and_a_tenth_of_it_beyond(call):
    x = only(call)
    assert x.dtype is torch.float32 and x.shape[1:] == (4,)
    assert ((x >= ARGUMENT.low - 0.1001 * WIDTH) & (x <= ARGUMENT.high + 0.1001 * WIDTH)).all()
    LINEAR(*call.args, **call.kwargs)


@given(inputs(LINEAR, outside=0.0))
def test_with_nothing_outside_all_is_inside(call):
    slack = 1e-6 * WIDTH
    assert ((only(call) >= ARGUMENT.low - slack) & (only(call) <= ARGUMENT.high + slack)).all()


@pytest.mark.parametrize(
    "holds",
    [
        lambda x: bool((x < ARGUMENT.low - 0.05 * WIDTH).any()),
        lambda x: bool((x > ARGUMENT.high + 0.05 * WIDTH).any()),
        lambda x: x.numel() > 1 and x.unique().numel() == x.numel(),
        lambda x: x.numel() > 1 and bool((x == x.flatten()[0]).all()) and float(x.flatten()[0]) != 0,
    ],
    ids=["below", "above", "all different", "all alike"],
)
def test_every_kind_of_values_is_drawn(holds):
    assert find(inputs(LINEAR), lambda call: holds(only(call))) is not None


@pytest.mark.parametrize("size", range(5))
def test_every_batch_is_drawn(size):
    assert find(inputs(LINEAR), lambda call: len(only(call)) == size)


def test_only_batches_that_the_model_takes_are_drawn():
    made = fxquant.compile(Fixed().eval(), "int8", calibration_data=[torch.randn(8, 4)])
    assert arguments_of(made).batches == ()
    assert find(inputs(made), lambda call: True).args[0].shape == (8, 4)


def test_it_shrinks_to_one_row_of_zeros():
    assert torch.equal(only(find(inputs(LINEAR), lambda call: True)), torch.zeros(1, 4))


TOKENS = fxquant.compile(Tokens().eval(), "int8", calibration_data=[torch.tensor([[3, 9, 4]])])
NAMED = fxquant.compile(
    Named().eval(), "int8", calibration_data=[(({"x": torch.randn(8, 4)},), {"shift": torch.randn(8, 4)})]
)


@given(inputs(TOKENS))
def test_tokens_are_those_that_calibration_saw(call):
    tokens = only(call)
    assert tokens.dtype is torch.int64 and ((tokens >= 3) & (tokens <= 9)).all()


@given(inputs(NAMED))
def test_dicts_and_keywords_are_filled(call):
    assert call.args[0]["x"].shape == call.kwargs["shift"].shape
    NAMED(*call.args, **call.kwargs)


def test_while_it_calibrates_nothing_is_drawn():
    calibrating = fxquant.compile(nn.Sequential(nn.Linear(4, 4)).eval(), "int8", example_inputs=torch.ones(1, 4))
    with pytest.raises(FxQuantError) as refused:
        inputs(calibrating)
    assert refused.value.code == "FXQ313"


@pytest.mark.parametrize("probe", [True, False])
def test_a_loaded_model_has_inputs_with_and_without_a_probe(tmp_path, probe):
    LINEAR.save(tmp_path / "a.safetensors", probe=probe)
    loaded = fxquant.load(tmp_path / "a.safetensors")
    found = find(inputs(loaded), lambda call: True)
    assert only(found).shape[1:] == (4,)
    loaded(*found.args, **found.kwargs)
