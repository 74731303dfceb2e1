"""The Pareto front: the points that no other one beats in one respect without losing in another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def front(points: Mapping[str, Sequence[float]]) -> tuple[str, ...]:
    """Names of the points that no other dominates, in their order. In each coordinate lower is better.

    b dominates a where b ≤ a in each coordinate and b < a in one; equal points stay together.
    """
    return tuple(name for name, own in points.items() if not any(_dominates(other, own) for other in points.values()))


def _dominates(other: Sequence[float], own: Sequence[float]) -> bool:
    pairs = list(zip(other, own, strict=True))
    return all(left <= right for left, right in pairs) and any(left < right for left, right in pairs)
