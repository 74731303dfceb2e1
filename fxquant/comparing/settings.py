"""How latency is timed: at which batch sizes, with how many threads, for how long."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from fxquant.errors import UsageError

MOST_THREADS = 1024
SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Settings:
    """`pairs` are (batch size, threads); `seconds` is for all candidates and pairs together, 0 for no timing."""

    pairs: tuple[tuple[int, int], ...]
    seconds: float

    @property
    def largest(self) -> int:
        """The largest batch size; 0 where none was asked for."""
        return max((batch for batch, _ in self.pairs), default=0)


def read_settings(batch_sizes: Any, threads: Any, seconds: Any) -> Settings:
    """Every batch size with every number of threads. FXQ111 for what means nothing."""
    sizes = _counts("batch_sizes", batch_sizes, most=2**31)
    counts = (torch.get_num_threads(),) if threads is None else _counts("threads", threads, most=MOST_THREADS)
    is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not is_number or not math.isfinite(seconds) or seconds < 0:
        raise UsageError("FXQ111", f"seconds={seconds!r}", hint="how long to time in all, such as 5.0; 0 times nothing")
    return Settings(tuple((size, count) for count in counts for size in sizes), float(seconds))


def _counts(name: str, given: Any, *, most: int) -> tuple[int, ...]:
    told = (given,) if isinstance(given, int) else given
    found = tuple(told) if isinstance(told, Iterable) and not isinstance(told, (str, bytes, torch.Tensor)) else None
    is_whole = found is not None and all(isinstance(count, int) and not isinstance(count, bool) for count in found)
    if found is None or not is_whole or not all(1 <= count <= most for count in found):
        raise UsageError("FXQ111", f"{name}={given!r}", hint=f"whole numbers from 1 to {most}, such as (1, 16)")
    return tuple(dict.fromkeys(found))
