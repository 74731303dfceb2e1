"""Numbers per node on top of a picture: SQNR, latency, size. In words, and as a second visual channel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fxquant.graphs.snapshot import NodeRecord


@dataclass(frozen=True)
class Overlay:
    """Values by node name, site (origin id) or module path, with what they are.

    `combine` says how a module's value comes from its nodes': 'min', 'max' or 'sum'. `is_low_bad`: small values are
    the ones to look at (SQNR); else large ones are.
    """

    values: Mapping[str, float]
    name: str = ""
    unit: str = ""
    combine: str = "sum"
    is_low_bad: bool = False

    @classmethod
    def sqnr(cls, values: Mapping[str, float]) -> Overlay:
        """Signal to quantization noise in dB; a module is as good as its worst node."""
        return cls(values, "SQNR", "dB", "min", is_low_bad=True)

    @classmethod
    def latency(cls, values: Mapping[str, float]) -> Overlay:
        """Milliseconds."""
        return cls(values, "latency", "ms")

    @classmethod
    def size(cls, values: Mapping[str, float]) -> Overlay:
        """Bytes."""
        return cls(values, "size", "bytes")

    def of(self, members: Iterable[NodeRecord]) -> float | None:
        """The value of a box; None where none of its nodes has one. A value counts once, whatever it is found by."""
        found = {key: self.values[key] for node in members for key in self._keys(node)}
        known = [value for value in found.values() if value == value]
        if not known:
            return None
        return sum(known) if self.combine == "sum" else min(known) if self.combine == "min" else max(known)

    def _keys(self, node: NodeRecord) -> tuple[str, ...]:
        own = (node.name, *node.origins[:1], *((node.target,) if node.op == "call_module" else ()))
        first = next((key for key in own if key in self.values), None)
        return () if first is None else (first,)

    def text(self, value: float) -> str:
        """'SQNR 31.2 dB', 'size 9.4 KB'."""
        return " ".join(filter(None, (self.name, _amount(value, self.unit))))

    def scaled(self, values: Iterable[float | None]) -> list[float | None]:
        """Each value's place between the best (0) and the worst (1) of them; infinite ones lie at the ends."""
        given = list(values)
        finite = [value for value in given if value is not None and abs(value) != float("inf")]
        low, high = min(finite, default=0.0), max(finite, default=0.0)
        return [None if value is None else self._share(value, low, high) for value in given]

    def _share(self, value: float, low: float, high: float) -> float:
        if high <= low:
            share = 0.5 if low == value else float(value > low)
        else:
            share = min(1.0, max(0.0, (value - low) / (high - low)))
        return 1.0 - share if self.is_low_bad else share


def _amount(value: float, unit: str) -> str:
    if unit != "bytes":
        return f"{value:.4g} {unit}".rstrip()
    for name, size in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g} {name}"
    return f"{value:.0f} B"
