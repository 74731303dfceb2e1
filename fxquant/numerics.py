"""How far a quantized result is from its reference: the signal-to-quantization-noise ratio."""

from __future__ import annotations

import math

import torch

from fxquant.errors import UsageError


def sqnr_db(reference: torch.Tensor, actual: torch.Tensor) -> float:
    """Signal-to-quantization-noise ratio of `actual` against `reference`, in decibels.

        sqnr_db = 10 · log10( Σ reference² / Σ (reference − actual)² )

    Both tensors have the same shape; any real dtype, summed in float64. Each more bit is worth about 6 dB
    (W. R. Bennett, "Spectra of quantized signals", 1948; Widrow and Kollár, "Quantization Noise", 2008).

    `inf` when they are equal, `-inf` when there is noise and no signal. A value that is not finite on one side only
    has infinite noise (`-inf`); places where both hold the same infinity, or both NaN, agree and do not count.
    Raises UsageError FXQ120 when the shapes differ: broadcasting would compare the wrong numbers.
    """
    if reference.shape != actual.shape:
        raise UsageError(
            "FXQ120",
            f"cannot compare a result of shape {list(actual.shape)} with a reference of shape {list(reference.shape)}",
            hint="compare outputs of the same inputs, leaf by leaf",
        )
    signal, result = (tensor.detach().to("cpu", torch.float64).flatten() for tensor in (reference, actual))
    power, noise = _powers(signal, result)
    if math.isfinite(power) and math.isfinite(noise):  # then every value is, and no mask is needed
        return _decibels(power, noise)
    finite = signal.isfinite() & result.isfinite()
    agrees = (signal == result) | (signal.isnan() & result.isnan())
    if not bool((finite | agrees).all()):
        return -math.inf
    signal, result = signal[finite], result[finite]
    return _decibels(*_powers(signal, result))


def _powers(signal: torch.Tensor, result: torch.Tensor) -> tuple[float, float]:
    return float(signal.square().sum()), float((signal - result).square_().sum())


def _decibels(power: float, noise: float) -> float:
    if noise == 0.0:
        return math.inf
    if power == 0.0:
        return -math.inf
    return 10.0 * (math.log10(power) - math.log10(noise))
