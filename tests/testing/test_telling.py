"""Small tensors as code that builds them, large ones by shape and range; and what the summary of a run says."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fxquant.testing import Tolerance
from fxquant.testing.statistics import Statistics
from fxquant.testing.telling import told


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=8))
def test_small_floats_can_be_pasted_to_the_bit(values):
    tensor = torch.tensor(values)
    assert torch.equal(eval(told(tensor), {"torch": torch}), tensor)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.int32, torch.bool], ids=str)
def test_the_dtype_is_kept(dtype):
    tensor = torch.ones(2, 3).to(dtype)
    again = eval(told(tensor), {"torch": torch})
    assert again.dtype is dtype and torch.equal(again, tensor)


def test_what_is_not_finite_can_be_pasted_too():
    tensor = torch.tensor([math.nan, math.inf, -math.inf, 1.0])
    assert torch.equal(eval(told(tensor), {"torch": torch}).nan_to_num(5.0), tensor.nan_to_num(5.0))


def test_large_tensors_are_told_by_shape_and_range():
    assert told(torch.linspace(-1, 2, 100).reshape(4, 25)) == "float32[4×25] from -1 to 2"
    assert told(torch.arange(100) < 30) == "bool[100], 30 of them true"
    assert told(torch.empty(0, 3)) == "torch.empty((0, 3), dtype=torch.float32)"


def test_the_worst_of_each_number_is_kept():
    found = Statistics("test_mine")
    found.add(Tolerance(0.1, 0.25, 40.0, None))
    found.add(Tolerance(0.2, None, 30.0, 0.5))
    found.add(Tolerance(0.0, 0.125, math.inf, 0.25))
    assert str(found) == (
        "test_mine: 3 inputs held, SQNR at least 30.0 dB, error at most 0.2, within the bound of each, "
        "metric down by at most 0.5"
    )


def test_numbers_that_were_not_measured_are_not_told():
    found = Statistics("test_mine")
    found.add(Tolerance(0.1, None, 40.0, None))
    assert str(found) == "test_mine: 1 input held, SQNR at least 40.0 dB, error at most 0.1"
