"""The model that a spec describes: an nn.Module whose forward() runs the ops one after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fxquant.testing.spec import ModelSpec
from fxquant.testing.vocabulary import KINDS
from fxquant.testing.weights import fill


class DrawnModel(nn.Module):
    """Runs the ops of `spec` in order. Made by `ModelSpec.build`; its repr builds it again."""

    def __init__(self, spec: ModelSpec, names: Sequence[str]) -> None:
        super().__init__()
        self.spec, self.names = spec, tuple(names)
        weighted = 0
        for name, op, inputs in zip(self.names, spec.ops, spec.read, strict=True):
            part = None if op.kind == "again" else KINDS[op.kind].part(op, inputs)
            if isinstance(part, torch.Tensor):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)
            if op.kind != "count" and _is_weighted(part):
                fill(part, torch.Generator().manual_seed(spec.seed * 1000 + weighted), op.special)  # type: ignore[arg-type]
                weighted += 1  # not by place, so that dead code elsewhere leaves all weights as they are

    def forward(self, x: torch.Tensor) -> Any:
        """One input."""
        return self._run(x)

    def _run(self, *inputs: torch.Tensor) -> Any:
        values: list[Any] = list(inputs)
        for index, op in enumerate(self.spec.ops):
            called = self.spec.called(op)
            part = getattr(self, self.names[op.of if op.kind == "again" else index])
            values.append(KINDS[called.kind].call(called, part, *(values[source] for source in op.inputs)))
        given = tuple(values[index] for index in self.spec.gives)
        return given[0] if len(given) == 1 else given

    def __repr__(self) -> str:
        return f"{self.spec!r}.build()"


class DrawnPair(DrawnModel):
    """The same for two inputs."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:  # type: ignore[override]
        """Two inputs."""
        return self._run(x, y)


def _is_weighted(part: Any) -> bool:
    if isinstance(part, nn.Module):
        return next(part.parameters(), None) is not None
    return isinstance(part, torch.Tensor)


def build(spec: ModelSpec, names: Sequence[str]) -> DrawnModel:
    """The model of a spec, its modules under these names."""
    kind = DrawnModel if len(spec.takes) == 1 else DrawnPair
    with torch.no_grad():
        return kind(spec, names).eval()
