"""torch.autocast: off while a model is compiled or a compiled one runs; where forward() turns it on, that is told.

A graph has no context managers: what forward() computes under autocast is computed in float32 by the compiled model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from fxquant.ledger import Ledger
from fxquant.location import here

_DEVICES = ("cpu", "cuda")
_ASKED = "_fxq_asked"


def is_autocast_on() -> bool:
    """Would autocast change what runs on the CPU now?"""
    return torch.is_autocast_enabled("cpu")


@contextmanager
def without_autocast() -> Iterator[None]:
    """No autocast inside the block, and the caller's again after it."""
    before = {device: torch.is_autocast_enabled(device) for device in _DEVICES}
    try:
        for device in _DEVICES:
            torch.set_autocast_enabled(device, False)
        yield
    finally:
        for device, is_enabled in before.items():
            torch.set_autocast_enabled(device, is_enabled)


@contextmanager
def autocast_told(ledger: Ledger) -> Iterator[None]:
    """Inside the block, where a model is traced, autocast does nothing but say in the ledger that it was asked for."""
    kind = torch.amp.autocast_mode.autocast
    init, enter, leave = kind.__init__, kind.__enter__, kind.__exit__

    def make(
        self: Any, device_type: str, dtype: Any = None, enabled: bool = True, cache_enabled: bool | None = None
    ) -> None:
        init(self, device_type, dtype, False, cache_enabled)  # enabled, it warns where there is no such device
        setattr(self, _ASKED, enabled)

    def start(self: Any) -> Any:
        if getattr(self, _ASKED, self._enabled):
            _tell(self, ledger)
        return self

    try:
        kind.__init__, kind.__enter__, kind.__exit__ = make, start, lambda *_: False  # type: ignore[method-assign]
        yield
    finally:
        kind.__init__, kind.__enter__, kind.__exit__ = init, enter, leave  # type: ignore[method-assign]


def _tell(block: Any, ledger: Ledger) -> None:
    dtype = str(block.fast_dtype).removeprefix("torch.")
    at = here()
    place = f", line {at.line}" if at is not None else ""
    ledger.notice(
        "FXQ235",
        f"forward() uses autocast('{block.device}', {dtype}){place}: the compiled model computes in float32 what is "
        "not quantized there, and gives float32",
        hint="nothing is lost in precision; cast the output back where your code needs it",
    )
