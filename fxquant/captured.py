"""CapturedModel: what a compiled and a trainable model have in common: a program, its ledger, and how it came to be."""

from __future__ import annotations

import copy
from typing import Any, Self

from torch import fx, nn

from fxquant.ledger import Ledger
from fxquant.pipeline import PassRecord
from fxquant.program import Program


class CapturedModel(nn.Module):
    """A module that holds a program, and is called like the model that was captured."""

    def __init__(self, program: Program, ledger: Ledger, history: tuple[PassRecord, ...]) -> None:
        super().__init__()
        self._program, self._ledger, self._history = program, ledger, history

    @property
    def program(self) -> Program:
        """The program as far as it has come."""
        return self._program

    @property
    def graph_module(self) -> fx.GraphModule:
        """The graph that a call runs: flat tensor inputs, a tuple of tensors out."""
        return self._program.graph_module

    @property
    def ledger(self) -> Ledger:
        """One row per layer: asked, got, why; notices about the whole."""
        return self._ledger

    @property
    def history(self) -> tuple[PassRecord, ...]:
        """What each pass did, with the graph before and after it."""
        return self._history

    def _frozen(self) -> tuple[Any, ...]:
        """What never changes, and is shared by copies."""
        return (self._program.signature, self._program.plan, *self._history)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy with tensors and ledger of its own."""
        made = type(self).__new__(type(self))
        memo |= {id(self): made, **{id(shared): shared for shared in self._frozen()}}
        made.__dict__ = {name: copy.deepcopy(value, memo) for name, value in self.__dict__.items()}
        type(made.graph_module).__name__ = type(self.graph_module).__name__  # fx forgets it
        return made
