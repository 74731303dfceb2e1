"""Advice put to the test: each change is compiled and measured against the start, within a budget of time."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import quantiles
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from fxquant.compiler import compile as compile_model
from fxquant.errors import FxQuantError
from fxquant.profiling.advice import Advice
from fxquant.profiling.evidence import Evidence
from fxquant.profiling.held import Held
from fxquant.profiling.running import run_afresh
from fxquant.profiling.settings import Settings
from fxquant.profiling.starting import Start
from fxquant.profiling.timing import call_seconds
from fxquant.recipe import RecipeRule

if TYPE_CHECKING:
    from torch import nn

    from fxquant.model import CompiledModel

MOST_EVAL_BYTES = 2**26  # of outputs of the float model that are kept to compare with
LEAST_DB = 0.1  # a change that gains less is no change
LEAST_RATIO = 0.97  # of the latency: within 3 % two timings of one model differ
_TIMED_SECONDS = 0.4
_ALONE = 0.7  # of the time is for changes by themselves, the rest for putting winners together


@dataclass(frozen=True, slots=True)
class Score:
    """One compiled recipe: output SQNR against the float model, and its latency over the start's."""

    sqnr_db: float
    seconds: float  # of a call on the first batch: the lower quartile, as other work on the machine only adds time
    ratio: float  # of that over the start's, the two taken in turns; 1.0 for the start


class Bench:
    """Compiles and measures candidates on the same batches."""

    def __init__(self, model: nn.Module, held: Held, evidence: Evidence, options: Mapping[str, Any]) -> None:
        self.model, self.held, self.options, self.start = model, held, options, evidence.compiled
        self._floating = evidence.floating.graph_module
        self._leaves: list[tuple[Tensor, ...]] = []
        self._expected: list[tuple[Any, ...]] = []
        size = 0
        interpreter = fx.Interpreter(self._floating)
        for args, kwargs in held.calls:
            leaves = self.start.program.signature.leaves(args, kwargs)
            outputs = run_afresh(interpreter, leaves)
            self._leaves.append(leaves)
            self._expected.append(outputs)
            size += sum(value.numel() * value.element_size() for value in outputs if isinstance(value, Tensor))
            if size > MOST_EVAL_BYTES:
                break

    def compile(self, policy: Any) -> CompiledModel:
        """The model by another policy, calibrated on the same batches."""
        made: CompiledModel = compile_model(self.model, policy, calibration_data=list(self.held.calls), **self.options)
        return made

    def sqnr_db(self, compiled: CompiledModel) -> float:
        """Of all float outputs over all batches as one, in dB. NaN where there is none."""
        signal = noise = 0.0
        interpreter = fx.Interpreter(compiled.graph_module)
        for leaves, expected in zip(self._leaves, self._expected, strict=True):
            for left, right in zip(expected, run_afresh(interpreter, leaves), strict=True):
                if _is_comparable(left, right):
                    signal += float(left.double().square().sum())
                    noise += float((left.double() - right.double()).square().sum())
        if noise == 0.0:
            return math.inf if signal else math.nan
        return 10 * math.log10(signal / noise) if signal and math.isfinite(noise) else -math.inf

    def score(self, compiled: CompiledModel) -> Score:
        """Measured now, in turns with the start."""
        leaves = self._leaves[0]
        calls = [lambda: self.start.graph_module.forward(*leaves), lambda: compiled.graph_module.forward(*leaves)]
        with torch.no_grad():
            before, after = call_seconds(calls, seconds=_TIMED_SECONDS)
        ratio = 1.0 if compiled is self.start else quick(after) / quick(before)
        return Score(self.sqnr_db(compiled), quick(after), ratio)

    def float_seconds(self) -> float:
        """Of a call of the float graph on the first batch."""
        with torch.no_grad():
            (taken,) = call_seconds([lambda: self._floating.forward(*self._leaves[0])], seconds=_TIMED_SECONDS)
        return quick(taken)


def quick(seconds: Sequence[float]) -> float:
    """The lower quartile of some timings."""
    return quantiles(seconds, n=4, method="inclusive")[0]


