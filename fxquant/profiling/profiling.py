"""profile(): compile, run both graphs over the data, look, conclude, and try out what was concluded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from fxquant import preflight
from fxquant.arguments import example_call
from fxquant.compiler import compile as compile_model
from fxquant.custom import CustomModule
from fxquant.ledger import Ledger
from fxquant.profiling.advice import Advice
from fxquant.profiling.crossings import Crossing, crossings
from fxquant.profiling.gathering import gathered
from fxquant.profiling.held import Held, held
from fxquant.profiling.layers import layers_of
from fxquant.profiling.losses import Losses
from fxquant.profiling.precision import precision_advice, weight_advice
from fxquant.profiling.result import Profile
from fxquant.profiling.settings import Settings
from fxquant.profiling.slowness import slowness_advice
from fxquant.profiling.starting import Start, start_of
from fxquant.profiling.trials import Bench, try_out
from fxquant.recipe import RecipeRule
from fxquant.sandbox import one_compilation

MOST_ADVICE = 24


def profile(
    model: nn.Module,
    data: Any = None,
    *,
    qconfig_mapping: Any = "int8",
    example_inputs: Any = None,
    target: str = "auto",
    strict: bool = False,
    objective: str = "sqnr",
    verify: bool = True,
    seconds: float = 20.0,
    most_float: float = 0.25,
    max_batches: int = 32,
    concrete_args: Mapping[str, Any] | None = None,
    leaf_modules: Sequence[str | type[nn.Module]] = (),
    skip_batchnorm: Sequence[str] = (),
    custom_modules: Sequence[CustomModule] = (),
) -> Profile:
    """What each layer's weights and activations look like, what it costs, and what to change of the recipe.

    Args:
        model: as `fxquant.compile` takes it. It is not changed.
        data: batches, as `calibration_data` of compile; None: only the weights are profiled.
        qconfig_mapping: what to start from: a preset, a recipe, a QConfigMapping.
        example_inputs: one call's arguments, where there is no data.
        target: the engine.
        strict: a layer of the start that stays float is an error, as in `compile`; what is tried may leave some float.
        objective: what advice is ranked by, and what the recipe may not lose: output 'sqnr', or 'latency' of a call on
            the first batch.
        verify: compile and measure each advice; else gains are expected ones, and the recipe is the start.
        seconds: for verifying, in all.
        most_float: share of the model's multiplications that the recipe may make float.
        max_batches: how many batches are used.
        concrete_args, leaf_modules, skip_batchnorm, custom_modules: as in `fxquant.compile`.

    Raises:
        FxQuantError: what `compile` raises for the model, the policy and the data; FXQ301 for data without a sample,
            FXQ111 for an option that means nothing.
    """
    settings = Settings(objective, verify, seconds, most_float, max_batches)
    options: dict[str, Any] = {
        "target": target,
        "concrete_args": concrete_args,
        "leaf_modules": leaf_modules,
        "skip_batchnorm": skip_batchnorm,
        "custom_modules": custom_modules,
    }
    with one_compilation():
        inner = preflight.unwrapped(model, Ledger())
        kept = None if data is None else held(data, inner, example_inputs, max_batches=max_batches)
        calls = None if kept is None else list(kept.calls)
        example = example_call(example_inputs) if example_inputs is not None and kept is None else None
        given = None if example is None else (example[0] or (), example[1] or {})
        compiled = compile_model(
            model, qconfig_mapping, calibration_data=calls, example_inputs=given, strict=strict, **options
        )
        options["target"] = compiled.target  # what auto chose, for all that is tried
        start = start_of(qconfig_mapping, target=compiled.engine)
        evidence = gathered(compiled, kept)
        found, losses = crossings(evidence), Losses(evidence)
        advice = _concluded(losses, found, settings)
        untried = _described(losses, inner, kept, start, settings, advice, found)
        if kept is None or not verify:
            return untried
        return _tried(untried, Bench(model, kept, evidence, options), start, settings)


def _concluded(losses: Losses, found: Sequence[Crossing], settings: Settings) -> tuple[Advice, ...]:
    """Ranked by what each is expected to gain; of two with the same rule the first."""
    if losses.evidence.measures:
        given = [*precision_advice(losses), *slowness_advice(losses.evidence, found)]
    else:
        given = list(weight_advice(losses))
    told = [replace(one, unit=settings.unit, gain=settings.gain(one.sqnr_gain_db, one.seconds_gain)) for one in given]
    distinct: dict[RecipeRule, Advice] = {}
    for one in sorted(told, key=lambda one: -one.gain):
        distinct.setdefault(one.recipe_rule, one)
    return tuple(distinct.values())[:MOST_ADVICE]


def _described(
    losses: Losses,
    model: nn.Module,
    kept: Held | None,
    start: Start,
    settings: Settings,
    advice: tuple[Advice, ...],
    found: tuple[Crossing, ...],
) -> Profile:
    """The profile before anything is tried."""
    evidence = losses.evidence
    notes = () if kept is not None else ("FXQ320 there is no data: only the weights are profiled, nothing is timed",)
    why = "there is no data to try anything on" if kept is None else "nothing was tried: verify=False"
    seconds = sum(evidence.node_seconds.values()) if evidence.node_seconds else None
    return Profile(
        model_name=evidence.compiled.program.model_name,
        policy=start.policy.title,
        target=evidence.compiled.target,
        objective=settings.objective,
        batches=0 if kept is None else len(kept.calls),
        rows=0 if kept is None else kept.rows,
        layers=layers_of(losses, model),
        advice=advice,
        crossings=found,
        notes=notes if kept is None else kept.notes,
        reason=f"FXQ321 the start is kept: {why}",
        output_sqnr_db=None if math.isnan(evidence.output_sqnr_db) else evidence.output_sqnr_db,
        conversion_seconds=None if seconds is None else sum(evidence.conversions.values()),
        node_seconds=seconds,
        outcome=start.changed(()),
    )


def _tried(untried: Profile, bench: Bench, start: Start, settings: Settings) -> Profile:
    verdict = try_out(bench, start, untried.advice, settings)
    return replace(
        untried,
        advice=verdict.advice,
        reason=verdict.reason,
        float_seconds=bench.float_seconds(),
        start=verdict.start,
        best=verdict.best,
        outcome=start.changed(verdict.rules),
    )
