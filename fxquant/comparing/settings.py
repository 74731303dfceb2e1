"""How latency is timed: at which batch sizes, with how many threads, for how long."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from fxquant.errors import UsageError

MOST_THREADS = 1024
SECONDS = 5.0
MOST_SECONDS = 86_400


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
    if not is_number or not 0 <= seconds <= MOST_SECONDS:
        told = f"how long to time in all, such as 5.0, and at most {MOST_SECONDS:,}; 0 times nothing"
        raise UsageError("FXQ111", f"seconds={seconds!r}", hint=told)
    return Settings(tuple((size, count) for count in counts for size in sizes), float(seconds))


def check_choices(*, targets: Any, is_higher_better: Any, compile_options: Any) -> None:
    """FXQ111 for the first of these that is of another kind than compare() takes."""
    names = (targets,) if isinstance(targets, str) else targets
    is_series = isinstance(names, Collection) and not isinstance(names, torch.Tensor)
    if targets is not None and not (is_series and all(isinstance(name, str) for name in names)):
        raise UsageError("FXQ111", f"targets={targets!r:.80}", hint="names of engines, such as ('x86', 'onednn')")
    if is_higher_better is not None and not isinstance(is_higher_better, bool):
        raise UsageError("FXQ111", f"is_higher_better={is_higher_better!r:.80}", hint="True, or False for a loss")
    if compile_options is not None and not isinstance(compile_options, Mapping):
        told = "a dict of options of fxquant.compile, such as {'leaf_modules': [...]}"
        raise UsageError("FXQ111", f"compile_options={compile_options!r:.80}", hint=told)


def _counts(name: str, given: Any, *, most: int) -> tuple[int, ...]:
    told = (given,) if isinstance(given, int) else given
    found = tuple(told) if isinstance(told, Iterable) and not isinstance(told, (str, bytes, torch.Tensor)) else None
    is_whole = found is not None and all(isinstance(count, int) and not isinstance(count, bool) for count in found)
    if found is None or not is_whole or not all(1 <= count <= most for count in found):
        raise UsageError("FXQ111", f"{name}={given!r}", hint=f"whole numbers from 1 to {most}, such as (1, 16)")
    return tuple(dict.fromkeys(found))
