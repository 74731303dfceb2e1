"""Which signed activations may have a zero point of 0: engines add integers faster without one, but steps get wider.

    affine      step = (high - low) / 255                 all codes are used
    symmetric   step = 2 · max(-low, high) / 255          the shorter side leaves codes unused

Rounding noise goes with the square of the step, so the price in decibels is that of the ratio of the two steps:

    price = 20 · log10(2 · max(-low, high) / (high - low))        0 dB for low = -high, 6 dB for low = 0

Behind a layer norm, a convolution or an addition ranges are nearly even: 0 to 1 dB of that value's own noise, which is
a few hundredths of the whole model's. Behind SiLU, GELU and hard-swish [-0.3, 8] loses 5.7 dB of 8 bits' 48: such
values keep their zero point. A range that does not go below zero has the zero point 0 in uint8 already, for nothing.
"""

from __future__ import annotations

import math

MOST_DB = 1.0  # of one value's rounding noise


def price_db(low: float, high: float) -> float:
    """By how many decibels the rounding noise of [low, high] grows with its zero in the middle. From 0 to 6.02."""
    low, high = min(low, 0.0), max(high, 0.0)
    return 20.0 * math.log10(2.0 * max(-low, high) / (high - low)) if high > low else 0.0


def symmetric_if_cheap(low: float, high: float, most_db: float = MOST_DB) -> bool:
    """Should this range have int8 codes around zero? Never where uint8 has the zero point 0 already."""
    return low < 0.0 and price_db(low, high) <= most_db
