"""The last passes of the pipeline: how a converted graph comes to a target. Each target of the table names its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fxquant.pipeline import Pass, Pipeline
from fxquant.program import Stage
from fxquant.registry import make
from fxquant.targets import AUTO, NATIVE_PASS, TARGETS, check_name

PLACING = "place-precision"
BEFORE_LOWERING = ("canonicalize-qdq", PLACING, "fuse-projections")  # on the converted graph, whatever the target
LOWERING_PASSES = tuple(dict.fromkeys(target.lowering for target in TARGETS.values()))


def lowering_pass(target: str) -> str:
    """The name of the pass that lowers for a target; for 'auto', the one of torch's own engines."""
    check_name(target)
    return NATIVE_PASS if target == AUTO else TARGETS[target].lowering


def tail_names(target: str) -> tuple[str, ...]:
    """The passes after `convert`, in order."""
    return (*BEFORE_LOWERING, lowering_pass(target))


def lowering_of(steps: Pipeline) -> Pass | None:
    """The pass that lowers, if there is one."""
    return next((step for step in steps if step.yields is Stage.LOWERED), None)


def targets_of(name: str | None) -> tuple[str, ...]:
    """The targets that the pass of this name lowers for; none for a pass that is not ours."""
    return tuple(target.name for target in TARGETS.values() if target.lowering == name)


def at_conversion(steps: Pipeline) -> tuple[Pipeline, Pipeline]:
    """The passes up to the canonical graph, and those that lower it; where they begin with it, all of them do."""
    places = [index + 1 for index, step in enumerate(steps) if step.yields is Stage.CONVERTED]
    is_lowering_alone = bool(steps.passes) and steps.passes[0].accepts == {Stage.CONVERTED}
    end = places[-1] if places else 0 if is_lowering_alone else len(steps)
    return Pipeline(steps.passes[:end]), Pipeline(steps.passes[end:])


def aimed_at(tail: Pipeline, target: str, options: Mapping[str, Any]) -> Pipeline:
    """The same passes with the lowering pass of another target. `options` are those of lowering passes."""
    name = lowering_pass(target)
    return Pipeline(
        tuple(make(name, **options) if step.yields is Stage.LOWERED and step.name != name else step for step in tail)
    )


def placing(tail: Pipeline, *, is_on: bool) -> Pipeline:
    """The same passes, with precision placement measured or left out."""
    return Pipeline(tuple(replace(step, enabled=is_on) if step.name == PLACING else step for step in tail))  # type: ignore[type-var]
