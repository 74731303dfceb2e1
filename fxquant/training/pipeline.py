"""The pipeline of compile(), turned into that of QAT: up to fake-quantize, and from bake on when training is over."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fxquant.errors import UsageError
from fxquant.pipeline import Pass, Pipeline
from fxquant.registry import make

_NEEDED = ("insert-observers", "convert")


def split_for_training(pipeline: Pipeline) -> tuple[Pipeline, Pipeline]:
    """(before training, after it). FXQ129 for a pipeline that lacks what training needs.

    Dropout and what is folded are kept for training; `calibrate` runs where it has data, for the ranges to start with.
    """
    names = [step.name for step in pipeline]
    missing = [name for name in _NEEDED if name not in names]
    if missing:
        raise UsageError(
            "FXQ129",
            f"mode='qat' needs the pass '{missing[0]}', which this pipeline lacks",
            hint="start from fxquant.default_pipeline()",
        )
    end = names.index("calibrate") if "calibrate" in names else names.index("convert")
    head = [_for_training(step) for step in pipeline.passes[:end]]
    tail = [step for step in pipeline.passes[end:] if step.name != "calibrate"]
    calibrate = [step for step in pipeline if step.name == "calibrate" and getattr(step, "data", None) is not None]
    if "fake-quantize" not in names:
        head += [*calibrate, make("fake-quantize")]
    return Pipeline(tuple(head)), Pipeline((make("bake"), *tail))


def _for_training(step: Pass) -> Pass:
    options: dict[str, dict[str, Any]] = {
        "drop-identity": {"keep_dropout": True},
        "fold-batchnorm": {"remember": True},
    }
    return replace(step, **options[step.name]) if step.name in options else step  # type: ignore[type-var]
