"""@quantization_test: a user's model as a property test. Hypothesis draws inputs; the derived tolerance judges them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from fxquant.compiler import compile as compile_model
from fxquant.errors import UsageError
from fxquant.model import CompiledModel
from fxquant.program import Stage
from fxquant.testing.input_strategies import inputs
from fxquant.testing.statistics import Statistics
from fxquant.testing.tolerance import Metric, assert_within_tolerance

Body = Callable[..., object]
_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]


def quantization_test(
    model: nn.Module | Callable[[], nn.Module],
    qconfig_mapping: Any,
    *,
    bound: bool = True,
    min_sqnr_db: float | None = None,
    metric: Metric | None = None,
    max_drop: float = 0.0,
    max_examples: int | None = None,
    outside: float = 0.1,
    **options: Any,
) -> Callable[[Body], Callable[[], None]]:
    """Turn a model into a property test: it is compiled once, and held to the float model on inputs that are drawn.

        @fxquant.testing.quantization_test(model, "int8", calibration_data=batches)
        def test_the_classifier_survives_int8(compiled, x):
            assert compiled(x).shape == (len(x), 10)

    The body gets the compiled model and the arguments of one call, and may assert more; it may be empty. Inputs come
    from the calibrated ranges and from just outside of them. A failure is shrunk to the smallest input that hypothesis
    finds, and names the layer at which the error enters (see `assert_within_tolerance`).

    Args:
        model: the trained float model in eval mode, or a function without arguments that gives it.
        qconfig_mapping: as for `fxquant.compile`.
        bound, min_sqnr_db, metric, max_drop: as for `assert_within_tolerance`.
        max_examples: how many inputs; None: what the hypothesis profile says.
        outside: how far beyond the calibrated ranges inputs may lie, as a share of their width. What lies outside is
            clipped, so a floor of SQNR wants 0.
        options: of `fxquant.compile`: calibration_data, example_inputs, target, strict, ...

    Raises:
        UsageError: FXQ122 when nothing is asked, or when the body does not take the compiled model first.
    """
    if not bound and min_sqnr_db is None and metric is None:
        raise UsageError("FXQ122", "nothing is tested: no bound, no min_sqnr_db, no metric", hint="leave bound at True")
    limits: dict[str, Any] = {"bound": bound, "min_sqnr_db": min_sqnr_db, "metric": metric, "max_drop": max_drop}
    subject = _Subject(model, qconfig_mapping, options)

    def decorate(body: Body) -> Callable[[], None]:
        _check_body(body)
        statistics = Statistics.of(body)

        @given(st.data())
        def test(data: st.DataObject) -> None:
            compiled, float_model = subject.models()
            call = data.draw(inputs(compiled, outside=outside), label="inputs")
            statistics.add(assert_within_tolerance(compiled, float_model, (call.args, call.kwargs), **limits))
            body(compiled, *call.args, **call.kwargs)

        made = settings(deadline=None, suppress_health_check=_SLOW, **_examples(max_examples))(test)
        for name in ("__name__", "__qualname__", "__doc__", "__module__"):
            setattr(made, name, getattr(body, name, None))
        made.pytestmark = list(getattr(body, "pytestmark", ()))  # type: ignore[attr-defined]
        return made

    return decorate


def _examples(most: int | None) -> dict[str, Any]:
    phases = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)  # a failure is explained by its layer
    return {"phases": phases} if most is None else {"phases": phases, "max_examples": most}


@dataclass
class _Subject:
    """The model of one test, made and compiled when it is first asked for, and then kept."""

    model: nn.Module | Callable[[], nn.Module]
    policy: Any
    options: dict[str, Any]
    _made: tuple[CompiledModel, nn.Module] | None = field(default=None, init=False)

    def models(self) -> tuple[CompiledModel, nn.Module]:
        """(compiled, float)."""
        if self._made is None:
            float_model = self.model if isinstance(self.model, nn.Module) else self.model()
            compiled = compile_model(float_model, self.policy, **self.options)
            if compiled.stage is Stage.PREPARED:
                raise UsageError(
                    "FXQ122",
                    f"'{type(float_model).__name__}' is not calibrated: its policy is static and there is no data",
                    hint="quantization_test(model, mapping, calibration_data=batches)",
                )
            self._made = compiled, float_model
        return self._made


def _check_body(body: Body) -> None:
    """FXQ122 unless the body can be called with the compiled model and arguments."""
    kinds = [parameter.kind for parameter in inspect.signature(body).parameters.values()]
    if not kinds or kinds[0] in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD):
        name = getattr(body, "__name__", "the test")
        told = f"'{name}' takes no compiled model"
        raise UsageError("FXQ122", told, hint=f"def {name}(compiled, *args): assert what else must hold, or pass")
