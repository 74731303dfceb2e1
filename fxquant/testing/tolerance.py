"""assert_within_tolerance(): a compiled model beside its float one, judged by what was derived, asked, or measured.

A failure says at which layer the error enters, what the ledger knows of it, on which input, and what would mend it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.aliasing import restore_buffers, saved_buffers
from fxquant.blaming import Culprit, Trial
from fxquant.bounds import ErrorBound, error_bound
from fxquant.errors import UsageError
from fxquant.model import CompiledModel
from fxquant.numerics import sqnr_db
from fxquant.structure import flatten
from fxquant.testing.telling import told_call

Metric = Callable[[Any], float]


class ToleranceError(AssertionError):
    """A compiled model is further from its float model than it may be.

    `check` is 'bound', 'graph', 'sqnr' or 'metric'; `culprit` the site at which the error enters, where it was found.
    """

    def __init__(self, check: str, message: str, culprit: Culprit | None) -> None:
        super().__init__(message)
        self.check, self.culprit = check, culprit


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What was measured where everything held."""

    largest_error: float  # of any float output element
    share_of_bound: float | None  # largest error over its bound; None where no bound was asked for
    sqnr_db: float  # of all float outputs as one
    metric_drop: float | None  # float model's metric less the compiled one's


def assert_within_tolerance(
    compiled: CompiledModel,
    float_model: nn.Module,
    inputs: Any,
    *,
    bound: bool = True,
    min_sqnr_db: float | None = None,
    metric: Metric | None = None,
    max_drop: float = 0.0,
) -> Tolerance:
    """Hold a compiled model to its float model on one call, and return what was measured.

    Args:
        compiled: CONVERTED or LOWERED.
        float_model: the model that it was compiled from, in eval mode. It stays as it is.
        inputs: one call's arguments: a tensor, a tuple, a mapping of keywords, or `(args, kwargs)`.
        bound: every output element is within the bound that follows from the scales (`error_bound`). Nobody types in
            this tolerance. Outputs that have no bound fail, unless one of the other two is asked for.
        min_sqnr_db: the least signal-to-quantization-noise ratio of all float outputs, in decibels.
        metric: a number from the model's output, larger is better (accuracy on labels that the function knows).
        max_drop: by how much the compiled model's metric may be below the float model's.

    Raises:
        ToleranceError: an AssertionError that names the layer at which the error enters.
        UsageError: FXQ121 for a metric that gives no finite number.
        UnmeasurableError: FXQ313 while the model is still calibrating.
    """
    __tracebackhide__ = True  # pytest shows the line of the test, not this one
    session = _Session(compiled, float_model, inputs)
    limits = session.check_bound(is_alone=min_sqnr_db is None and metric is None) if bound else None
    if min_sqnr_db is not None:
        session.check_sqnr(min_sqnr_db)
    drop = None if metric is None else session.check_metric(metric, max_drop)
    return session.tolerance(limits, drop)


