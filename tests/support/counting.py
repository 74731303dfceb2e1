"""How many models and mutations this run of the tests has generated, by kind."""

from __future__ import annotations

from collections import Counter

COUNTS: Counter[str] = Counter()


def counted(kind: str) -> None:
    """One more of this kind."""
    COUNTS[kind] += 1
