"""The data of an evaluation, read once: the same batches for every candidate, whatever a loader does next time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import nn

from fxquant.batches import Batches, Call, Reader, reader_for
from fxquant.comparing.joining import join, pick
from fxquant.errors import EmptyDataError, UsageError
from fxquant.ledger import Ledger
from fxquant.structure import copied, tensors_in

MAX_BATCHES = 128

ForwardFn = Callable[[nn.Module, Any], Any]


@dataclass(frozen=True, slots=True)
class EvaluationData:
    """Batches that stay as they are: each call of a model gets tensors of its own."""

    batches: tuple[Any, ...]
    reader: Reader
    forward_fn: ForwardFn | None = None

    @property
    def is_labelled(self) -> bool:
        """Is each batch an (inputs, labels) pair?"""
        return self.reader.is_labelled

    @property
    def rows(self) -> tuple[int, ...]:
        """How many rows each batch has."""
        return tuple(rows_in(batch) for batch in self.batches)

    def label(self, index: int) -> Any:
        """The labels of a batch that has some."""
        return self.batches[index][1]

    def output(self, model: nn.Module, index: int) -> Any:
        """What a model makes of a batch."""
        with torch.no_grad():
            return call_on(model, copied(self.batches[index]), self, index)()  # a model may write to its inputs

    def call(self, index: int) -> Call:
        """The arguments that a batch stands for, where no forward_fn unpacks it."""
        return self.reader.call(self.batches[index], index)


def call_on(model: nn.Module, batch: Any, data: EvaluationData, index: int = 0) -> Callable[[], Any]:
    """The call of a model that a batch stands for, with nothing left to do but the call."""
    forward_fn = data.forward_fn
    if forward_fn is not None:
        return lambda: forward_fn(model, batch)
    call = data.reader.call(batch, index)
    return lambda: model(*call.args, **call.kwargs)


def read_data(
    model: nn.Module,
    data: Any,
    ledger: Ledger,
    *,
    max_batches: int = MAX_BATCHES,
    forward_fn: ForwardFn | None = None,
    name: str = "data",
) -> EvaluationData:
    """At most `max_batches` of the data, kept. What is left out is notice FXQ319.

    Raises:
        UsageError: FXQ111 for what holds no batches.
        CalibrationError: FXQ312 where the data itself fails, FXQ317 where it holds no row.
    """
    if isinstance(max_batches, bool) or not isinstance(max_batches, int) or not 1 <= max_batches <= sys.maxsize:
        raise UsageError("FXQ111", f"max_batches={max_batches!r}", hint=f"a whole number from 1 to {sys.maxsize}")
    is_held = isinstance(data, (torch.Tensor, Sequence))  # by the caller; what a loader yields, it may write to again
    with closing(Batches(data, name)) as source:
        known = source.length
        read = tuple(batch if is_held else copied(batch) for batch in islice(source, max_batches))
        reader = (
            Reader() if forward_fn is not None else reader_for(model, source, None, Ledger())
        )  # labels are used here
    if not any(rows_in(batch) for batch in read):
        told = "no batch" if not read else f"no row in {len(read)} batch{'es'[: 2 * (len(read) > 1)]}"
        raise EmptyDataError("FXQ317", f"{name} holds {told}", hint="give at least one batch with one row")
    if len(read) == max_batches and (known is None or known > max_batches):
        ledger.notice("FXQ319", f"{name} was read up to max_batches={max_batches}; there may be more of it")
    kept = tuple(batch for batch in read if rows_in(batch))
    return EvaluationData(kept, reader, forward_fn)


def rows_in(batch: Any) -> int:
    """The leading size of its first tensor that has one; 1 where there is none."""
    return next((leaf.shape[0] for leaf in tensors_in(batch) if leaf.dim() > 0), 1)


def of_size(data: EvaluationData, rows: int) -> tuple[Any, int]:
    """A batch of so many rows, and how many different rows are in it: where the data has fewer, they are repeated.

    Rows are the leading dimension of each tensor that has the batch's leading size.
    """
    batch, found = data.batches[0], data.rows[0]
    for more, count in zip(data.batches[1:], data.rows[1:], strict=True):
        if found >= rows:
            break
        joined = join((batch, more), (found, count))
        if joined is not None:
            batch, found = joined, found + count
    return pick(batch, found, torch.arange(rows) % found), min(rows, found)
