"""The table of steps: what each compressing pass did, and at the end what quantization did, in words for the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fxquant.program import Stage
from fxquant.reporting.facts import Facts
from fxquant.reporting.wording import quantity, short, size
from fxquant.steps import Step, steps_of

if TYPE_CHECKING:
    from fxquant.model import CompiledModel

_SHOWN = 6  # layers that a line names


@dataclass(frozen=True, slots=True)
class Change:
    """One number before and after; the same text twice where it stayed."""

    before: str
    after: str

    @property
    def is_changed(self) -> bool:
        """Does the page show an arrow?"""
        return self.before != self.after


@dataclass(frozen=True, slots=True)
class StepLine:
    """One row."""

    name: str
    layers: str
    parameters: Change
    nonzero: Change
    macs: Change
    size: Change


def step_lines(compiled: CompiledModel, facts: Facts) -> tuple[StepLine, ...]:
    """A row for each pass that changed weights or multiplications, and one for quantization after them."""
    steps = steps_of(compiled.history)
    if not steps:
        return ()
    lines = tuple(_line(step) for step in steps)
    return lines if compiled.stage < Stage.CONVERTED else (*lines, _quantized(compiled, facts, steps[-1]))


def _line(step: Step) -> StepLine:
    before, after = step.before, step.after
    return StepLine(
        short(step.name),
        _named(step.layers),
        Change(quantity(before.parameters), quantity(after.parameters)),
        Change(quantity(before.nonzero), quantity(after.nonzero)),
        Change(_macs(before.macs), _macs(after.macs)),
        Change(size(before.size_bytes), size(after.size_bytes)),
    )


def _quantized(compiled: CompiledModel, facts: Facts, last: Step) -> StepLine:
    """Quantization keeps parameters, zeros and multiplications, and holds them in fewer bytes."""
    after = last.after
    kept = (quantity(after.parameters), quantity(after.nonzero), _macs(after.macs))
    parameters, nonzero, macs = (Change(text, text) for text in kept)
    held = Change(size(after.size_bytes), size(facts.compiled_bytes))
    return StepLine(f"quantize for {compiled.target}", "", parameters, nonzero, macs, held)


def _macs(count: int | None) -> str:
    return "–" if count is None else quantity(count)


def _named(layers: Sequence[str]) -> str:
    shown = ", ".join(short(name, 60) for name in layers[:_SHOWN])
    return shown + (f" and {len(layers) - _SHOWN} more" if len(layers) > _SHOWN else "")
