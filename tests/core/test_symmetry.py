"""The price of a zero point of 0, and which ranges are worth it."""

from __future__ import annotations

import math

import pytest
import torch

from fxquant.symmetry import price_db, symmetric_if_cheap


@pytest.mark.parametrize(
    ("low", "high", "is_cheap"),
    [
        (-4.0, 4.0, True),
        (-4.0, 4.9, True),
        (-5.0, 4.0, True),
        (-4.0, 6.0, False),
        (-0.28, 8.0, False),  # SiLU
        (0.0, 6.0, False),  # uint8 has the zero point 0 here
        (2.0, 6.0, False),
        (-3.0, -1.0, False),
        (0.0, 0.0, False),
    ],
)
def test_nearly_even_ranges_are_cheap(low, high, is_cheap):
    assert symmetric_if_cheap(low, high) is is_cheap


def test_the_price_is_that_of_the_rounding_noise():
    x = torch.linspace(-3, 6, 1_000_003, dtype=torch.float64)
    noise = [float((x - (x / step).round() * step).square().mean()) for step in (9 / 255, 12 / 255)]
    assert price_db(-3.0, 6.0) == pytest.approx(10 * math.log10(noise[1] / noise[0]), abs=0.02)


def test_the_price_is_between_nothing_and_a_bit():
    assert price_db(-1.0, 1.0) == 0.0 and price_db(0.0, 0.0) == 0.0
    assert price_db(0.0, 1.0) == pytest.approx(20 * math.log10(2))
    assert price_db(-7.0, -1.0) == price_db(1.0, 7.0) == price_db(0.0, 7.0)