def _is_comparable(left: Any, right: Any) -> bool:
    is_float = isinstance(left, Tensor) and left.is_floating_point()
    return is_float and isinstance(right, Tensor) and left.shape == right.shape


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where trying led: the advice with what was measured, and the rules that together won."""

    advice: tuple[Advice, ...]
    rules: tuple[RecipeRule, ...]  # first match wins; () where the start is kept
    start: Score
    best: Score
    reason: str  # why these rules, or none


def try_out(bench: Bench, start: Start, advice: Sequence[Advice], settings: Settings) -> Verdict:
    """Each change by itself, then the winners one after the other on top of each other. All within `seconds`.

    A change is kept where the objective improves on what was kept before: by 0.1 dB of SQNR, or by 3 % of the latency.
    What is expected to gain nothing by the objective is not tried. Layers that become float may do at most `most_float`
    of the model's multiplications: all of it in float would have the best SQNR.
    """
    trying = _Trying(bench, start, settings)
    told: list[tuple[Advice, Score | None]] = []
    for one in advice:
        score = trying.of((one.recipe_rule,)) if one.gain > 0 and trying.has_time(_ALONE) else None
        told.append(_told(one, score, trying.baseline, settings))
    ranked = sorted(told, key=lambda pair: _rank(pair[0]))
    kept, best = _combined(ranked, trying, settings)
    advised = tuple(one for one, _ in ranked)
    rules = tuple(one.recipe_rule for one in kept)
    return Verdict(advised, rules, trying.baseline, best, _reason(kept, advised, trying.baseline, best, settings))


def _combined(
    ranked: Sequence[tuple[Advice, Score | None]], trying: _Trying, settings: Settings
) -> tuple[list[Advice], Score]:
    """Winners in their order, each kept where it still wins on top of those before it; and the score of all kept."""
    kept: list[Advice] = []
    best = trying.baseline
    for one, alone in ranked:
        is_won = alone is not None and _is_better(alone, trying.baseline, settings)
        if not is_won or sum(other.float_macs for other in (*kept, one)) > settings.most_float:
            continue
        if kept and not trying.has_time():
            break
        score = trying.of(tuple(other.recipe_rule for other in (*kept, one))) if kept else alone
        if isinstance(score, Score) and _is_better(score, best, settings):
            kept, best = [*kept, one], score
    return kept, best


class _Trying:
    """Compiles and scores, and knows how long one such try takes."""

    def __init__(self, bench: Bench, start: Start, settings: Settings) -> None:
        self.began, self.seconds = time.perf_counter(), settings.seconds
        self.bench, self.start, self.baseline = bench, start, bench.score(bench.start)
        self.longest = 0.0

    def has_time(self, share: float = 1.0) -> bool:
        """For one more try as long as the longest so far, in this share of the time."""
        return time.perf_counter() + self.longest < self.began + share * self.seconds

    def of(self, rules: tuple[RecipeRule, ...]) -> Score | str:
        """The score of the start with these rules before its own, or why it cannot be compiled."""
        began = time.perf_counter()
        try:
            return self.bench.score(self.bench.compile(self.start.changed(rules)))
        except FxQuantError as error:
            return f"{error.code} {error.message}"
        finally:
            self.longest = max(self.longest, time.perf_counter() - began)


def _told(one: Advice, score: Score | str | None, baseline: Score, settings: Settings) -> tuple[Advice, Score | None]:
    """The advice with what it gained in place of what was expected, or why it could not be compiled."""
    if score is None:
        return one, None
    if isinstance(score, str):
        return replace(one, refused=score), None
    gain_db = score.sqnr_db - baseline.sqnr_db if math.isfinite(baseline.sqnr_db) else 0.0
    saved = baseline.seconds * (1.0 - score.ratio)
    gain = settings.gain(gain_db, saved)
    return replace(one, gain=gain, sqnr_gain_db=gain_db, seconds_gain=saved, is_verified=True), score


def _rank(one: Advice) -> tuple[bool, bool, float]:
    """What was measured first, the largest gain first; what could not be compiled last."""
    return bool(one.refused), not one.is_verified, -one.gain


def _is_better(score: Score, than: Score, settings: Settings) -> bool:
    if settings.objective == "sqnr":
        return score.sqnr_db >= than.sqnr_db + LEAST_DB
    return score.ratio <= than.ratio * LEAST_RATIO


def _reason(kept: Sequence[Advice], ranked: Sequence[Advice], start: Score, best: Score, settings: Settings) -> str:
    tried = sum(one.is_verified for one in ranked)
    left = sum(not one.is_verified and not one.refused and one.gain > 0 for one in ranked)
    more = f"; {left} more were not tried, the time for it was over" if left else ""
    told = f"output SQNR {start.sqnr_db:.1f} → {best.sqnr_db:.1f} dB, latency × {best.ratio:.2f}"
    if kept:
        names = ", ".join(f"{one.kind} {one.module or one.site}" for one in kept)
        return f"{len(kept)} of {tried} tried changes kept ({names}): {told}{more}"
    if not ranked:
        return "FXQ321 the start is kept: there was nothing to advise"
    if not tried:
        return f"FXQ321 the start is kept: {_untried(left, any(one.refused for one in ranked))}"
    least = f"{LEAST_DB} dB" if settings.objective == "sqnr" else f"{1 - LEAST_RATIO:.0%} of the latency"
    return (
        f"FXQ321 the start is kept: none of {tried} tried changes gained {least}, or too much would become float{more}"
    )


def _untried(left: int, is_refused: bool) -> str:
    """Why not one change was tried to the end."""
    if left:
        return f"{left} changes were not tried, the time for it was over"
    return (
        "nothing that was advised could be compiled" if is_refused else "nothing that is advised gains by the objective"
    )
