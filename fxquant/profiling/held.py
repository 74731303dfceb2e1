"""The batches of a profile, held: they are run several times, and each time must see the same ones."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.batches import Batches, Reader, reader_for
from fxquant.errors import EmptyCalibrationError
from fxquant.ledger import Ledger
from fxquant.structure import copied, map_leaves, tensors_in

MOST_BYTES = 2**28  # of inputs

Call = tuple[tuple[Any, ...], Mapping[str, Any]]  # arguments and keywords


@dataclass(frozen=True, slots=True)
class Held:
    """Calls of the model, with tensors of their own, and what is to be said about them."""

    calls: tuple[Call, ...]
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """Samples in all: the leading size of each batch's first tensor."""
        return sum(next((leaf.shape[0] for leaf in tensors_in(call) if leaf.dim()), 1) for call in self.calls)


def held(data: Any, model: nn.Module, example_inputs: Any, *, max_batches: int) -> Held:
    """The first batches of the data: at most `max_batches`, and no more than MOST_BYTES of them (but one).

    A generator may be endless, and a loader may shuffle or fill one buffer again and again: so tensors are copied.
    CalibrationError: FXQ301 where no batch has a sample, FXQ304 for what is no batch, FXQ312 where the data fails.
    """
    ledger = Ledger()
    with closing(Batches(data)) as batches:
        taken, has_more = _taken(batches, reader_for(model, batches, example_inputs, ledger), max_batches)
    kept = [call for call in taken if all(leaf.numel() for leaf in tensors_in(call))]
    empty = len(taken) - len(kept)
    if not kept:
        told = f"all {empty} batches are of size zero" if empty else "the data holds no batch"
        hint = "give data with at least one sample, or none at all to profile the weights only"
        raise EmptyCalibrationError("FXQ301", f"nothing was seen: {told}", hint=hint)
    notes = [f"{row.code} {row.reason}" for row in ledger.notices]
    if has_more:
        notes.append(f"FXQ309 profiled on the first {len(taken)} batches; there was more data")
    if empty:
        notes.append(f"FXQ320 {empty} of {len(taken)} batches are of size zero and were left out")
    return Held(tuple(kept), tuple(notes))


def _taken(batches: Batches, reader: Reader, most: int) -> tuple[list[Call], bool]:
    """Copies of the first batches, and whether there were more."""
    taken: list[Call] = []
    size = 0
    for index, batch in enumerate(batches):
        if index == most or size >= MOST_BYTES:
            return taken, True
        call = reader.call(batch, index)
        taken.append(copied((call.args, dict(call.kwargs))))
        size += sum(leaf.numel() * leaf.element_size() for leaf in tensors_in(taken[-1]))
    return taken, False


def sample(kept: Held, rows: int) -> Call:
    """One call with the first rows of each batch, about `rows` in all; the first batch where batches do not join.

    They join where all tensors of a batch have one leading size, and all batches the same shapes behind it.
    """
    leaves = [tensors_in(call) for call in kept.calls]
    forms = {tuple((leaf.dtype, leaf.shape[1:]) for leaf in found) for found in leaves}
    is_even = all(len({leaf.shape[0] if leaf.dim() else None for leaf in found} | {None}) == 2 for found in leaves)
    if len(forms) != 1 or not is_even:
        return kept.calls[0]
    each = -(-rows // len(leaves))
    joined = iter([torch.cat([part[:each] for part in parts]) for parts in zip(*leaves, strict=True)])
    made: Call = map_leaves(lambda leaf: next(joined) if isinstance(leaf, Tensor) else leaf, kept.calls[0])
    return made
