"""A progress bar on stderr, where that is a terminal; nothing anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def tracked(items: Iterable[T], *, total: int | None, description: str) -> Iterator[T]:
    """The items, with a bar that follows them."""
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console  # costs 50 ms, and only a terminal needs it
    from rich.progress import track

    yield from track(items, description, total=total, console=Console(stderr=True), transient=True)
