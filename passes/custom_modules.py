"""Placeholder until the pass lands in this same session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from fxquant.ledger import Ledger
from fxquant.pipeline import Pass
from fxquant.program import Program, Stage


@dataclass(frozen=True)
class CustomModules(Pass):
    """Placeholder."""

    name: ClassVar[str] = "custom-modules"
    accepts: ClassVar[frozenset[Stage]] = frozenset({Stage.TRACED, Stage.PLANNED})
    handlers: tuple[Any, ...] = ()

    def run(self, program: Program, ledger: Ledger) -> Program:
        return program
