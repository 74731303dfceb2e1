"""Where a model that came out of training came from: the float model, with the weights that training gave it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fxquant.errors import UnmeasurableError
from fxquant.program import Program
from fxquant.source import Source


@dataclass(frozen=True, slots=True)
class TrainedSource(Source):
    """As `Source`; what is compared with is a copy of the float model that has the trained weights."""

    trained: Callable[[], Any] = lambda: None  # a weak reference to the QATModel
    state: tuple[Any, ...] = ()  # of its weights when it was converted

    def trace(self, compiled: Program, model: nn.Module | None = None) -> Program:
        """The float graph with the trained weights. FXQ313 when they are gone, or were trained on since."""
        if model is not None:
            return Source.trace(self, compiled, model)
        trained, float_model = self.trained(), self.model()
        if trained is None or float_model is None:
            what = "the model that was trained" if trained is None else "the float model"
            raise UnmeasurableError("FXQ313", f"{what} is gone", hint="keep it, or hand in a float model as model=")
        if weights_state(trained) != self.state:
            raise UnmeasurableError(
                "FXQ313", "the model was trained on since convert()", hint="convert() again, and measure that"
            )
        return Source.trace(self, compiled, with_weights(float_model, trained.float_state_dict()))


def weights_state(model: nn.Module) -> tuple[Any, ...]:
    """What tells that weights changed meanwhile: identities and versions; no tensor is read."""
    return tuple((id(parameter), parameter._version) for parameter in model.parameters())


def with_weights(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """A copy of `model` in eval with these weights. FXQ313 where one of its own is not among them."""
    made = copy.deepcopy(model).eval()
    missing = [name for name, _ in made.named_parameters() if name not in state]
    if missing:
        told = f"'{missing[0]}' of the float model has no weight of its own in training: the layer was written out"
        raise UnmeasurableError("FXQ313", told, hint="hand in a float model to compare with, as model=")
    made.load_state_dict(dict(state), strict=False)
    return made
