"""profile(): compile, run both graphs over the data, look, conclude, and try out what was concluded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from fxquant import preflight
from fxquant.arguments import example_call
from fxquant.compiler import compile as compile_model
from fxquant.custom import CustomModule
from fxquant.errors import UsageError
from fxquant.ledger import Ledger
from fxquant.measuring import measure
from fxquant.profiling.activations import stream
from fxquant.profiling.advice import Advice
from fxquant.profiling.crossings import crossings
from fxquant.profiling.evidence import Evidence, timed
from fxquant.profiling.held import Held, held
from fxquant.profiling.layers import layers_of
from fxquant.profiling.precision import precision_advice, weight_advice
from fxquant.profiling.result import Profile
from fxquant.profiling.slowness import slowness_advice
from fxquant.profiling.starting import Start, start_of
from fxquant.profiling.trials import Bench, try_out, unit_of
from fxquant.sandbox import one_compilation

OBJECTIVES = ("sqnr", "latency")
_ROWS = 64  # that SQNR is measured on, layer by layer
_TIMED_SECONDS = 1.0
MOST_ADVICE = 24


def profile(
    model: nn.Module,
    data: Any = None,
    *,
    qconfig_mapping: Any = "int8",
    example_inputs: Any = None,
    target: str = "auto",
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
        objective: what advice is ranked by, and what the recipe may not lose: output 'sqnr', or 'latency' of a call on the
            first batch.
        verify: compile and measure each advice; else gains are expected ones, and the recipe is the start.
        seconds: for verifying, in all.
        most_float: share of the model's multiplications that the recipe may make float.
        max_batches: how many batches are used.
        concrete_args, leaf_modules, skip_batchnorm, custom_modules: as in `fxquant.compile`.

    Raises:
        FxQuantError: what `compile` raises for the model, the policy and the data; FXQ301 for data without a sample.
    """
    _check(objective, verify, seconds, most_float, max_batches)
    options = {
        "target": target,
        "concrete_args": concrete_args,
        "leaf_modules": leaf_modules,
        "skip_batchnorm": skip_batchnorm,
        "custom_modules": custom_modules,
    }
    with one_compilation():
        kept = None
        if data is not None:
            kept = held(data, preflight.unwrapped(model, Ledger()), example_inputs, max_batches=max_batches)
        given = example_inputs if kept is None else None if example_inputs is None else example_call(example_inputs)
        calls = None if kept is None else list(kept.calls)
        compiled = compile_model(model, qconfig_mapping, calibration_data=calls, example_inputs=given, **options)
        start = start_of(qconfig_mapping, target=compiled.target)
        evidence = _gathered(compiled, kept)
        found = crossings(evidence)
        advice = _concluded(evidence, found, objective, has_data=kept is not None)
        notes = [*(() if kept is None else kept.notes)]
        if kept is None:
            notes.append("FXQ320 there is no data: only the weights are profiled, and nothing is timed or tried")
        common: dict[str, Any] = {
            "model_name": compiled.program.model_name,
            "policy": start.policy.title,
            "target": compiled.target,
            "objective": objective,
            "batches": 0 if kept is None else len(kept.calls),
            "rows": 0 if kept is None else kept.rows,
            "layers": layers_of(evidence, model),
            "crossings": found,
            "output_sqnr_db": None if math.isnan(evidence.output_sqnr_db) else evidence.output_sqnr_db,
            "conversion_seconds": sum(evidence.conversions.values()) if evidence.node_seconds else None,
            "node_seconds": sum(evidence.node_seconds.values()) if evidence.node_seconds else None,
        }
        if kept is None or not verify or not evidence.is_lowered:
            why = "there is no data to try anything on" if kept is None else "nothing was tried: verify=False"
            reason = f"FXQ321 the start is kept: {why}"
            return Profile(**common, advice=advice, notes=tuple(notes), reason=reason, outcome=start.changed(()))
        return _tried(model, kept, evidence, start, advice, options, common, notes, objective, seconds, most_float)


def _tried(
    model: nn.Module,
    kept: Held,
    evidence: Evidence,
    start: Start,
    advice: tuple[Advice, ...],
    options: Mapping[str, Any],
    common: Mapping[str, Any],
    notes: list[str],
    objective: str,
    seconds: float,
    most_float: float,
) -> Profile:
    bench = Bench(model, kept, evidence.floating.graph_module, evidence.compiled, options)
    verdict = try_out(bench, start, advice, objective=objective, seconds=seconds, most_float=most_float)
    return Profile(
        **common,
        advice=verdict.advice,
        notes=tuple(notes),
        reason=verdict.reason,
        float_seconds=bench.float_seconds(evidence.floating.graph_module),
        start=verdict.start,
        best=verdict.best,
        outcome=start.changed(verdict.rules),
    )


def _check(objective: Any, verify: Any, seconds: Any, most_float: Any, max_batches: Any) -> None:
    """FXQ111 names the first argument that means nothing."""
    wrong = (
        ("objective", objective, objective in OBJECTIVES, f"one of {', '.join(OBJECTIVES)}"),
        ("verify", verify, isinstance(verify, bool), "True or False"),
        ("seconds", seconds, _is_number(seconds) and seconds >= 0, "a number from 0"),
        ("most_float", most_float, _is_number(most_float) and 0 <= most_float <= 1, "a share from 0 to 1"),
        ("max_batches", max_batches, type(max_batches) is int and max_batches >= 1, "a whole number from 1"),
    )
    for name, value, is_right, hint in wrong:
        if not is_right:
            raise UsageError("FXQ111", f"{name}={str(value)[:80]!r}", hint=hint)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _gathered(compiled: Any, kept: Held | None) -> Evidence:
    """Run what there is data for."""
    floating = compiled.trace_float()
    if kept is None:
        return Evidence(compiled, floating)
    signature = compiled.program.signature
    args, kwargs = kept.calls[0]
    inputs = None if args and kwargs else (kwargs or args)
    measured = measure(compiled, inputs=inputs, rows=_ROWS, is_timed=False)
    by_site = {layer.site: layer for layer in measured.layers}
    limits = {
        layer.site: (layer.quant_low, layer.quant_high)
        for layer in measured.layers
        if layer.quant_low is not None and layer.quant_high is not None
    }
    batches = (signature.leaves(*call) for call in kept.calls)
    values = stream(floating.graph_module, batches, limits)
    seconds = timed(compiled, floating, signature.leaves(args, kwargs), _TIMED_SECONDS)
    return Evidence(compiled, floating, by_site, values, *seconds, measured.output_sqnr_db)


def _concluded(evidence: Evidence, found: Any, objective: str, *, has_data: bool) -> tuple[Advice, ...]:
    """Ranked by what each is expected to gain; of two with the same rule the first."""
    from dataclasses import replace

    if not has_data:
        given = list(weight_advice(evidence))
    else:
        given = [*precision_advice(evidence), *slowness_advice(evidence, found)]
    unit = unit_of(objective)
    told = [
        replace(one, unit=unit, gain=one.sqnr_gain_db if objective == "sqnr" else 1e3 * one.seconds_gain)
        for one in given
    ]
    distinct: dict[Any, Advice] = {}
    for one in sorted(told, key=lambda one: -one.gain):
        distinct.setdefault(one.recipe_rule, one)
    return tuple(distinct.values())[:MOST_ADVICE]
