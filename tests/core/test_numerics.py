"""SQNR: known values, laws, and what is not finite."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from fxquant.errors import UsageError
from fxquant.numerics import sqnr_db
from support.asserts import untouched
from support.data import generator

INF, NAN = math.inf, math.nan


def test_a_tenth_of_the_amplitude_in_noise_is_twenty_decibels():
    reference = torch.tensor([3.0, -4.0])
    assert sqnr_db(reference, reference * 1.1) == pytest.approx(20.0, abs=1e-4)


def test_eight_bits_of_a_full_range_ramp_give_the_textbook_fifty_decibels():
    ramp = torch.linspace(-1, 1, 100_001)
    step = 2 / 256
    assert sqnr_db(ramp, (ramp / step).round() * step) == pytest.approx(20 * math.log10(2**8), abs=0.05)


@pytest.mark.parametrize(
    ("reference", "actual", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.0], INF),
        ([], [], INF),
        ([0.0, 0.0], [0.0, 0.0], INF),
        ([0.0, 0.0], [0.0, 1e-9], -INF),
        ([1.0, 2.0], [1.0, NAN], -INF),
        ([1.0, 2.0], [INF, 2.0], -INF),
        ([1.0, INF], [1.0, 2.0], -INF),
        ([1.0, INF], [1.0, -INF], -INF),
        ([1.0, INF, NAN], [1.0, INF, NAN], INF),
        ([1.0, NAN], [0.0, NAN], 0.0),
    ],
)
def test_edges(reference, actual, expected):
    assert sqnr_db(torch.tensor(reference), torch.tensor(actual)) == expected


def test_float16_and_integers_are_summed_without_overflow():
    big = torch.full((1000,), 60_000.0, dtype=torch.float16)
    assert sqnr_db(big, big / 2) == pytest.approx(20 * math.log10(2), abs=1e-6)
    assert sqnr_db(torch.tensor([100, 100], dtype=torch.int8), torch.tensor([90, 90])) == pytest.approx(20.0)
    assert math.isfinite(sqnr_db(torch.tensor([3e38]), torch.tensor([-3e38])))


def test_shapes_that_only_broadcast_are_refused_by_name():
    with untouched(), pytest.raises(UsageError, match=r"\[2\].*\[2, 2\]") as caught:
        sqnr_db(torch.ones(2, 2), torch.ones(2))
    assert caught.value.code == "FXQ120"


@given(seed=st.integers(0, 2**20), power=st.integers(-20, 20), noise=st.floats(1e-6, 1.0))
@example(seed=0, power=0, noise=1.0)
def test_scaling_both_sides_changes_nothing_and_twice_the_noise_costs_six_decibels(seed, power, noise):
    source = generator(seed)
    reference, error = torch.randn(2, 64, generator=source, dtype=torch.float64)
    once = sqnr_db(reference, reference + noise * error)
    factor = 2.0**power
    assert sqnr_db(factor * reference, factor * (reference + noise * error)) == pytest.approx(once, abs=1e-9)
    assert sqnr_db(reference, reference + 2 * noise * error) == pytest.approx(once - 20 * math.log10(2), abs=1e-6)