class _Session:
    """One call of both models, and what is asked of it."""

    def __init__(self, compiled: CompiledModel, float_model: nn.Module, inputs: Any) -> None:
        self.compiled, self.model = compiled, float_model
        self.args, self.kwargs = call_of(inputs)
        own = copy.deepcopy(float_model).eval()
        with torch.no_grad():
            self.expected = own(*copy.deepcopy(self.args), **copy.deepcopy(self.kwargs))
            saved = saved_buffers(compiled.graph_module)  # a model that counts its calls is as if it was not called
            self.actual = compiled(*copy.deepcopy(self.args), **copy.deepcopy(self.kwargs))
            restore_buffers(compiled.graph_module, saved)

    # The three checks -----------------------------------------------------------------------------------------------

    def check_bound(self, *, is_alone: bool) -> ErrorBound:
        __tracebackhide__ = True
        limits = error_bound(self.compiled, (self.args, self.kwargs), model=self.model)
        for site in limits.unexplained:
            row = self.compiled.ledger[site.site]
            told = f"{site.shift:.4g} off the float model on the float model's own inputs, of which its weights' steps "
            told += f"explain all but {site.excess:.4g}: its weights are clipped, or it computes something else"
            self.fail("graph", "the compiled graph is not the model's", Culprit(row, told))
        violation = limits.violation(self.actual, self.expected)
        if violation is not None:
            self.fail("bound", str(violation), self.trial().beyond(limits))
        if is_alone and not limits.is_finite:
            first = limits.unbounded[0] if limits.unbounded else None
            why = "" if first is None else f": {first.reason}"
            culprit = (
                None
                if first is None
                else Culprit(self.compiled.ledger[first.site], f"nothing is promised after it{why}")
            )
            told = "an output has no derived bound; ask for min_sqnr_db= or metric= beside it"
            self.fail("bound", told, culprit)
        return limits

    def check_sqnr(self, least: float) -> None:
        __tracebackhide__ = True
        found = self.sqnr_db(self.actual)
        if not found >= least:
            culprit = self.trial().bisected(lambda output: self.sqnr_db(output) >= least)
            self.fail("sqnr", f"the output's SQNR is {found:.1f} dB, at least {least:g} dB is asked", culprit)

    def check_metric(self, metric: Metric, max_drop: float) -> float:
        __tracebackhide__ = True
        before, after = (_number(metric, output) for output in (self.expected, self.actual))
        if not before - after <= max_drop:
            culprit = self.trial().bisected(lambda output: before - _number(metric, output) <= max_drop)
            told = f"the metric falls from {before:.6g} to {after:.6g}, it may fall by {max_drop:g}"
            self.fail("metric", told, culprit)
        return before - after

    # Measuring ------------------------------------------------------------------------------------------------------

    def trial(self) -> Trial:
        leaves = self.compiled.program.signature.leaves(self.args, self.kwargs)
        return Trial(self.compiled, self.compiled.trace_float(self.model), leaves)

    def pairs(self, output: Any) -> list[tuple[Tensor, Tensor]]:
        """(float, compiled) for each output tensor of floats."""
        sides = zip(flatten(self.expected)[0], flatten(output)[0], strict=True)
        return [(left, right) for left, right in sides if isinstance(left, Tensor) and left.is_floating_point()]

    def sqnr_db(self, output: Any) -> float:
        pairs = self.pairs(output)
        if not pairs:
            return math.inf
        left, right = (torch.cat([tensor.flatten().double() for tensor in side]) for side in zip(*pairs, strict=True))
        return sqnr_db(left, right)

    def tolerance(self, limits: ErrorBound | None, drop: float | None) -> Tolerance:
        errors = [(left.double() - right.double()).abs() for left, right in self.pairs(self.actual)]
        largest = max((float(error.max()) for error in errors if error.numel()), default=0.0)
        share = None if limits is None else limits.share(self.actual, self.expected)
        return Tolerance(largest, share, self.sqnr_db(self.actual), drop)

    def fail(self, check: str, message: str, culprit: Culprit | None) -> None:
        __tracebackhide__ = True
        where = (
            "giving every layer the float model's values does not mend it: what is lost is lost at the output"
            if culprit is None
            else str(culprit)
        )
        call = told_call(self.compiled.program.signature, self.args, self.kwargs)
        raise ToleranceError(check, f"{message}\n  {where}\n  on the input:\n{call}", culprit)


def call_of(inputs: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """(args, kwargs) of one call. FXQ107 for what is none."""
    match inputs:
        case Tensor():
            return (inputs,), {}
        case Mapping():
            return (), inputs
        case (tuple() as args, Mapping() as kwargs):
            return args, kwargs
        case tuple() | list():
            return tuple(inputs), {}
    raise UsageError(
        "FXQ107",
        f"inputs is {type(inputs).__name__}",
        hint="give one call's arguments: a tensor, a tuple, a dict of keywords, or (args, kwargs)",
    )


def _number(metric: Metric, output: Any) -> float:
    """The metric of an output. FXQ121 for what is no finite number; what the metric raises is the user's own."""
    with torch.no_grad():
        found = metric(output)
    if isinstance(found, Tensor) and found.numel() == 1:
        found = found.item()
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        raise UsageError(
            "FXQ121",
            f"the metric gives {found!r:.60} ({type(found).__name__}), which is no finite number",
            hint="return a float, larger is better: lambda output: float((output.argmax(1) == labels).float().mean())",
        )
    return float(found)
