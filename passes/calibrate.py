"""calibrate: run the observers over data, then judge what they saw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import nn

from fxquant.batches import Batches, Reader
from fxquant.calibration import MOST_KEPT, Observing, has_observers, judge, leaves_of
from fxquant.errors import CalibrationError, EmptyCalibrationError, FxQuantError, NonFiniteError, UsageError
from fxquant.ledger import Ledger
from fxquant.pipeline import Pass
from fxquant.program import Program, Stage
from fxquant.progress import tracked

MAX_BATCHES = MOST_KEPT
POLICIES = ("error", "skip", "replace")


@dataclass(frozen=True)
class Calibrate(Pass):
    """The observers see at most `max_batches` batches of data; what they saw is checked.

    `on_nonfinite` says what happens to a batch whose inputs hold NaN or infinities: 'error', 'skip' it, or 'replace'
    them by zero and the largest finite values. `forward_fn(model, batch)` calls the model for batches of a shape of
    their own. A graph without observers needs no data.
    """

    name: ClassVar[str] = "calibrate"
    accepts: ClassVar[frozenset[Stage]] = frozenset({Stage.PREPARED})
    yields: ClassVar[Stage] = Stage.CALIBRATED

    data: Any = field(default=None, repr=False)
    reader: Reader = field(default=Reader(), repr=False)
    forward_fn: Callable[[nn.Module, Any], object] | None = field(default=None, repr=False)
    max_batches: int = MAX_BATCHES
    on_nonfinite: str = "error"
    seen: int = field(default=0, repr=False)  # samples that went through the observers before

    def __post_init__(self) -> None:
        if self.on_nonfinite not in POLICIES:
            raise UsageError("FXQ111", f"on_nonfinite={self.on_nonfinite!r}", hint=f"one of {', '.join(POLICIES)}")
        if not isinstance(self.max_batches, int) or self.max_batches < 1:
            raise UsageError("FXQ111", f"max_batches={self.max_batches!r}", hint="a whole number from 1")

    def run(self, program: Program, ledger: Ledger) -> Program:
        if not has_observers(program):
            return program.at(Stage.CALIBRATED)
        fed = Observing(program, ledger, samples=self.seen)
        if self.data is not None:
            self._feed(fed)
        if fed.samples == 0:
            raise EmptyCalibrationError(
                "FXQ301",
                "nothing was seen: the calibration data holds no sample",
                hint="give calibration_data=, call the model before convert(), or use the preset 'int8-dynamic'",
            )
        judge(program, ledger, samples=fed.samples)
        return fed.finish().at(Stage.CALIBRATED)

    def _feed(self, fed: Observing) -> None:
        data = self.data if isinstance(self.data, Batches) else Batches(self.data)
        known = data.length
        total = None if known is None else min(known, self.max_batches)
        model, count = _Observed(fed, self.on_nonfinite), 0
        for batch in tracked(islice(data, self.max_batches), total=total, description="calibrating"):
            self._call(model, batch, count)
            count += 1
        if count == self.max_batches and (known is None or known > count):
            fed.ledger.notice("FXQ309", f"calibration stopped after max_batches={count}; there was more data")

    def _call(self, model: _Observed, batch: Any, index: int) -> None:
        model.batch = index
        if self.forward_fn is None:
            call = self.reader.call(batch, index)
            model(*call.args, **call.kwargs)
            return
        try:
            self.forward_fn(model, batch)
        except FxQuantError:
            raise
        except Exception as error:
            raise CalibrationError(
                "FXQ312", f"forward_fn failed on calibration batch {index}: {type(error).__name__}: {error}"
            ) from error


class _Observed(nn.Module):
    """What forward_fn gets for a model: calls it like the user's model, while the observers look on."""

    def __init__(self, fed: Observing, on_nonfinite: str) -> None:
        super().__init__()
        self.fed, self.on_nonfinite, self.batch = fed, on_nonfinite, 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.fed.batches = self.batch
        leaves = leaves_of(self.fed.program, args, kwargs, self.batch)
        if self.on_nonfinite == "replace":
            leaves = tuple(torch.nan_to_num(leaf) if leaf.is_floating_point() else leaf for leaf in leaves)
        try:
            result = self.fed.run(leaves)
        except NonFiniteError as error:
            if self.on_nonfinite != "skip" or error.node is not None:
                raise
            self.fed.ledger.notice("FXQ302", f"calibration batch {self.batch} was skipped: {error.message}")
            return None
        return self.fed.program.signature.rebuild(result)
