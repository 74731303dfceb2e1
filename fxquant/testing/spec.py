"""A model as plain data: which ops read which values. Small enough to read, and its repr builds it again.

Values are numbered: first the inputs, then the result of each op. Shapes leave out the batch, which comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from fxquant.errors import UsageError
from fxquant.testing.value import Value
from fxquant.testing.vocabulary import KINDS

if TYPE_CHECKING:
    from fxquant.testing.drawn_model import DrawnModel


def _short(record: Any, count: int) -> str:
    """The repr of a dataclass: its first `count` fields by place, the others by name where they are not as usual."""
    values = [(item, getattr(record, item.name)) for item in fields(record) if item.repr]
    told = [repr(value) for _, value in values[:count]]
    told += [f"{item.name}={value!r}" for item, value in values[count:] if value != item.default]
    return f"{type(record).__name__}({', '.join(told)})"


@dataclass(frozen=True, repr=False)
class InputSpec:
    """One argument: float32 of this shape, or with `vocabulary` > 0 token ids below it."""

    shape: tuple[int, ...]
    vocabulary: int = 0

    def __repr__(self) -> str:
        return _short(self, 1)


@dataclass(frozen=True, repr=False)
class Op:
    """One call. `kind` is a name of `vocabulary.KINDS`, which says what the other fields mean to it."""

    kind: str
    inputs: tuple[int, ...]
    width: int = 1  # features out; of a grouped convolution for each group
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    groups: int = 1
    bias: bool = True
    form: str = "module"  # or 'function', 'method': how an activation is called
    of: int = 0  # 'again': the op whose module is called once more
    special: str = ""  # one of `weights.SPECIALS`: what is written over the first weight or row of weights

    def __repr__(self) -> str:
        return _short(self, 2)


@dataclass(frozen=True, repr=False)
class ModelSpec:
    """`ops` over the arguments it `takes`; one value of `gives` is a tensor, several a tuple; the rest is dead code.

    Raises UsageError (FXQ111) for ops that do not fit their inputs.
    """

    takes: tuple[InputSpec, ...]
    ops: tuple[Op, ...]
    gives: tuple[int, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= len(self.takes) <= 2 or not self.gives:
            raise UsageError("FXQ111", f"a ModelSpec takes one or two inputs and gives something, not {self!r}")
        beyond = [index for index in self.gives if not 0 <= index < len(self.values)]
        if beyond:
            raise UsageError("FXQ111", f"the spec gives value {beyond[0]} of {len(self.values)}", hint=repr(self))

    def __repr__(self) -> str:
        return _short(self, 3)

    @cached_property
    def values(self) -> tuple[Value, ...]:
        """What is known of each value: its shape without the batch, and whose memory it may share."""
        found = [Value(item.shape, index, item.vocabulary) for index, item in enumerate(self.takes)]
        for number, op in enumerate(self.ops):
            read = [found[index] for index in op.inputs if 0 <= index < len(found)]
            made = self._result(op, read, found)
            if made is None:
                told = f"op {number}, {op!r}, does not fit {[value.shape for value in read]}"
                raise UsageError("FXQ111", told, hint="fxquant.testing.vocabulary says what each kind takes")
            found.append(made)
        return tuple(found)

    def _result(self, op: Op, read: list[Value], found: list[Value]) -> Value | None:
        """What the op gives; None where it does not fit."""
        called = self.called(op)
        if called.kind not in KINDS or len(read) != len(op.inputs):
            return None
        if op.kind == "again" and not self._fits_again(op, read, found):
            return None
        kind = KINDS[called.kind]
        return kind.result(called, read, fresh=len(found)) if kind.accepts(called, read) else None

    def _fits_again(self, op: Op, read: list[Value], found: list[Value]) -> bool:
        """An earlier op's module, on values of the shapes that it was made for."""
        if not 0 <= op.of < len(found) - len(self.takes):
            return False
        return [found[index].shape for index in self.ops[op.of].inputs] == [value.shape for value in read]

    def called(self, op: Op) -> Op:
        """The op itself; for 'again' the op whose module it calls, on its own inputs."""
        if op.kind != "again" or not 0 <= op.of < len(self.ops):
            return op
        return replace(self.ops[op.of], inputs=op.inputs)

    @property
    def read(self) -> tuple[list[Value], ...]:
        """The values that each op reads."""
        return tuple([self.values[index] for index in op.inputs] for op in self.ops)

    @property
    def names(self) -> tuple[str, ...]:
        """The attribute of the model that holds the module or buffer of each op, where it has one."""
        return tuple(f"{op.kind}_{number}" for number, op in enumerate(self.ops))

    @property
    def is_traceable_by_fx(self) -> bool:
        """Can plain torch.fx trace it? It knows no item assignment, and would run writes to buffers while it traces."""
        return not {op.kind for op in self.ops} & {"set_item", "count"}

    @property
    def writes(self) -> bool:
        """Does any op write in place?"""
        return any(KINDS[self.called(op).kind].writes for op in self.ops)

    def build(self, *, names: Sequence[str] | None = None) -> DrawnModel:
        """The model, in eval mode: the same bits each time, and the global random state as it was."""
        from fxquant.testing.drawn_model import build

        return build(self, self.names if names is None else names)

    def inputs(self, seed: int = 0, batch: int = 2) -> tuple[torch.Tensor, ...]:
        """One call's arguments: Gaussian, or token ids."""
        source = torch.Generator().manual_seed(seed)
        return tuple(_drawn(item, batch, source) for item in self.takes)

    def batches(self, count: int = 2, batch: int = 8) -> list[tuple[torch.Tensor, ...]]:
        """Calibration data: seeds from 1000 up, so that `inputs(0)` is not among it."""
        return [self.inputs(1000 + index, batch) for index in range(count)]


def _drawn(item: InputSpec, batch: int, source: torch.Generator) -> torch.Tensor:
    shape = (batch, *item.shape)
    if item.vocabulary:
        return torch.randint(0, item.vocabulary, shape, generator=source)
    return torch.randn(shape, generator=source)
