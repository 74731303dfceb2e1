"""Latency of all candidates at each batch size and thread count: they take turns, on the same rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack

import torch
from torch import nn

from fxquant.comparing.data import EvaluationData, call_on, of_size
from fxquant.comparing.rows import Latency
from fxquant.comparing.running import same_buffers
from fxquant.comparing.settings import Settings
from fxquant.comparing.timing import interleaved_within
from fxquant.ledger import Ledger
from fxquant.structure import copied

Timed = tuple[tuple[Latency, ...], tuple[str, ...]]  # and what is to be said of it


def timed(
    modules: Mapping[str, nn.Module], data: EvaluationData, settings: Settings, ledger: Ledger
) -> dict[str, Timed]:
    """For each module its latencies, and a note for each batch size on which it cannot run."""
    found: dict[str, list[Latency]] = {name: [] for name in modules}
    notes: dict[str, list[str]] = {name: [] for name in modules}
    if settings.seconds > 0:
        with ExitStack() as stack, torch.no_grad():
            for module in modules.values():
                stack.enter_context(same_buffers(module))
            for batch_size, threads in settings.pairs:
                calls = _calls(modules, batch_size, data, notes, ledger)
                share = settings.seconds / len(settings.pairs)
                for name, timing in interleaved_within(calls, seconds=share, threads=threads).items():
                    spread = (timing.median, *timing.quartiles, len(timing.seconds))
                    found[name].append(Latency(batch_size, threads, *spread))
    return {name: (tuple(found[name]), tuple(dict.fromkeys(notes[name]))) for name in modules}


def _calls(
    modules: Mapping[str, nn.Module],
    batch_size: int,
    data: EvaluationData,
    notes: Mapping[str, list[str]],
    ledger: Ledger,
) -> dict[str, Callable[[], object]]:
    """One call of each module that can run on so many rows; each has rows of its own, that it may write to."""
    batch, rows = of_size(data, batch_size)
    if rows < batch_size:
        ledger.notice("FXQ141", f"the data has {rows} rows: they are repeated for batches of {batch_size}")
    calls: dict[str, Callable[[], object]] = {}
    for name, module in modules.items():
        call = call_on(module, copied(batch), data)
        try:
            call()
        except Exception as error:  # a model may insist on its batch size, in whatever words
            notes[name].append(f"not timed at batch {batch_size}: {type(error).__name__}: {error}")
        else:
            calls[name] = call
    return calls
