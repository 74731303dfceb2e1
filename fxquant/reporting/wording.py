"""How the report says numbers and names: fixed digits, units, and no name longer than a page can bear."""

from __future__ import annotations

import math

MOST_CHARACTERS = 240  # of a name or reason that is shown; a module may be called anything
_UNITS = "kMGTP"


def short(text: str, most: int = MOST_CHARACTERS) -> str:
    """The text on one line, its middle left out where it is longer than `most`."""
    plain = " ".join(text[: 4 * most].split()) if len(text) > 4 * most else " ".join(text.split())
    if len(plain) <= most and len(text) <= 4 * most:
        return plain
    half = (most - 1) // 2
    return f"{plain[:half]}…{' '.join(text[-4 * half :].split())[-half:]}"


def decibels(value: float | None) -> str:
    """'31.2 dB'; '∞ dB' for no error at all, '–' where there is no number."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞ dB" if value > 0 else "−∞ dB"
    return f"{value:.1f} dB".replace("-", "−")


def size(count: int) -> str:
    """'97.8 MB', in powers of 1000."""
    return f"{count} B" if count < 1000 else f"{_scaled(count)}B"


def quantity(count: int) -> str:
    """'25.6 M', '4.09 G'."""
    return f"{count}" if count < 1000 else _scaled(count).rstrip()


def _scaled(count: float) -> str:
    power = 1
    while count >= 999.5 * 1000**power and power < len(_UNITS):
        power += 1
    return f"{count / 1000**power:.3g} {_UNITS[power - 1]}"


def duration(seconds: float) -> str:
    """'523 ms', '1.25 s', '84 µs'."""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    if seconds >= 1e-3:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds * 1e6:.3g} µs"


def number(value: float) -> str:
    """Four significant digits, with a real minus sign."""
    return f"{value:.4g}".replace("-", "−")


def share(value: float) -> str:
    """'0.12 %'; '< 0.01 %' for what would round to nothing."""
    if 0 < value < 1e-4:
        return "< 0.01 %"
    return f"{100 * value:.2f} %" if value else "0 %"


def sort_key(value: float | None) -> str:
    """A number as the page's script reads it: NaN and None last, infinities at their end."""
    if value is None or math.isnan(value):
        return ""
    return repr(max(-1e308, min(1e308, float(value))))
