"""What every side gets: the float model, calibration data, and held-out rows with the float model's answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

HELD_OUT, CALIBRATION = 32, (4, 8)  # rows; batches and their rows

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Bound:
    """One call on inputs that are in place already: `call()` is what is timed, `read` makes a tensor of its result."""

    call: Callable[[], Any]
    read: Callable[[Any], Tensor]


Runner = Callable[[Inputs], Bound]
Builder = Callable[[int], Runner]  # rows of a batch → what runs such batches


@dataclass(frozen=True, slots=True)
class Job:
    """One model of the bench, the same for each of its sides."""

    name: str
    model: nn.Module
    batches: list[Inputs]
    held_out: Inputs
    reference: Tensor  # the float model's output for `held_out`
    threads: int
    is_full: bool = False

    @classmethod
    def of(cls, name: str, case: Any, *, full: bool, threads: int) -> Job:
        """The job of a case of the zoo."""
        model, held_out = case.make(full=full), case.inputs(0, HELD_OUT, full=full)
        batches, reference = case.batches(*CALIBRATION, full=full), reference_of(model, held_out)
        return cls(name, model, batches, held_out, reference, threads, full)

    @property
    def kind(self) -> str:
        """'recurrent', 'transformer' or 'convolutional', by its layers: some sides are for one kind only."""
        found = {type(module) for module in self.model.modules()}
        if found & {nn.LSTM, nn.GRU}:
            return "recurrent"
        return "transformer" if nn.LayerNorm in found else "convolutional"

    def rows(self, count: int, start: int = 0) -> Inputs:
        """`count` of the held-out rows."""
        return tuple(tensor[start : start + count].contiguous() for tensor in self.held_out)

    def single_rows(self) -> list[Inputs]:
        """The calibration data row by row."""
        count = CALIBRATION[1]
        return [tuple(tensor[row : row + 1] for tensor in batch) for batch in self.batches for row in range(count)]

    def save(self, path: Path) -> None:
        """For the sides' processes: tensors and plain values; of the model its state alone."""
        fields = {name: getattr(self, name) for name in self.__slots__ if name != "model"}
        torch.save({**fields, "state": self.model.state_dict()}, path)

    @classmethod
    def load(cls, path: Path, zoo: Mapping[str, Any]) -> Job:
        """What `save` wrote, to the bit: the zoo's model of that name, with the state of the saved one."""
        fields = torch.load(path, weights_only=True)
        state = fields.pop("state")
        model = zoo[fields["name"]].unsettled(full=fields["is_full"])
        model.load_state_dict(state)
        return cls(model=model, **fields)


def reference_of(model: nn.Module, inputs: Inputs) -> Tensor:
    """The float model's output, eight rows at a time."""
    count = CALIBRATION[1]
    with torch.inference_mode():
        return torch.cat(
            [model(*(tensor[at : at + count] for tensor in inputs)) for at in range(0, len(inputs[0]), count)]
        ).clone()


def as_tensor(result: Any) -> Tensor:
    """A copy, because engines write the next result to the same place."""
    return torch.as_tensor(result).clone()
