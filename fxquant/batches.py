"""What a user may hand in as calibration data, read as calls of the model.

A tensor is one argument, a tuple the arguments, a dict the keywords, `(args, kwargs)` both. A list, DataLoader,
generator or any other iterable holds batches. A labelled `(x, y)` for a one-input model is recognized.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import nn

from fxquant.errors import CalibrationError, CalibrationShapeError, FxQuantError, UsageError
from fxquant.ledger import Ledger
from fxquant.trainable import forward_parameters


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the model."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads batches for one model. `is_labelled`: drop the second half of each (x, y)."""

    is_labelled: bool = False

    def call(self, batch: Any, index: int) -> Call:
        """The call that a batch stands for; FXQ304 where it stands for none."""
        if self.is_labelled and isinstance(batch, (tuple, list)) and len(batch) == 2:
            batch = batch[0]
        match batch:
            case torch.Tensor():
                return Call((batch,), {})
            case Mapping():
                return Call((), {str(key): value for key, value in batch.items()})
            case (tuple() as args, Mapping() as kwargs) if not isinstance(batch, torch.Tensor):
                return Call(args, dict(kwargs))
            case tuple() | list():
                return Call(tuple(batch), {})
        raise CalibrationShapeError(
            "FXQ304",
            f"calibration batch {index} is {_told(batch)}, which is no tensor, tuple or dict",
            hint="give tensors, tuples of arguments or dicts of keywords, or a forward_fn(model, batch)",
        )


class Batches:
    """Batches in order, once, with the first one known ahead. Any error of the data itself is FXQ312.

    `name` is the argument that the data came as, for messages.
    """

    def __init__(self, data: Any, name: str = "calibration_data") -> None:
        is_one = isinstance(data, (torch.Tensor, tuple, Mapping))
        if not is_one and not isinstance(data, Iterable):
            raise UsageError(
                "FXQ111",
                f"{name} is {_told(data)}, which holds no batches",
                hint="give a tensor, a list of batches or a DataLoader",
            )
        self.length = 1 if is_one else length_of(data)
        self._rest = _guarded((data,) if is_one else data, name.replace("_", " "))
        self.first = next(self._rest, None)

    def close(self) -> None:
        """Let go of the data: a compiled model must not keep it alive."""
        self._rest.close()
        self.first = None

    def __iter__(self) -> Iterator[Any]:
        return iter(()) if self.first is None else chain((self.first,), self._rest)


def length_of(data: Iterable[Any]) -> int | None:
    """How many batches there are, where that is known: a DataLoader over a stream has a __len__, which raises."""
    try:
        return len(data) if isinstance(data, Sized) else None
    except TypeError:
        return None


def _guarded(data: Iterable[Any], name: str) -> Generator[Any, None, None]:
    index = 0
    try:
        for batch in data:
            yield batch
            index += 1
    except FxQuantError:
        raise
    except Exception as error:
        raise CalibrationError(
            "FXQ312",
            f"the {name} failed at batch {index}: {type(error).__name__}: {error}",
            hint="the fault is in the data or its loader: the original error, with its traceback, is chained",
        ) from error


def reader_for(model: nn.Module, data: Batches | None, example_inputs: Any, ledger: Ledger) -> Reader:
    """Decide from the first batch whether it is labelled, and say so."""
    reader = Reader(data is not None and _is_labelled(model, data.first, example_inputs))
    if reader.is_labelled:
        ledger.notice(
            "FXQ308", "the batches are (input, label) pairs and the model takes one input: labels are left out"
        )
    return reader


def _is_labelled(model: nn.Module, first: Any, example_inputs: Any) -> bool:
    """Two items, of which the model takes the first alone."""
    if not (isinstance(first, (tuple, list)) and len(first) == 2 and isinstance(first[0], torch.Tensor)):
        return False
    if isinstance(first[1], Mapping):
        return False
    if example_inputs is not None:
        return isinstance(example_inputs, torch.Tensor) or (
            isinstance(example_inputs, (tuple, list)) and len(example_inputs) == 1
        )
    positional = [
        parameter
        for parameter in forward_parameters(model).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in positional):
        return False
    required = [parameter for parameter in positional if parameter.default is parameter.empty]
    return len(positional) == 1 or (len(required) == 1 and _is_label(first[1]))


def _is_label(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and not value.is_floating_point() and value.dim() <= 1


def _told(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
