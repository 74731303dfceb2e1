"""Where a compiled model came from: its float model, held weakly, and how that was captured. To compare the two."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from fxquant import preflight
from fxquant.capture import capture
from fxquant.errors import UnmeasurableError
from fxquant.fork import fork
from fxquant.ledger import Ledger
from fxquant.program import Program
from fxquant.request import CaptureRequest
from fxquant.sandbox import one_compilation


@dataclass(frozen=True, slots=True)
class Source:
    """The float model as it was compiled. The caller's model is not kept alive."""

    model: Callable[[], nn.Module | None]  # a weak reference, which gives None when the model is gone
    fingerprint: tuple[Any, ...]
    concrete_args: Mapping[str, Any] | None
    leaf_modules: tuple[str | type[nn.Module], ...]

    def trace(self, compiled: Program, model: nn.Module | None = None) -> Program:
        """The float graph once more, with the origins of `compiled`: of `model`, else of the model it came from.

        FXQ313 when that model is gone, or was changed since.
        """
        if model is None:
            model = self.model()
            if model is None:
                raise UnmeasurableError("FXQ313", "the float model is gone", hint="keep it, or hand it in as model=")
            if preflight.fingerprint(model) != self.fingerprint:
                raise UnmeasurableError(
                    "FXQ313",
                    "the float model was changed since it was compiled",
                    hint="compile it again, or hand in an unchanged copy as model=",
                )
        known = compiled.example_leaves
        args, kwargs = (None, None) if known is None else compiled.signature.call(known)
        with one_compilation():
            return capture(CaptureRequest(fork(model), args, kwargs, self.concrete_args, self.leaf_modules), Ledger())
