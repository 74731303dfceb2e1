"""Strategies for pipelines: the default with passes left out, repeated, moved or cut off, and whether it is legal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from fxquant.compiler import default_pipeline
from fxquant.pipeline import Pass, Pipeline
from fxquant.program import Stage

_MOST_EDITS = 4


@dataclass(frozen=True)
class DrawnPipeline:
    """A pipeline, and what the stages of its passes say of it."""

    pipeline: Pipeline
    is_legal: bool
    why: str = ""  # which pass cannot stand where it does; '' where all can
    ends: Stage = Stage.TRACED  # of the program after it, or after the passes before the one that cannot run

    def __str__(self) -> str:
        return f"{self.pipeline}   ({self.why or f'legal, ends {self.ends.name}'})"


@st.composite
def pipelines(draw: st.DrawFn, *, start: Stage = Stage.TRACED) -> DrawnPipeline:
    """The default pipeline after up to four edits. Shrinks to the default pipeline itself.

    `fxquant.compile(model, mapping, passes=drawn.pipeline)` refuses those that are not legal with FXQ401, before it
    touches the model.

    Args:
        start: the stage of the program that it is judged for.
    """
    steps = list(default_pipeline())
    for edit in draw(st.lists(st.sampled_from(("leave out", "repeat", "move", "cut")), max_size=_MOST_EDITS)):
        if not steps:
            break
        at = draw(st.integers(0, len(steps) - 1))
        if edit == "cut":
            del steps[at:]
            continue
        step = steps[at] if edit == "repeat" else steps.pop(at)
        if edit != "leave out":
            steps.insert(draw(st.integers(0, len(steps))), step)
    return judged(steps, start)


def judged(steps: Sequence[Pass], start: Stage = Stage.TRACED) -> DrawnPipeline:
    """What a pipeline of these passes is."""
    pipeline, stage = Pipeline(tuple(steps)), start
    for place, step in enumerate(steps):
        if stage not in step.accepts:
            return DrawnPipeline(pipeline, False, f"pass {place}, '{step.name}', does not take {stage.name}", stage)
        stage = stage if step.yields is None else step.yields
    return DrawnPipeline(pipeline, True, ends=stage)
