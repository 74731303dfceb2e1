"""distil: a captured float model learns from its teacher before it is quantized; the graph stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn

from fxquant.distilling import ALPHA, TEMPERATURE, Distillation
from fxquant.errors import UsageError
from fxquant.ledger import Ledger
from fxquant.pipeline import Pass
from fxquant.program import Program, Stage
from fxquant.trainable import TrainableModel
from fxquant.training.loop import distil

CODE = "FXQ127"


@dataclass(frozen=True)
class Distil(Pass):
    """Weights ⇒ weights that give what the teacher gives: what pruning and factorizing lost comes back.

    Options are those of `fxquant.distil`; `data` is its batches. Weights that pruning made zero stay zero.
    """

    name: ClassVar[str] = "distil"
    accepts: ClassVar[frozenset[Stage]] = frozenset({Stage.TRACED})

    teacher: nn.Module | Distillation | None = field(default=None, repr=False)
    data: Any = field(default=None, repr=False)
    epochs: int = 1
    steps: int | None = None
    lr: float = 1e-3
    temperature: float = TEMPERATURE
    alpha: float = ALPHA
    features: Mapping[str, float] | None = None
    seed: int = 0

    def run(self, program: Program, ledger: Ledger) -> Program:
        for option in ("teacher", "data"):
            if getattr(self, option) is None:
                raise UsageError(
                    CODE,
                    f"the pass 'distil' has no {option}",
                    hint="Distil(teacher=model, data=batches): the float model to learn from, and what to feed both",
                )
        student = TrainableModel(program, ledger)
        told = distil(
            student,
            self.teacher,  # type: ignore[arg-type]  # checked above
            self.data,
            epochs=self.epochs,
            steps=self.steps,
            lr=self.lr,
            temperature=self.temperature,
            alpha=self.alpha,
            features=self.features,
            seed=self.seed,
        )
        ledger.notice(CODE, f"distilled from its teacher: {told}")
        return program
