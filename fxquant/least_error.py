"""The range with which a tensor's values are quantized at the least squared error, found from a histogram.

    error(low, high) = Σ count · (x - dequantize(quantize(x)))²      scale and zero point as this range gives them

A narrower range has a smaller step for all values inside and cuts those outside: of heavy tails it gains 1 to 3 dB
over the extremes, of short ones (behind a ReLU6) it gives the extremes back. The search shrinks both ends together by
factors of 2^(-1/4), then each on its own, then in steps a sixth as large: about 90 ranges, each over the filled bins.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_COARSE = torch.arange(17, dtype=torch.float64).div(-4.0).exp2()  # 1 to 1/16
_FINE = torch.arange(-5, 6, dtype=torch.float64).div(24.0).exp2()

Ends = tuple[float, float]


def least_error_range(
    middles: Tensor, counts: Tensor, low: float, high: float, *, steps: int, is_symmetric: bool = False
) -> Ends:
    """The best range within [low, high], which holds zero; `steps` is one less than there are codes.

    middles, counts: float64, one for each bin. A symmetric range has its zero in the middle.
    """
    if not counts.numel() or low == high:
        return low, high
    if is_symmetric:
        high = max(-low, high)
        low = -high

    def shrunk(best: Ends, factors: Tensor, ends: Ends) -> Ends:
        """The best of `best`, with the chosen ends (1 or 0 each) multiplied by each factor."""
        lows, highs = (
            (end * factors).clamp(*sorted((0.0, most))) if is_moved else torch.full_like(factors, end)
            for end, is_moved, most in zip(best, ends, (low, high), strict=True)
        )
        chosen = int(errors(middles, counts, lows, highs, steps).argmin())
        return float(lows[chosen]), float(highs[chosen])

    return _searched(shrunk, (low, high), is_symmetric=is_symmetric)


def _searched(shrunk: Callable[[Ends, Tensor, Ends], Ends], best: Ends, *, is_symmetric: bool) -> Ends:
    best = shrunk(best, _COARSE, (1, 1))
    if is_symmetric or 0.0 in best:
        return shrunk(best, _FINE, (1, 1))
    for factors in (_COARSE, _FINE):
        for ends in ((1, 0), (0, 1)):
            best = shrunk(best, factors, ends)
    return best


def errors(middles: Tensor, counts: Tensor, lows: Tensor, highs: Tensor, steps: int) -> Tensor:
    """The squared error of each range. float64, one for each."""
    scale = (highs - lows).clamp(min=torch.finfo(torch.float64).tiny).div(steps).unsqueeze(1)
    zero = (-lows.unsqueeze(1) / scale).round_()
    codes = middles.div(scale).round_()
    codes = torch.maximum(torch.minimum(codes, steps - zero), -zero)
    return codes.mul_(scale).sub_(middles).square_() @ counts
