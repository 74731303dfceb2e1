"""The graphs among which placement chooses, each with a call that runs it. The first one has everything in int8."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import fx

QUANTIZED, PLACED, PLAIN = "everything int8", "placed", "everything float"

WHOLE = "the whole model is faster in float"  # until it is known by how much


@dataclass(frozen=True)
class Contest:
    """Canonical graphs by name, and their calls."""

    graphs: Mapping[str, fx.GraphModule]
    calls: Mapping[str, Callable[[], object]]


def in_words(seconds: float) -> str:
    """'1.20 ms', '35 µs'."""
    return f"{seconds * 1e3:.2f} ms" if abs(seconds) >= 1e-3 else f"{seconds * 1e6:.3g} µs"
